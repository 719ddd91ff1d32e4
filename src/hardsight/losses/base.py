"""What a loss is: a pure function of outputs and targets, with one value per image, which an attack maximizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

IGNORE = 255
"""The mask value of a pixel without a class."""


EMBEDDING = "embedding"
"""The target of losses on features; "label", "mask" and "depth" are those of losses on a task's output."""


class Loss(Protocol):
    """(output, target, progress in [0, 1]) -> [B]; higher is worse for the model."""

    def __call__(self, output: Any, target: Any, progress: float = 1.0) -> Tensor: ...


def fits(loss: Any, target: str) -> bool:
    """Whether a loss can be used with this target ("label", "mask", "depth", "embedding"); without `targets` it fits any."""
    return target in getattr(loss, "targets", (target,))


def only_for(loss: Any, *targets: str) -> Loss:
    """Marks the loss as one that reads only these targets, and returns it."""
    loss.targets = targets
    return loss


def targeted(loss: Any) -> Loss:
    """Marks the loss as targeted: its target is a pair (current, wanted), as made by aim=rival(k), towards(k) or partner."""
    loss.pair = True
    return loss


def with_own_target(loss: Any) -> Loss:
    """Marks the loss as one with a target of its own, so that its value measures how close an attack is to that target."""
    loss.own_target = True
    return loss


def from_clean(loss: Any) -> Loss:
    """Marks the loss as one that compares the output with the model's own clean output, not with a label: aim=itself."""
    loss.clean = True
    return loss


def signed(loss: Any) -> Loss:
    """Marks the loss as zero exactly on the decision boundary, and positive where the model is wrong."""
    loss.signed = True
    return loss


def made_of(loss: Any, parts: Callable[[Any, Any], Tensor]) -> Loss:
    """Marks the loss as made of parts: (output, target) -> [B, ...], as `Reading` describes them."""
    loss.parts = parts
    return loss


def right_pixels(output: Tensor, target: Tensor) -> Tensor:
    """Mask [B, H, W]: where the largest of logits [B, K, H, W] is that of target [B, H, W]; False where that is no class.

    Of equal logits the first counts, as in argmax; NaN is never right. On a CPU the largest logit and its index take fifty
    times as long as the largest alone, so the right one is compared with the largest other, and only ties need indices.
    """
    output = output.detach()
    if output.device.type != "cpu" or not len(output):
        greatest = output.max(1)
        return (greatest.indices == target) & ~greatest.values.isnan()
    valid = (target >= 0) & (target < output.shape[1])
    label = torch.where(valid, target, 0).long()[:, None]
    right = output.gather(1, label).squeeze(1)
    other = torch.stack([one.scatter(0, place, -torch.inf).amax(0) for one, place in zip(output, label, strict=True)])
    correct, tied = right > other, right == other
    if bool(tied.any()):
        correct[tied] = output.movedim(1, -1)[tied].argmax(-1) == target[tied]
    return correct & valid


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Per image, the mean of `values` [B, ...] over the pixels where `valid` is True; 0 where there are none."""
    values = torch.where(valid, values, torch.zeros_like(values)).flatten(1)
    return values.sum(1) / valid.flatten(1).sum(1).clamp_min(1)
