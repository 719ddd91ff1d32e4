"""L1: the absolute changes of all values add up to at most eps; few values change, but each by much.

The projection onto ball and pixel range together is exact: in L1, the two projections in sequence waste most of the budget.
Source: Croce and Hein, "Mind the box", ICML 2021, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_eps, few_at_a_time, per_image, unit
from hardsight.attacks.threats.hyperplanes import step_l1
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register

TURNS, NEAR = 100, 1e-14
"""Maximum number of iterations of the projection (a dozen are usual), and its tolerance relative to eps and to a pixel."""
ASKS = 8
"""Iterations between two questions whether it has converged: on a GPU the host waits for each answer."""


@dataclass(frozen=True)
class L1:
    eps: float
    share: float
    norm: ClassVar[str] = "L1"

    @few_at_a_time
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The closest point of ball and pixel range: sign(d) * clip(|d| - shrink, 0, room), with the smallest possible
        shrink.
        """
        delta = (x_adv - x).flatten(1).double()
        base = x.flatten(1).double()
        room = torch.where(delta > 0, 1 - base, base)
        reach = delta.abs()
        shrink = _shrink(reach, room, self.eps)
        moved = torch.minimum((reach - shrink[:, None]).clamp_min(0), room) * delta.sign()
        return (base + moved).to(x.dtype).view_as(x).clamp(0, 1)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        radius = seeds.uniform((len(x),), rng, x) ** (1 / x[0].numel())
        return (x + self._direction(x, rng) * per_image(radius * self.eps, x)).clamp(0, 1)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Normal noise, projected: it changes few values, but each by much. The start of AutoAttack."""
        return self.project(x + seeds.normal(x.shape, rng, x), x)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The whole step on the largest gradients, in equal parts: `share` of all values, at least one.

        differs: share 0 is the true steepest step, on one single value, which the pixel range cuts off at once. A small
        share is what makes it an effective attack (Tramer and Boneh, NeurIPS 2019, section 4.1, who take 0.01).
        """
        flat = grad.flatten(1)
        if x is not None:
            here = x.flatten(1)
            flat = torch.where((flat > 0) & (here < 1) | (flat < 0) & (here > 0), flat, 0.0)
        most = max(1, math.ceil(self.share * flat.shape[1]))
        top = flat.abs().topk(most, dim=1).indices
        step = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return unit(step, 1).view_as(grad)

    @few_at_a_time
    def largest(self, grad: Tensor, share: Tensor) -> Tensor:
        """The whole step, in equal parts, on a share [B] of values, of largest gradient (Croce and Hein, algorithm 1)."""
        sizes = grad.flatten(1).abs()
        count = sizes.shape[1]
        rank = ((1 - share) * count).clamp(0, count - 1).long()
        least = _at(sizes, rank)
        return unit(torch.where(grad.abs() >= per_image(least, grad), grad.sign(), 0.0), 1)

    def values(self, x: Tensor) -> int:
        """Number of values of an image that may move."""
        return x[0].numel()

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def dual(self, grad: Tensor) -> Tensor:
        return grad.flatten(1).abs().amax(1)

    @few_at_a_time
    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return step_l1(x, w, b)

    def _direction(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """Uniform on the L1 sphere: normalized Laplace draws."""
        draws = seeds.uniform(x.shape, rng, x) * 2 - 1
        return unit(-draws.sign() * torch.log1p(-draws.abs().clamp_max(1 - 1e-7)), 1)


def _at(values: Tensor, rank: Tensor) -> Tensor:
    """[B, 1]: the value of rank [B] among values [B, N] in ascending order; a CPU does not need to sort the others."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values.gather(1, rank[:, None])
    return torch.stack([row.kthvalue(int(place) + 1).values for row, place in zip(values, rank, strict=True)])[:, None]


def _shrink(reach: Tensor, room: Tensor, eps: float) -> Tensor:
    """[B]: the smallest s >= 0 with sum(clip(reach - s, 0, room)) <= eps, to rounding.

    The sum decreases in s and is piecewise linear, so that Newton's method reaches it in a few steps; if a step leaves the
    bracket, or the sum is constant there, the bracket is halved. A quarter of the time of sorting the points where the slope
    changes.
    """
    low, high = torch.zeros_like(reach[:, 0]), reach.amax(1)
    shrink, converged = low, torch.zeros_like(low, dtype=torch.bool)
    open_, asks = ~converged, 1 if reach.device.type == "cpu" else ASKS
    for turn in range(TURNS):
        left = reach - shrink[:, None]
        over = torch.minimum(left.clamp_min(0), room).sum(1) - eps
        slope = ((left > 0) & (left < room)).sum(1)
        low, high = torch.where(over > 0, shrink, low), torch.where(over > 0, high, shrink)
        converged = (over.abs() <= NEAR * eps) | (over < 0) & (shrink == 0)
        open_ &= ~converged & (high - low > NEAR * high)
        if (turn + 1) % asks == 0 and not bool(open_.any()):
            break
        step = shrink + over / slope.clamp_min(1)
        inside = (slope > 0) & (step > low) & (step < high)
        shrink = torch.where(open_, torch.where(inside, step, (low + high) / 2), shrink)
    return torch.where(converged, shrink, high)


@register
def l1(eps: float, share: float = 0.01) -> Threat:
    """The absolute changes of all values add up to at most eps, pixels in [0, 1]: l1(12).

    share: share of the values that one steepest step moves (0: one value).
    """
    if not 0 <= share <= 1:
        raise SpecError(f"l1: share is {share:g}, but it is a share of the values, from 0 to 1")
    return L1(check_eps(eps), share)
