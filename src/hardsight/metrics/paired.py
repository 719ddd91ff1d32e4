"""Paired comparisons of encoders on the same images: tests, intervals of differences, Holm's correction, ranks and ties.

Two intervals that overlap say little about a difference: on the same images two encoders fail together, and the difference is
known far better than either figure. So a share of images (accuracy) is compared by McNemar's exact test, with Newcombe's
interval of the difference; any other figure (mIoU, RMSE, mAP) by a bootstrap whose draws are the same images for both. Over
all pairs of a ranking the p-values are corrected by Holm's method, so that with 95% no pair is wrongly called different.

Sources: McNemar, Psychometrika 12 (1947), exact by the binomial distribution; Newcombe, Statistics in Medicine 17 (1998),
method 10; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 13; Holm, Scandinavian Journal of
Statistics 6 (1979); ranks from pairwise differences: Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardsight.core.errors import DataError
from hardsight.metrics import Counts, Metric
from hardsight.metrics.intervals import Z95, drawn, wilson

LEVEL = 0.05
"""The share of rankings in which any pair at all is wrongly called different."""


@dataclass(frozen=True)
class Difference:
    """b minus a of one figure on the same n images, in the figure's own unit, with its 95% interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True)
class Standing:
    """Each encoder's position in a ranking, all int [E].

    place: 1 + how many are better by value. low, high: the interval of the rank, 1 + how many are significantly better, and
    E - how many are significantly worse; with 95% it holds the true rank of every encoder at once. group: from 1; a new group
    begins only where every encoder above differs from every one below, so two that do not differ are never apart.
    """

    place: np.ndarray
    low: np.ndarray
    high: np.ndarray
    group: np.ndarray


def mcnemar(first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
    """Two-sided exact p-values of McNemar's test, of any shape: `first` and `second` images that only one of two got right."""
    first, second = np.broadcast_arrays(np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64))
    total, least = first + second, np.minimum(first, second)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total.max(initial=0) + 1)))])  # log k!
    found = np.ones(total.shape)
    for n in np.unique(total):
        at, k = total == n, np.arange(n // 2 + 1)
        tail = np.cumsum(np.exp(logs[n] - logs[k] - logs[n - k] - n * math.log(2)))
        found[at] = np.minimum(1.0, 2 * tail[least[at]])
    return found


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """The 95% interval of share b minus share a of the same images, from how many both, one or neither got right."""
    n = both + only_a + only_b + neither
    if not n:
        return -1.0, 1.0
    b, a = (both + only_b) / n, (both + only_a) / n
    (low_b, high_b), (low_a, high_a) = wilson(both + only_b, n), wilson(both + only_a, n)
    across = both * neither - only_a * only_b
    across = max(across - n / 2, 0) if across > 0 else across
    under = math.sqrt((both + only_a) * (both + only_b) * (only_a + neither) * (only_b + neither))
    phi = across / under if under else 0.0

    def width(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    return b - a - width(b - low_b, high_a - a), b - a + width(high_b - b, a - low_a)


def normal(z: np.ndarray) -> np.ndarray:
    """Two-sided p-values of standard normal z, of any shape."""
    return np.vectorize(lambda one: math.erfc(abs(one) / math.sqrt(2)), otypes=[float])(z)


def difference(metric: Metric, a: Counts, b: Counts, key: str | None = None) -> Difference:
    """b minus a of a figure (None: the headline) whose counts are of the same images in the same order.

    Raises `DataError` for unlike numbers of images. A bootstrap without any spread (one image) says nothing: p is 1.
    """
    key = key or metric.headline
    n = len(next(iter(a.values())))
    if n != len(next(iter(b.values()))):
        raise DataError(f"a paired comparison needs the same images: {n} and {len(next(iter(b.values())))} are given")
    value = metric.summary(b)[key] - metric.summary(a)[key]
    if metric.shares:
        right = [metric.totals(counts)[key] > 0.5 for counts in (a, b)]
        only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        both = int((right[0] & right[1]).sum())
        low, high = newcombe(both, only_a, only_b, n - both - only_a - only_b)
        return Difference(value, low, high, float(mcnemar(only_a, only_b)), n)
    error = float(errors_of(np.stack([drawn(metric, counts, key) for counts in (a, b)]))[0, 1])
    p = float(normal(np.array(value / error))) if error > 0 else 1.0
    half = Z95 * error if error > 0 else math.inf
    return Difference(value, value - half, value + half, p, n)


def errors_of(draws: np.ndarray) -> np.ndarray:
    """[E, E]: the bootstrap's standard error of every difference, from draws [E, D] of the same images; NaN draws are left out."""
    kept = draws[:, np.isfinite(draws).all(0)]
    if kept.shape[1] < 2:
        return np.zeros((len(draws), len(draws)))
    centred = kept - kept.mean(1, keepdims=True)
    across = centred @ centred.T / (kept.shape[1] - 1)
    own = np.diag(across)
    squared = own[:, None] + own[None, :] - 2 * across
    return np.sqrt(np.where(squared > 1e-12 * (own[:, None] + own[None, :]), squared, 0.0))


def share_tests(right: np.ndarray) -> np.ndarray:
    """[E, E]: McNemar's p-value of every pair, from bool [E, N]: which images each encoder got right."""
    hits = right.astype(np.float32)
    only = np.rint(hits @ (1 - hits).T).astype(np.int64)
    above = np.triu_indices(len(right), 1)
    found = np.ones(only.shape)
    found[above] = mcnemar(only[above], only.T[above])
    return np.minimum(found, found.T)


def bootstrap_tests(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """[E, E]: the p-value of every pair, from figures [E] and the standard errors of their differences.

    differs: from counting draws, whose smallest p-value, 2 / draws, is above what Holm's method asks for over many pairs;
    this is the normal test with the bootstrap's standard error.
    """
    apart = np.abs(values[:, None] - values[None, :])
    z = np.divide(apart, errors, out=np.zeros_like(apart), where=(errors > 0) & np.isfinite(apart))
    return normal(z)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values [m]: those below 0.05 are the rejected ones."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    found = np.empty(len(p))
    found[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return found


def differing(p: np.ndarray) -> np.ndarray:
    """bool [E, E]: which pairs differ, from their p-values [E, E], after Holm's correction over all pairs."""
    above = np.triu_indices(len(p), 1)
    found = np.zeros(p.shape, dtype=bool)
    found[above] = holm(p[above]) < LEVEL
    return found | found.T


def standing(values: np.ndarray, differ: np.ndarray, better: str) -> Standing:
    """Places, rank intervals and tie groups of figures [E] ("higher" or "lower" is better), from which pairs differ [E, E]."""
    quality = np.where(np.isfinite(values), values if better == "higher" else -values, -np.inf)
    above = quality[None, :] > quality[:, None]  # [i, j]: j is better than i
    low, high = 1 + (differ & above).sum(1), len(values) - (differ & above.T).sum(1)
    order = np.argsort(-quality, kind="stable")
    alike = ~differ[np.ix_(order, order)]
    reach = np.array([np.flatnonzero(row)[-1] if row.any() else place for place, row in enumerate(alike)], dtype=int)
    ends = np.maximum.accumulate(np.maximum(reach, np.arange(len(values)))) if len(values) else reach
    group = np.empty(len(values), dtype=int)
    group[order] = 1 + np.concatenate([[0], np.cumsum(ends[:-1] == np.arange(len(values) - 1))]) if len(values) else group
    return Standing(1 + above.sum(1), low, high, group)
