"""What a detection head tells, place by place, and which place has to answer for which true box.

FCOS: every cell of every level of a pyramid is a place that may tell one box, with a logit a class, how far the box reaches
to each side, and how near to its middle the place is. All of it is plain tensors, so that a loss, with the truth or
without, can be made of it image by image, and differentiated to the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hardsight.core.errors import ShapeError

Truth = list[dict[str, Tensor]]
"""A dict an image: boxes [N, 4], x1 y1 x2 y2 in pixels, and labels [N]; N may be 0."""

REACH = 1.5
"""A place answers for a box only if the box's middle is within so many cells of it."""
RANGE = (4.0, 8.0)
"""The farthest side of a level's boxes, in cells: the finest level has no lower limit, the coarsest no upper one."""


@dataclass(frozen=True, eq=False)
class Places:
    """What a head makes of B images at P places: an output that can be indexed by images.

    classes [B, P, K]: logits. sides [B, P, 4]: how far the box reaches to the left, top, right and bottom of the place, in
    cells of its level, at least 0. centre [B, P]: logit of the centre-ness. cells [P, 4]: x1 y1 x2 y2 in pixels. levels: how
    many places each has, finest first. size: (H, W) of the images.
    """

    classes: Tensor
    sides: Tensor
    centre: Tensor
    cells: Tensor
    levels: tuple[int, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises `ShapeError` where the tensors don't speak of the same images and places."""
        count, places = (*self.classes.shape, 0, 0)[:2]
        wanted = {"sides": [count, places, 4], "centre": [count, places], "cells": [places, 4]}
        found = {name: list(getattr(self, name).shape) for name in wanted}
        wrong = [f"{name} {found[name]}, not {want}" for name, want in wanted.items() if found[name] != want]
        if self.classes.dim() != 3 or sum(self.levels) != places:
            wrong.append(f"levels of {sum(self.levels)} places")
        if wrong:
            raise ShapeError(
                f"places with classes {list(self.classes.shape)} (images, places, classes) have {'; '.join(wrong)}"
            )

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: Tensor | slice) -> Places:
        """Those of some images."""
        return Places(self.classes[index], self.sides[index], self.centre[index], self.cells, self.levels, self.size)

    def each(self, function: Callable[[Tensor], Tensor]) -> Places:
        """With `function` applied to every tensor."""
        classes, sides, centre, cells = (function(one) for one in (self.classes, self.sides, self.centre, self.cells))
        return Places(classes, sides, centre, cells, self.levels, self.size)

    def numel(self) -> int:
        """How many numbers it is."""
        return self.classes.numel() + self.sides.numel() + self.centre.numel()

    @property
    def finite(self) -> Tensor:
        """Mask [B]: the images of which all that was told is finite."""
        told = (self.classes, self.sides, self.centre)
        return torch.stack([torch.isfinite(one).flatten(1).all(1) for one in told]).all(0)

    @property
    def scores(self) -> Tensor:
        """[B, P, K]: the geometric mean of a class's probability and the centre-ness."""
        return (self.classes.sigmoid() * self.centre.sigmoid()[..., None]).sqrt()

    @property
    def boxes(self) -> Tensor:
        """[B, P, 4] in pixels; they may reach past the image."""
        middle, extent = middles(self.cells), extents(self.cells)
        return torch.cat([middle - self.sides[..., :2] * extent, middle + self.sides[..., 2:] * extent], dim=-1)


class Duty(NamedTuple):
    """What each place of each image has to tell: labels [B, P], -1 for nothing; boxes [B, P, 4], arbitrary where nothing."""

    labels: Tensor
    boxes: Tensor


def middles(boxes: Tensor) -> Tensor:
    """[..., 2]: x and y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def extents(boxes: Tensor) -> Tensor:
    """[..., 2]: width and height."""
    return boxes[..., 2:] - boxes[..., :2]


def padded(target: Truth, like: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [B, M, 4] and labels [B, M] of all images, M those of the image with most, at least 1; no box has the label -1."""
    most = max([1, *(len(one["labels"]) for one in target)])
    boxes = like.new_zeros(len(target), most, 4)
    labels = torch.full((len(target), most), -1, dtype=torch.int64, device=like.device)
    for place, one in enumerate(target):
        boxes[place, : len(one["boxes"])] = one["boxes"].to(boxes)
        labels[place, : len(one["labels"])] = one["labels"].to(labels)
    return boxes, labels


def reach(places: Places, boxes: Tensor) -> Tensor:
    """How far each box [..., 4] reaches to the left, top, right and bottom of each place, in cells: [..., 4] broadcast."""
    middle, extent = middles(places.cells), extents(places.cells)
    return torch.cat([(middle - boxes[..., :2]) / extent, (boxes[..., 2:] - middle) / extent], dim=-1)


def duties(places: Places, target: Truth) -> Duty:
    """Which true box each place answers for: the smallest of those that it lies in, near the middle of, and that suit its level.

    Source: Tian et al., ICCV 2019 (FCOS), section 3, with the centre sampling of its journal version; equal to torchvision's.
    """
    boxes, labels = padded(target, places.sides)
    sides = reach(places, boxes[:, :, None])  # [B, M, P, 4]
    apart = ((middles(boxes)[:, :, None] - middles(places.cells)) / extents(places.cells)).abs().amax(-1)
    farthest = sides.amax(-1)
    low, high = (torch.full_like(places.cells[:, 0], limit) for limit in RANGE)
    low[: places.levels[0]] = 0
    high[len(high) - places.levels[-1] :] = torch.inf
    fits = (labels[..., None] >= 0) & (sides.amin(-1) > 0) & (apart < REACH) & (farthest > low) & (farthest < high)
    area = torch.where(fits, extents(boxes).prod(-1)[..., None], torch.inf)
    least, chosen = area.min(1)  # [B, P]
    told = torch.where(torch.isfinite(least), labels.gather(1, chosen), -1)
    return Duty(told, boxes.gather(1, chosen[..., None].expand(-1, -1, 4)))


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4]."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    return both / (extents(boxes).prod(-1)[:, None] + extents(others).prod(-1) - both).clamp_min(1e-9)
