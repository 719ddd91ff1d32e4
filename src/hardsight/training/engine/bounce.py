"""A quirk of a released code, as a schedule of the learning rate: a cosine that is over before the run is."""

from __future__ import annotations

import math

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule


@register
def bounce(replays: int = 3) -> Schedule:
    """lr_bounce: half a cosine from 1 to 0 over one `replays`-th of the run, then up again, then down, to its end.

    What CF-AMC-SSL's free scripts do: their cosine is as long as one step a batch, and moves at every replay. With 3 replays
    the rate goes 1, 0, 1, 0; with an even number the run ends at the greatest rate. The corrected schedule is cosine().
    """
    if replays < 1:
        raise SpecError(f"bounce: replays is {replays}; it is at least 1")
    return lambda when: (1 + math.cos(math.pi * when.progress * replays)) / 2
