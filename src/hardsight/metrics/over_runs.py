"""Statistics over training runs: ratios of differences, slopes and rank correlations, each with a 95% interval.

The unit is a seed, not an image: what differs between two runs of the same recipe is part of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hardsight.metrics.intervals import mean_over_runs, student

DRAWS = 2000


class Estimate(NamedTuple):
    """A value with its 95% interval, over n units; NaN bounds where n is too small for one, infinite ones where nothing bounds it."""

    value: float
    low: float
    high: float
    n: int


def mean(values: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's interval."""
    middle, half = mean_over_runs(values)
    return Estimate(middle, middle - half, middle + half, len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """mean(above) / mean(below) over paired seeds, with Fieller's interval: gap closure.

    Where the mean of `below` does not differ from 0, no interval is bounded and the ratio is undefined: NaN within infinite
    bounds. Fieller's interval is used, and no bootstrap, because of three seeds there are only ten different resamples, too
    few for 95 %, and because it tells where the ratio is undefined.
    Source: E. C. Fieller, J. R. Stat. Soc. B 16 (1954); for paired values, with the covariance of both means.
    """
    a, b, n = np.asarray(above, float), np.asarray(below, float), len(above)
    value = float(a.mean() / b.mean()) if b.mean() else math.nan
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    t, cov = student(n - 1), np.cov(a, b) / n
    square = b.mean() ** 2 - t**2 * cov[1, 1]
    if not square > 0:
        return Estimate(math.nan, -math.inf, math.inf, n)
    middle = a.mean() * b.mean() - t**2 * cov[0, 1]
    root = math.sqrt(max(0.0, middle**2 - square * (a.mean() ** 2 - t**2 * cov[0, 0])))
    return Estimate(value, float((middle - root) / square), float((middle + root) / square), n)


def slope(x: Sequence[float], runs: np.ndarray) -> Estimate:
    """Least-squares slope of values [seeds, len(x)] over x: one slope a seed, and Student's interval over the seeds."""
    centred = np.asarray(x, float) - np.mean(x)
    return mean((runs @ centred / (centred @ centred)).tolist())


def ranks(values: Sequence[float]) -> np.ndarray:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def spearman(
    x: Sequence[float], y: Sequence[float], groups: Sequence[object], draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation over runs, with a percentile bootstrap over `groups`, such as the arms of the runs.

    Whole groups are drawn, since the seeds of one arm are not independent of each other. NaN where one of both is constant;
    its bounds are NaN with fewer than four groups, of which too few different samples can be drawn.
    """
    a, b, owner = np.asarray(x, float), np.asarray(y, float), np.asarray([str(one) for one in groups])
    names = np.unique(owner)
    value = _correlation(a, b)
    if len(names) < 4 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, len(a))
    members = [np.flatnonzero(owner == name) for name in names]
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        pick = np.concatenate([members[place] for place in rng.integers(len(names), size=len(names))])
        found.append(_correlation(a[pick], b[pick]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(a))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(ranks(x.tolist()), ranks(y.tolist()))[0, 1])
