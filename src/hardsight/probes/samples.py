"""What a linear classifier is fitted on: the pooled features of images, or dense features at pixels that are drawn from them.

A 1x1 convolution whose logits are upsampled is, at each pixel, a linear classifier of the dense features upsampled to there: the
order of two linear maps doesn't matter. So a sample of pixels, instead of all in every step, gives the head of the same loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE
from hardsight.encoders.base import Features
from hardsight.probes.bank import Bank
from hardsight.tasks import classify, heads
from hardsight.tasks.base import Task
from hardsight.tasks.official import TRAINS

PIXELS, EACH, VALUES = 2**16, 2**12, 2**27
"""Pixels that are drawn: at least so many, so many a class, and at most so many values of features; at least one an image."""


class Samples(NamedTuple):
    """x [N, D]: features; y [N]: labels; image [N]: the place in the bank of the image that a sample is from."""

    x: Tensor
    y: Tensor
    image: Tensor


def is_linear(head: nn.Module, task: Task) -> bool:
    """Whether the head is a linear classifier that the task trains by the cross-entropy."""
    released = not TRAINS.isdisjoint(getattr(task, "bugs", ()))
    return isinstance(head, classify.LinearHead | heads.LinearHead) and not released


def samples(head: nn.Module, task: Task, bank: Bank, seed: int) -> Samples:
    """One sample an image for a head on pooled features; for one on dense features labelled pixels, as many of each image."""
    everything = torch.arange(len(bank))
    if not isinstance(head, heads.LinearHead):
        features, target = bank.batch(everything, dense=False)
        return Samples(features.pooled, target[task.target], everything)
    wide, classes = head.linear.in_channels, head.linear.out_channels
    each = max(1, min(max(PIXELS, EACH * classes), VALUES // wide) // len(bank))
    rng, parts = seeds.generator("pixels", seed), []
    for part in everything.split(task.training.batch):
        features, target = bank.batch(part, dense=True)
        parts.append(_drawn(heads.on_grid(features, head.layers), target[task.target], part, each, rng))
    found = Samples(*map(torch.cat, zip(*parts, strict=True)))
    if not len(found.y):
        raise DataError(
            f"no pixel of the {len(bank)} training images has a class, so no {task.name} head can be trained on them"
        )
    return found


def _drawn(features: Features, mask: Tensor, part: Tensor, each: int, rng: torch.Generator) -> Samples:
    """`each` labelled pixels of every image that has any, drawn with replacement."""
    assert features.dense is not None
    labelled = (mask != IGNORE).flatten(1).cpu()
    some = labelled.any(1)
    if not bool(some.any()):
        return Samples(mask.new_zeros(0, features.dense.shape[1], dtype=torch.float32), mask.new_zeros(0), part[:0])
    places = torch.multinomial(labelled[some].float(), each, replacement=True, generator=rng).to(mask.device)
    labels = mask.flatten(1)[some.to(mask.device)].gather(1, places)
    x = at_pixels(features, some.to(mask.device), places)
    return Samples(x.flatten(0, 1), labels.flatten(), part[some].repeat_interleave(each))


def at_pixels(features: Features, some: Tensor, places: Tensor) -> Tensor:
    """[n, P, D]: the dense features upsampled to pixels as `to_pixels` does it; places [n, P] are row * width + column."""
    assert features.dense is not None
    wide, (top, left), (high, across) = features.size[1], features.origin, features.covered
    rows, columns = (places // wide + 0.5 - top) / high, (places % wide + 0.5 - left) / across
    grid = torch.stack([columns, rows], -1)[:, :, None] * 2 - 1
    found = F.grid_sample(features.dense[some], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[..., 0].movedim(1, 2)
