"""Learning rate schedules: their value is a factor on the optimizer's lr, per optimizer step.

Any schedule can be used (`constant(1)` too); this module has the usual learning rate schedules.
"""

from __future__ import annotations

import math

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule


@register
def cosine(end: float = 0.0) -> Schedule:
    """Cosine decay from 1 to `end` over the run (Loshchilov & Hutter, ICLR 2017, without restarts)."""
    return lambda when: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * when.progress))


@register
def drops(at: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Starts at 1 and is multiplied by `factor` at each of these shares of the run; He et al.'s schedule is drops([0.5,
    0.75]).
    """
    if any(not 0 < share < 1 for share in at):
        raise SpecError(f"drops: at is {list(at)}; it must be shares of the run, between 0 and 1")
    return lambda when: factor ** sum(when.progress >= share for share in at)


@register
def warmup(then: Schedule = cosine(), share: float = 0.05, epochs: int | None = None) -> Schedule:
    """Linear warm-up over the first share of the run's steps, at least one step; then `then` over the remaining steps.

    epochs: the length in epochs, instead of the share. The value at the first step is one over the number of warm-up steps.
    """
    if not 0 <= share < 1:
        raise SpecError(f"warmup: share is {share:g}; it must be a share of the run, from 0 to below 1")

    def value(when: When) -> float:
        length = share * when.steps if epochs is None else epochs * when.steps / when.epochs
        rising = max(1, int(length))
        if when.step < rising:
            return (when.step + 1) / rising
        return then(when._replace(step=when.step - rising, steps=max(1, when.steps - rising)))

    return value
