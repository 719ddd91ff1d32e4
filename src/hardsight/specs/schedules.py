"""Numbers that change while a run goes on: a weight, a momentum, how strong views are. Each is a function of `When`."""

from __future__ import annotations

import math
from typing import Protocol

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.specs.catalog import register


class Schedule(Protocol):
    def __call__(self, when: When) -> float: ...


@register
def constant(value: float) -> Schedule:
    """The same number throughout."""
    return lambda when: value


@register
def rising(start: float, end: float) -> Schedule:
    """Half a cosine from start to end over the run; BYOL's momentum is rising(0.996, 1)."""
    return lambda when: end - (end - start) * (1 + math.cos(math.pi * when.progress)) / 2


@register
def linear(start: float, end: float) -> Schedule:
    """A straight line from start to end over the run."""
    return lambda when: start + (end - start) * when.progress


@register
def ramp(start: float, end: float, epochs: int) -> Schedule:
    """From start to end over the first `epochs` epochs, one value an epoch, and end from then on; DINO's is ramp(0.04, 0.07, 30)."""
    if epochs < 1:
        raise SpecError(f"ramp: epochs is {epochs}; it is at least 1")
    return lambda when: start + (end - start) * min(1.0, when.epoch / max(1, epochs - 1))


@register
def stairs(start: float, end: float, count: int) -> Schedule:
    """From start to end in `count` equal stairs of equal length: the first is at start, the last one stair short of end.

    DynACL's strength is stairs(1, 0, 20): 1000 epochs, changed every 50 (Luo et al., ICLR 2023, equation 5).
    """
    if count < 1:
        raise SpecError(f"stairs: count is {count}; it is at least 1")
    return lambda when: start + (end - start) * math.floor(when.epoch * count / when.epochs) / count
