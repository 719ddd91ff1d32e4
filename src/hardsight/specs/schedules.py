"""Schedules: functions of `When` for numbers that change during training (a weight, a momentum, a strength of views)."""

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
    """The same number during the whole run."""
    return lambda when: value


@register
def rising(start: float, end: float) -> Schedule:
    """Half a cosine period from start to end over the run; BYOL's momentum is rising(0.996, 1)."""
    return lambda when: end - (end - start) * (1 + math.cos(math.pi * when.progress)) / 2


@register
def linear(start: float, end: float) -> Schedule:
    """A straight line from start to end over the run."""
    return lambda when: start + (end - start) * when.progress


@register
def ramp(start: float, end: float, epochs: int) -> Schedule:
    """Linear from start to end over the first `epochs` epochs, one value each, then end; DINO's is ramp(0.04, 0.07, 30)."""
    if epochs < 1:
        raise SpecError(f"ramp: epochs is {epochs}; it must be at least 1")
    return lambda when: start + (end - start) * min(1.0, when.epoch / max(1, epochs - 1))


@register
def stairs(start: float, end: float, count: int) -> Schedule:
    """From start to end in `count` equal steps of equal length: the first value is start, the last is one step before end.

    DynACL's strength is stairs(1, 0, 20): 1000 epochs, changed every 50 (Luo et al., ICLR 2023, equation 5).
    """
    if count < 1:
        raise SpecError(f"stairs: count is {count}; it must be at least 1")
    return lambda when: start + (end - start) * math.floor(when.epoch * count / when.epochs) / count
