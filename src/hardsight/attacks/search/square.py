"""Square Attack: black-box random search. It changes a random window of the image and keeps changes that raise the loss.

It needs no gradient, so it works where gradients mislead. What a change looks like depends on the norm: squares of one
colour (Linf), or pyramids that take over the budget of a second window (L2, L1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.l1 import L1
from hardsight.attacks.threats.l2 import L2
from hardsight.attacks.threats.linf import Linf
from hardsight.attacks.threats.masked import Masked
from hardsight.core import seeds, tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading
from hardsight.specs.catalog import register

BENDS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The numbers of changes, out of 10000, after which the share of the image that a window covers is halved."""


@register
def square(queries: int = 5000, p: float = 0.8, rescale: bool = False) -> Search:
    """Square: random search over windows that shrink; it uses losses and errors, never a gradient.

    An image whose error reaches 1 leaves the batch: that is part of the algorithm. Where no error does (masks, depth),
    changes that raise the loss are kept, and all queries are used. queries: forward passes per image, including that of the
    first point. p: share of the image that the first windows cover. rescale: whether the schedule, designed for 10000
    queries, is rescaled to `queries`; AutoAttack leaves it unchanged.

    Source: Andriushchenko et al., ECCV 2020; for L1, Croce and Hein, "Mind the box", ICML 2021. differs: AutoAttack does not
    count the first point as a query; tiles and windows of images of any size and shape are whole. As in AutoAttack, a window
    never touches the last row and column while it is smaller than the image, a window has the same place in all images of a
    batch, and the random numbers depend on which images are left, so the batch affects the result. The frames of a clip are
    treated as channels. In a masked linf, windows can be anywhere, and only their part in the region counts.
    """
    if queries < 1 or not 0 < p <= 1:
        raise SpecError(f"square: queries is {queries} and p is {p:g}; queries must be at least 1, and p in (0, 1]")

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        moves = _moves_in(threat)
        best, places = Best(x), torch.arange(len(x), device=x.device)
        with torch.no_grad():
            here = threat.project(start, x) if start is not None else moves.first(x, threat, rng)
            reading = objective(here, 0.0)
            best.see(here.clone(), reading)
            loss = torch.where(torch.isfinite(reading.loss), reading.loss, -torch.inf)
            broken, count = torch.zeros_like(loss, dtype=torch.bool), 0  # since `here` was last recorded
            ends, shares = _kinds(reading.error)

            def record(here: Tensor) -> None:
                """Records the points of highest loss so far, whose error is 0; a query at a time would copy every image."""
                error = None if best.error is None else torch.zeros_like(loss)
                best.see(here, Reading(loss, error), places, count)
                best.halted[places] |= broken

            for t in range(queries - 1):
                if ends and reading.error is not None and not objective.coupled:
                    active = reading.error < 1
                    places, objective, x = places[active], objective[active], x[active]
                    here, loss, broken = here[active], loss[active], broken[active]
                    if not len(places):
                        break
                share = p / 2 ** sum((int(t / (queries - 1) * 10000) if rescale else t) > bend for bend in BENDS)
                window, values = moves.next(x, here, threat, moves.side(share, x), rng)
                before = here[window].clone()
                here[window] = values
                reading = objective(here, (t + 1) / queries)
                finite = torch.isfinite(reading.loss)
                taken, (ends, some) = (reading.loss > loss) & finite, _kinds(reading.error)
                if reading.error is not None:
                    taken |= reading.error >= 1
                shares |= some
                if ends or shares:
                    there = here.clone()
                    if count:
                        here[window] = before
                        record(here.clone())
                        here[window] = there[window]
                        broken, count = torch.zeros_like(broken), 0
                    best.see(there, reading, places)
                else:
                    broken, count = broken | ~finite, count + 1
                here[window] = tree.where(taken, values, before)
                loss = torch.where(taken, reading.loss, loss)
            if count and len(places):
                record(here)
        return best.result()

    return counted(search, queries, gradients=0, check=_moves_in)


def _kinds(error: Tensor | None) -> tuple[bool, bool]:
    """Whether any error is 1, and whether any is a share (of pixels)."""
    if error is None or not bool((error > 0).any()):
        return False, False
    return bool((error >= 1).any()), bool(((error > 0) & (error < 1)).any())


@dataclass(frozen=True)
class Moves:
    """The proposals of the search in one norm: where to start, and what to try next, with windows of that many rows.

    next: an index of the images' values, and new ones for it.
    """

    first: Callable[[Tensor, Threat, torch.Generator | None], Tensor]
    next: Callable[[Tensor, Tensor, Threat, int, torch.Generator | None], tuple[Any, Tensor]]
    side: Callable[[float, Tensor], int]


def _moves_in(threat: Threat) -> Moves:
    known = {Linf: Moves(_stripes, _one_colour, _side), L2: _pyramids(2), L1: _pyramids(1)}
    if isinstance(threat, Masked) and type(threat.threat) is Linf:
        return _within(known[Linf])
    if type(threat) not in known:
        raise SpecError(f"square knows linf (masked too), l2 and l1, but this threat is {threat.norm}; use one of those")
    return known[type(threat)]


def _within(moves: Moves) -> Moves:
    """The same proposals, of which only the part in the region is kept."""

    def first(x: Tensor, threat: Any, rng: torch.Generator | None) -> Tensor:
        return threat.project(moves.first(x, threat.threat, rng), x)

    def next_(x: Tensor, here: Tensor, threat: Any, side: int, rng: torch.Generator | None) -> tuple[Any, Tensor]:
        window, values = moves.next(x, here, threat.threat, side, rng)
        there = here.clone()
        there[window] = values
        return ..., threat.project(there, x)

    return Moves(first, next_, moves.side)


def _side(share: float, x: Tensor) -> int:
    return min(max(round(math.sqrt(share * x.shape[-2] * x.shape[-1])), 1), *x.shape[-2:])


def _odd_side(share: float, x: Tensor) -> int:
    return min(max(round(math.sqrt(share * x.shape[-2] * x.shape[-1])), 3) | 1, *x.shape[-2:])


def _stripes(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    """Vertical stripes, one pixel wide, of eps or -eps in each channel."""
    return (x + threat.eps * _signs((*x.shape[:-2], 1, x.shape[-1]), rng, x)).clamp(0, 1)


def _one_colour(x: Tensor, here: Tensor, threat: Threat, side: int, rng: torch.Generator | None) -> tuple[Any, Tensor]:
    """One window, in which each channel moves to eps or -eps."""
    (window,) = _windows(1, x, side, rng)
    step = 2 * threat.eps * _signs((*x.shape[1:-2], 1, 1), rng, x)
    clean = x[window]
    return window, (here[window] + step).clamp_(clean - threat.eps, clean + threat.eps).clamp_(0, 1)


def _pyramids(order: int) -> Moves:
    """A pyramid in each channel of one window, as high as its own, a second window's and the free budget together allow."""

    def size(values: Tensor, dims: tuple[int, ...]) -> Tensor:
        return values.square().sum(dims, keepdim=True).sqrt() if order == 2 else values.abs().sum(dims, keepdim=True)

    def allowed(delta: Tensor, x: Tensor, threat: Threat) -> Tensor:
        if order == 1:
            return threat.project(x + delta, x)
        return (x + delta / (per_image(size(delta.flatten(1), (1,)), x) + 1e-12) * threat.eps).clamp(0, 1)

    def some(x: Tensor, side: int, rng: torch.Generator | None) -> Tensor:
        upright = not bool(seeds.uniform((1,), rng, torch.empty(0)) > 0.5)
        return _pyramid(side, order, upright, x.device).to(x.dtype) * _signs((*x.shape[:-2], 1, 1), rng, x)

    def first(x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
        delta, side = torch.zeros_like(x), max(min(x.shape[-2:]) // 5, 1)
        tops, lefts = (range(length % side // 2, length - side + 1, side) for length in x.shape[-2:])
        for top in tops:
            for left in lefts:
                delta[..., top : top + side, left : left + side] = some(x, side, rng)
        return allowed(delta, x, threat)

    def next(x: Tensor, here: Tensor, threat: Threat, side: int, rng: torch.Generator | None) -> tuple[Any, Tensor]:
        delta, eps, channels = here - x, x.new_tensor(threat.eps), math.prod(x.shape[1:-2])
        window, other = _windows(2, x, side, rng)
        both = x.new_zeros(x.shape[-2:])
        both[window] = both[other] = 1
        used, budget = per_image(size(delta.flatten(1), (1,)), x), size(delta * both, (-2, -1))
        new = some(x, side, rng) + delta[window] / (1e-12 + size(delta[window], (-2, -1)))
        free = (eps**order - used**order).clamp_min(0) / channels + budget**order
        height = free.sqrt() if order == 2 else free * channels
        delta[other] = 0
        delta[window] = new / (1e-12 + size(new, (-2, -1))) * height
        return ..., allowed(delta, x, threat)

    return Moves(first, next, _odd_side)


@functools.lru_cache(maxsize=64)
def _pyramid(side: int, order: int, upright: bool, device: torch.device) -> Tensor:
    """[side, side] of norm 1: a pyramid above an inverted one, made of stacked steps of height 1/k^2 (L2) or 1/k^4 (L1)."""

    def half(rows: int) -> Tensor:
        across = (torch.arange(side, device=device) - side // 2).abs()
        down = (torch.arange(rows, device=device) - rows // 2).abs()
        away = torch.maximum(down[:, None], across[None])
        hill = torch.zeros(rows, side, device=device)
        for step in range(max(rows, side) // 2 + 1):
            hill += (away <= step) / torch.tensor(step + 1.0, device=device) ** (2 if order == 2 else 4)
        return hill / size(hill)

    def size(values: Tensor) -> Tensor:
        return values.square().sum().sqrt() if order == 2 else values.abs().sum()

    both = torch.cat([half(side // 2), -half(side - side // 2)])
    both = both / size(both)
    return both if upright else both.T.contiguous()


def _windows(count: int, x: Tensor, side: int, rng: torch.Generator | None) -> list[tuple]:
    """Random windows of that side, at the same place in all images: indices of the last two dimensions."""
    room = torch.tensor([length - side for length in x.shape[-2:]] * count)
    corners = (room * seeds.uniform((2 * count,), rng, torch.empty(0))).long().tolist()
    return [
        (..., slice(top, top + side), slice(left, left + side))
        for top, left in zip(corners[::2], corners[1::2], strict=True)
    ]


def _signs(shape: tuple[int, ...], rng: torch.Generator | None, like: Tensor) -> Tensor:
    return (2 * seeds.uniform(shape, rng, like) - 1).sign()
