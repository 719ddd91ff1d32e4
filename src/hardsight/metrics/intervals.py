"""95% confidence intervals over images and over seeds; deterministic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hardsight.metrics import Metric

Z95 = 1.959963984540054


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share, hits of n; valid at 0 and 1 and for small n, where the normal one has width zero.

    Source: E. B. Wilson, JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


@functools.lru_cache(maxsize=2)
def picks(n: int, draws: int, seed: int) -> np.ndarray:
    """[draws, n]: how often each of n images is drawn."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def bootstrap(
    counts: dict[str, np.ndarray],
    figure: Callable[[dict[str, np.ndarray]], np.ndarray],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95% percentile interval over images, from `resampled`; NaN if no draw is finite."""
    return _percentiles(resampled(counts, figure, draws, seed))


def bootstraps(
    counts: dict[str, np.ndarray], totals: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], keys: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """`bootstrap` of several figures of `totals`, from the same draws."""
    values = totals(_sums(counts, 1000, 0))
    return {key: _percentiles(values[key]) for key in keys}


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def resampled(
    counts: dict[str, np.ndarray],
    figure: Callable[[dict[str, np.ndarray]], np.ndarray],
    draws: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """[draws]: `figure` of the counts' sums over n images drawn with replacement; the same images for every cell of n.

    figure: sums, each [draws, ...] -> [draws]. Also works for figures that are not means over images, such as mIoU.
    """
    return figure(_sums(counts, draws, seed))


def _sums(counts: dict[str, np.ndarray], draws: int, seed: int) -> dict[str, np.ndarray]:
    times = picks(len(next(iter(counts.values()))), draws, seed)
    return {key: np.tensordot(times, value.astype(np.float64), axes=(1, 0)) for key, value in counts.items()}


def drawn(metric: Metric, counts: dict[str, np.ndarray], key: str) -> np.ndarray:
    """[draws]: a metric's figure over bootstrap draws of the images; draw k takes the same images in every cell of n images."""
    if metric.drawn:
        return metric.drawn(counts)[key]
    return resampled(counts, lambda sums: metric.totals(sums)[key])


def quantile(values: np.ndarray, share: float) -> tuple[float, float, float]:
    """(quantile, low, high): the value below which that share of n values is, with its interval from order statistics.

    Values may be infinite. The bounds are the values at ranks n p -+ 1.96 sqrt(n p (1 - p)), rounded up; distribution-free.
    Source: W. J. Conover, Practical Nonparametric Statistics, section 3.2.
    """
    ordered, n = np.sort(values.astype(np.float64)), len(values)
    if not n:
        return float("nan"), float("nan"), float("nan")
    half = Z95 * np.sqrt(n * share * (1 - share))
    ranks = (np.ceil(n * share), np.ceil(n * share - half), np.ceil(n * share + half))
    low_half, low, high = (float(ordered[int(np.clip(rank, 1, n)) - 1]) for rank in ranks)
    middle = (low_half + float(ordered[n // 2])) / 2 if share == 0.5 and n % 2 == 0 else low_half
    return middle, low, high


STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 %, for 1 to 10 degrees of freedom; for more, 1.96 + 2.5 / freedom is within 0.02 of it."""


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else Z95 + 2.5 / freedom


def mean_over_runs(values: Sequence[float]) -> tuple[float, float]:
    """The mean over independent runs (seeds) and the half width of its 95% interval by Student's t; NaN for a single run."""
    n = len(values)
    middle = float(np.mean(values))
    if n < 2:
        return middle, float("nan")
    return middle, student(n - 1) * float(np.std(values, ddof=1)) / n**0.5
