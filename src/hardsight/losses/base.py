"""What a loss is: a pure function from outputs and targets to one number an image, that an attack raises."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

IGNORE = 255
"""The mask value of a pixel without a class."""


EMBEDDING = "embedding"
"""The target of losses on features, as "label", "mask" and "depth" are those of losses on a task's output."""


class Loss(Protocol):
    """(output, target, progress in [0, 1]) -> [B]; greater is worse for the model."""

    def __call__(self, output: Any, target: Any, progress: float = 1.0) -> Tensor: ...


def fits(loss: Any, target: str) -> bool:
    """Whether a loss can be raised against this target ("label", "mask", "depth", "embedding"); one that says nothing fits any."""
    return target in getattr(loss, "targets", (target,))


def only_for(loss: Any, *targets: str) -> Loss:
    """The loss, marked as one that reads only these targets."""
    loss.targets = targets
    return loss


def aimed(loss: Any) -> Loss:
    """The loss, marked as one whose target is a pair, (what is, what is wanted): aim=rival(k), towards(k) or partner."""
    loss.pair = True
    return loss


def wishing(loss: Any) -> Loss:
    """The loss, marked as one that leads somewhere of its own accord, so that its value tells how far an attack has come."""
    loss.wish = True
    return loss


def from_clean(loss: Any) -> Loss:
    """The loss, marked as one that compares the output with the model's own clean one, and not with a label: aim=itself."""
    loss.clean = True
    return loss


def signed(loss: Any) -> Loss:
    """The loss, marked as one that is zero exactly on the decision boundary, and positive where the model is wrong."""
    loss.signed = True
    return loss


def right_pixels(output: Tensor, target: Tensor) -> Tensor:
    """Mask [B, H, W]: where the greatest of logits [B, K, H, W] is that of target [B, H, W]; never where that is no class.

    Of equal logits the first counts, as argmax has it; NaN is never right. On a CPU the greatest logit and its place take fifty
    times as long as the greatest alone, so the right one is held against the greatest other, and only ties ask for places.
    """
    output = output.detach()
    if output.device.type != "cpu" or not len(output):
        greatest = output.max(1)
        return (greatest.indices == target) & ~greatest.values.isnan()
    valid = (target >= 0) & (target < output.shape[1])
    label = torch.where(valid, target, 0).long()[:, None]
    right = output.gather(1, label).squeeze(1)
    other = torch.stack([one.scatter(0, place, -torch.inf).amax(0) for one, place in zip(output, label, strict=True)])
    told, tied = right > other, right == other
    if bool(tied.any()):
        told[tied] = output.movedim(1, -1)[tied].argmax(-1) == target[tied]
    return told & valid


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Per image the mean of `values` [B, ...] over the pixels where `valid` holds; 0 where none does."""
    values = torch.where(valid, values, torch.zeros_like(values)).flatten(1)
    return values.sum(1) / valid.flatten(1).sum(1).clamp_min(1)
