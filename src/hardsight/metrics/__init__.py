"""From additive per-image counts to the standard metrics and their confidence intervals; numpy only.

A task stores, per image, counts or sums that can be added over any set of images; a `Metric` turns these sums into standard
figures. Means, set-level figures (mIoU), intervals and worst cases are all computed here from the stored counts, without new
forward passes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardsight.core.errors import SpecError, nearest
from hardsight.metrics.intervals import bootstrap, bootstraps, wilson

Counts = dict[str, np.ndarray]
"""Counts by name, each [n, ...] with the images first."""


def counts_in(rows: Mapping[str, np.ndarray]) -> Counts:
    """The task's counts among the columns of a cell's rows."""
    return {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith("counts.")}


METRICS = ("classify", "segment", "depth", "detect")


@dataclass(frozen=True)
class Metric:
    """How figures are computed from a task's counts.

    labels: key -> (label, unit, "higher" or "lower" is better). shares: every figure is a share of images (Wilson's
    interval); other metrics get a percentile bootstrap over images. figures, spread: for counts that are lists and cannot be
    summed (detections), the functions that compute every figure, and every interval, from the rows directly; drawn: every
    figure over bootstrap draws of the images, the same draws for every cell of as many images.
    """

    headline: str
    labels: dict[str, tuple[str, str, str]]
    totals: Callable[[Counts], dict[str, np.ndarray]]
    shares: bool = False
    figures: Callable[[Counts], dict[str, float]] | None = None
    spread: Callable[[Counts], dict[str, tuple[float, float]]] | None = None
    drawn: Callable[[Counts], dict[str, np.ndarray]] | None = None

    @property
    def label(self) -> str:
        return self.labels[self.headline][0]

    @property
    def unit(self) -> str:
        return self.labels[self.headline][1]

    @property
    def better(self) -> str:
        return self.labels[self.headline][2]

    def summary(self, counts: Counts) -> dict[str, float]:
        """Every figure by its key, over the images of `counts`; shares as fractions, lengths in metres."""
        if self.figures:
            return self.figures(counts)
        sums = {key: value.sum(0, keepdims=True) for key, value in counts.items()}
        return {key: float(value[0]) for key, value in self.totals(sums).items()}

    def intervals(self, counts: Counts, keys: Sequence[str]) -> dict[str, tuple[float, float]]:
        """`interval` of several figures from the same counts; the images are drawn and summed once."""
        if self.spread:
            found = self.spread(counts)
            return {key: found[key] for key in keys}
        if self.shares:
            return {key: self.interval(counts, key) for key in keys}
        return bootstraps(counts, self.totals, keys)

    def interval(self, counts: Counts, key: str | None = None) -> tuple[float, float]:
        """The 95% interval of `key` (None: the headline): Wilson's for a share of images, else a bootstrap over images."""
        key = key or self.headline
        if self.spread:
            return self.spread(counts)[key]
        n = len(next(iter(counts.values())))
        if self.shares:
            return wilson(self.summary(counts)[key] * n, n)
        return bootstrap(counts, lambda sums: self.totals(sums)[key])


def of(task: str) -> Metric:
    """The metric of a task by its name ("classify", "segment", "depth", "detect"); `SpecError` for another name."""
    if task not in METRICS:
        raise SpecError(f"there is no metric for the task '{task}'{nearest(task, METRICS)}")
    return importlib.import_module(f"hardsight.metrics.{task}").METRIC
