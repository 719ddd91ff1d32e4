"""The output of a detection head, place by place, and which place is assigned to which true box.

FCOS: every cell of every level of a feature pyramid is a place (a location) that can predict one box: one logit per class,
the distances to the sides of the box, and how close the place is to its centre. All of it is plain tensors, so that a loss,
with or without the ground truth, can be computed image by image, and differentiated with respect to the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hardsight.core.errors import ShapeError

Truth = list[dict[str, Tensor]]
"""One dict per image: boxes [N, 4], x1 y1 x2 y2 in pixels, and labels [N]; N may be 0."""

REACH = 1.5
"""A place is assigned to a box only if the box's centre is within this many cells of it."""
RANGE = (4.0, 8.0)
"""Limits of a level's boxes by their farthest side, in cells: the finest level has no lower limit, the coarsest no upper."""


@dataclass(frozen=True, eq=False)
class Places:
    """The output of a head for B images at P places; it can be indexed by images.

    classes [B, P, K]: logits. sides [B, P, 4]: distances from the place to the left, top, right and bottom of its box, in
    cells of its level, at least 0. centre [B, P]: logit of the centre-ness. cells [P, 4]: x1 y1 x2 y2 in pixels. levels:
    number of places of each level, finest first. size: (H, W) of the images.
    """

    classes: Tensor
    sides: Tensor
    centre: Tensor
    cells: Tensor
    levels: tuple[int, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises `ShapeError` if the tensors do not have the same images and places."""
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
        """The output for some of the images."""
        return Places(self.classes[index], self.sides[index], self.centre[index], self.cells, self.levels, self.size)

    def each(self, function: Callable[[Tensor], Tensor]) -> Places:
        """The same with `function` applied to every tensor."""
        classes, sides, centre, cells = (function(one) for one in (self.classes, self.sides, self.centre, self.cells))
        return Places(classes, sides, centre, cells, self.levels, self.size)

    def numel(self) -> int:
        """The total number of predicted values."""
        return self.classes.numel() + self.sides.numel() + self.centre.numel()

    @property
    def finite(self) -> Tensor:
        """Mask [B]: the images of which all predictions are finite."""
        predictions = (self.classes, self.sides, self.centre)
        return torch.stack([torch.isfinite(one).flatten(1).all(1) for one in predictions]).all(0)

    @property
    def scores(self) -> Tensor:
        """[B, P, K]: the geometric mean of a class's probability and the centre-ness."""
        return (self.classes.sigmoid() * self.centre.sigmoid()[..., None]).sqrt()

    @property
    def boxes(self) -> Tensor:
        """[B, P, 4] in pixels; they may extend beyond the image."""
        middle, extent = middles(self.cells), extents(self.cells)
        return torch.cat([middle - self.sides[..., :2] * extent, middle + self.sides[..., 2:] * extent], dim=-1)


class Assignment(NamedTuple):
    """The target of each place per image: labels [B, P], -1 for no box; boxes [B, P, 4], arbitrary where there is none."""

    labels: Tensor
    boxes: Tensor


def middles(boxes: Tensor) -> Tensor:
    """[..., 2]: x and y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def extents(boxes: Tensor) -> Tensor:
    """[..., 2]: width and height."""
    return boxes[..., 2:] - boxes[..., :2]


def padded(target: Truth, like: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [B, M, 4] and labels [B, M] of all images, M the largest number of boxes (at least 1); padding has label -1."""
    most = max([1, *(len(one["labels"]) for one in target)])
    boxes = like.new_zeros(len(target), most, 4)
    labels = torch.full((len(target), most), -1, dtype=torch.int64, device=like.device)
    for place, one in enumerate(target):
        boxes[place, : len(one["boxes"])] = one["boxes"].to(boxes)
        labels[place, : len(one["labels"])] = one["labels"].to(labels)
    return boxes, labels


def reach(places: Places, boxes: Tensor) -> Tensor:
    """Distances of each place to the left, top, right and bottom of each box [..., 4], in cells: [..., 4] broadcast."""
    middle, extent = middles(places.cells), extents(places.cells)
    return torch.cat([(middle - boxes[..., :2]) / extent, (boxes[..., 2:] - middle) / extent], dim=-1)


def assign(places: Places, target: Truth) -> Assignment:
    """The true box of each place: the smallest that contains the place, has its centre near the place, and suits its level.

    Source: Tian et al., ICCV 2019 (FCOS), section 3, with the centre sampling of its journal version; equal to
    torchvision's.
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
    found = torch.where(torch.isfinite(least), labels.gather(1, chosen), -1)
    return Assignment(found, boxes.gather(1, chosen[..., None].expand(-1, -1, 4)))


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4]."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    return both / (extents(boxes).prod(-1)[:, None] + extents(others).prod(-1) - both).clamp_min(1e-9)
