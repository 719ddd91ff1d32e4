"""What searches share that minimize a distance plus a penalty on the loss: Adam's moments, and the constant between the two."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.threats.base import per_image

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
"""Adam's decay rates and the constant in its denominator (Kingma and Ba, ICLR 2015)."""


def adam(state: SimpleNamespace, grad: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Adds the gradient to the moments `mean` and `square` of the state; returns (mean, root of square), both unbiased.

    count: number of gradients so far, this one included; or one of each image, [B].
    """
    state.mean = FIRST * state.mean + (1 - FIRST) * grad
    state.square = SECOND * state.square + (1 - SECOND) * grad**2
    first, second = 1 - FIRST**count, 1 - SECOND**count
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        first, second = per_image(first, grad), per_image(second, grad)
    return state.mean / first, (state.square / second).sqrt_().add_(TINY)


def begin_rounds(x: Tensor, constant: float) -> SimpleNamespace:
    """The state of a binary search for the constant c of `distance + c penalty`: one value a round, each image by itself."""
    each = torch.zeros_like(x.flatten(1)[:, 0])
    return SimpleNamespace(
        c=each + constant, low=each.clone(), high=each + torch.inf, hit=each > 0, count=each.clone(), round=each.clone()
    )


def next_round(state: SimpleNamespace, ends: Tensor) -> None:
    """The constant's next value where a round ends [B]: smaller if it has misclassified its image (`hit`), else larger.

    Halfway between the bounds, or ten times as large as long as no value has been enough. Source: Carlini and Wagner, S&P
    2017, section VI.D.
    """
    state.high = torch.where(ends & state.hit, torch.minimum(state.high, state.c), state.high)
    state.low = torch.where(ends & ~state.hit, torch.maximum(state.low, state.c), state.low)
    bounded = torch.isfinite(state.high)
    following = torch.where(bounded, (state.low + state.high) / 2, 10 * state.c)
    state.c = torch.where(ends, following, state.c)
    state.round = state.round + ends.to(state.round.dtype)
    state.count, state.hit = torch.where(ends, 0.0, state.count), state.hit & ~ends
