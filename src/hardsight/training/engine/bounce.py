"""A quirk of a released code, as a learning rate schedule: a cosine that ends before the run does."""

from __future__ import annotations

import math

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule


@register
def bounce(replays: int = 3) -> Schedule:
    """lr_bounce: half a cosine from 1 to 0 over one `replays`-th of the run, then up to 1 again, then down, until the end.

    This is what CF-AMC-SSL's free scripts do: their cosine is sized for one step per batch, and advances at every replay.
    With 3 replays the rate goes 1, 0, 1, 0; with an even number the run ends at the highest rate. The corrected schedule is
    cosine().
    """
    if replays < 1:
        raise SpecError(f"bounce: replays is {replays}; it must be at least 1")
    return lambda when: (1 + math.cos(math.pi * when.progress * replays)) / 2
