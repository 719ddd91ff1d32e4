"""A patch: one square of the image may change, to any values, at a given place or at any place that the attacker chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_count, no_hyperplane
from hardsight.attacks.threats.places import gain, stride
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class Patch:
    eps: float
    place: tuple[float, float] | None = None
    sparse: ClassVar[bool] = True
    spatial: ClassVar[bool] = True
    hyperplanes: ClassVar[bool] = False

    @property
    def norm(self) -> str:
        return "patch" if self.place is None else f"patch at ({self.place[0]:g}, {self.place[1]:g})"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The closest point: the square that gains most takes the values of x_adv, clipped to the pixel range."""
        return self._put(x_adv.clamp(0, 1), x, self._sums(gain(x_adv, x)).flatten(1).argmax(1))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """A square of random values, at a random place if the place is free."""
        return self._put(seeds.uniform(x.shape, rng, x), x, self._random_place(x, rng))

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """A square of random corners of the pixel range, at a random place if the place is free."""
        return self._put((seeds.uniform(x.shape, rng, x) >= 0.5).to(x.dtype), x, self._random_place(x, rng))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        height, width = self._sides(grad)
        return stride(grad, self._most(grad) / max(height * width * grad[0, ..., 0, 0].numel(), 1), self.eps)

    def size(self, delta: Tensor) -> Tensor:
        """The side of the smallest square, at its place, that contains every change."""
        changed = (delta != 0).flatten(1, -3).any(1)
        (top, bottom), (left, right) = _extent(changed.any(2)), _extent(changed.any(1))
        if self.place is None:
            side = torch.maximum(bottom - top, right - left)
        else:
            sides = torch.arange(1, max(changed.shape[1:]) + 1, device=delta.device)
            first, left_edge = (_begin(n, sides, share) for n, share in zip(changed.shape[1:], self.place, strict=True))
            held = (first <= top[:, None]) & (bottom[:, None] <= first + sides)
            held &= (left_edge <= left[:, None]) & (right[:, None] <= left_edge + sides)
            side = (~held).sum(1) + 1  # squares at one place are nested, so all that are too small come first
        return torch.where(changed.flatten(1).any(1), side, 0).to(delta.dtype)

    def dual(self, grad: Tensor) -> Tensor:
        """For steps that move a value by at most 1: the sum over the strongest square, divided by eps."""
        return self._most(grad) / max(self.eps, 1)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise no_hyperplane("patch")

    def _sides(self, x: Tensor) -> tuple[int, int]:
        """The square's height and width, at most the image's."""
        return min(int(self.eps), x.shape[-2]), min(int(self.eps), x.shape[-1])

    def _sums(self, values: Tensor) -> Tensor:
        """[B, H - height + 1, W - width + 1]: the sums over the square at each place, -inf if not allowed; in float64."""
        height, width = self._sides(values)
        sums = values.double().flatten(1, -3).sum(1).unfold(-1, width, 1).sum(-1).unfold(-2, height, 1).sum(-1)
        if self.place is None:
            return sums
        row, column = (
            int(_begin(n, torch.tensor(side), share))
            for n, side, share in zip(values.shape[-2:], (height, width), self.place, strict=True)
        )
        only = torch.full_like(sums, -torch.inf)
        only[:, row, column] = sums[:, row, column]
        return only

    def _put(self, new: Tensor, x: Tensor, place: Tensor) -> Tensor:
        """x with the square at `place` [B], counted row by row, taken from `new`."""
        height, width = self._sides(x)
        across = x.shape[-1] - width + 1
        rows = _span(torch.div(place, across, rounding_mode="floor"), height, x.shape[-2])
        columns = _span(place % across, width, x.shape[-1])
        square = rows[:, :, None] & columns[:, None, :]
        return torch.where(square.view(len(x), *[1] * (x.dim() - 3), *square.shape[1:]), new, x)

    def _random_place(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """[B]: a random allowed place of the square."""
        free = torch.isfinite(self._sums(torch.zeros_like(x))).flatten(1).to(x.dtype)
        return (free * (1 + seeds.uniform(free.shape, rng, x))).argmax(1)

    def _most(self, grad: Tensor) -> Tensor:
        """[B]: the largest sum of absolute gradients over a square."""
        return self._sums(grad.abs()).flatten(1).amax(1).to(grad.dtype)


def _begin(length: int, side: Tensor, share: float) -> Tensor:
    """Start of a span of length `side` that leaves this share of the free space before it."""
    return ((length - side).clamp_min(0).double() * share + 0.5).floor().long()


def _span(begin: Tensor, side: int, length: int) -> Tensor:
    """Mask [B, length]: the `side` values that start at `begin` [B]."""
    at = torch.arange(length, device=begin.device)
    return (at >= begin[:, None]) & (at < begin[:, None] + side)


def _extent(marks: Tensor) -> tuple[Tensor, Tensor]:
    """[B] each: the index of the first marked value of masks [B, N], and the index after the last."""
    marks = marks.int()
    return marks.argmax(1), marks.shape[1] - marks.flip(1).argmax(1)


@register
def patch(eps: int, place: tuple[float, float] | None = None) -> Threat:
    """One square of eps by eps pixels changes, to any values in [0, 1]: patch(16); in a clip the same square in every frame.

    place: share of the free height above it and of the free width left of it; (0.5, 0.5) is the centre and (0, 0) the upper
    left corner. Without a place the attacker chooses one per image: a random place to start from, then the place where the
    changes so far and the next step have the largest effect. Restarts try more places; a union of patches at places tries
    only those.

    Source of the free place: Croce et al., "Sparse-RS", AAAI 2022, section 4; of the steps: `l0`.
    """
    if place is not None and not all(0 <= share <= 1 for share in place):
        raise SpecError(f"patch: place is {place}, but it must be two shares from 0 to 1, such as (0.5, 0.5), the centre")
    return Patch(check_count(eps, "patch", "the pixels of a side"), place and (place[0], place[1]))  # type: ignore[return-value]
