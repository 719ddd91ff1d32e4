"""How the learning rate goes: schedules whose value is a factor of the optimizer's lr, counted in optimizer steps.

Any schedule will do (`constant(1)` too); these are the ones that learning rates are known by.
"""

from __future__ import annotations

import math

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule


@register
def cosine(end: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `end` over the run (Loshchilov & Hutter, ICLR 2017, without restarts)."""
    return lambda when: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * when.progress))


@register
def drops(at: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """1, and times `factor` at each of these shares of the run; He et al.'s steps are drops([0.5, 0.75])."""
    if any(not 0 < share < 1 for share in at):
        raise SpecError(f"drops: at is {list(at)}; it is shares of the run, between 0 and 1")
    return lambda when: factor ** sum(when.progress >= share for share in at)


@register
def warmup(then: Schedule = cosine(), share: float = 0.05, epochs: int | None = None) -> Schedule:
    """A straight rise over the first share of the run's steps, at least one; after it `then`, over the steps that are left.

    epochs: in place of the share, the length in epochs; the first step's value is one over the number of rising steps.
    """
    if not 0 <= share < 1:
        raise SpecError(f"warmup: share is {share:g}; it is a share of the run, from 0 to below 1")

    def value(when: When) -> float:
        length = share * when.steps if epochs is None else epochs * when.steps / when.epochs
        rising = max(1, int(length))
        if when.step < rising:
            return (when.step + 1) / rising
        return then(when._replace(step=when.step - rising, steps=max(1, when.steps - rising)))

    return value
