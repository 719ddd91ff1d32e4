"""Shared by criteria over pairs of views: which pairs exist, and how many images a batch needs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hardsight.core.errors import SpecError


def across(online: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Every view of the online branch with every other view of the target branch.

    The target's views are the first ones of the online branch; `SpecError` where there is no pair.
    """
    pairs = [(one, two) for v, one in enumerate(online) for w, two in enumerate(target) if v != w]
    return _some(pairs, len(online))


def among(views: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """All pairs of two views, in order; `SpecError` where there are fewer than two views."""
    return _some(list(itertools.combinations(views, 2)), len(views))


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean(0)


def need_batch(z: Tensor, name: str) -> None:
    """`SpecError` unless the batch z [B, ...] has at least two images: one image has no variance."""
    if len(z) < 2:
        raise SpecError(f"{name} computes statistics over the batch, and this batch has {len(z)} image; it needs at least 2")


def _some(pairs: list[tuple[Tensor, Tensor]], views: int) -> list[tuple[Tensor, Tensor]]:
    if not pairs:
        raise SpecError(f"this loss compares views of an image, and there is only {views}; it needs at least 2")
    return pairs
