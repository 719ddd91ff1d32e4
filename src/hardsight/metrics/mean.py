"""The mean of a figure over cells of the same images, such as 15 corruptions at 5 severities, and its interval.

Images are a random sample, corruptions are not: so the interval is over images, and every bootstrap draw takes the same
images in all cells. It does not follow from the intervals of single cells, since a hard image is hard in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardsight.metrics import Counts, Metric
from hardsight.metrics.intervals import bootstrap


def means(metric: Metric, cells: Sequence[Counts]) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of each figure that all cells have; their rows are the same images in the same order.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4.2. differs: not divided by another network's error (their mCE is
    relative to AlexNet's). Detections, which cannot be summed, get the mean of the single intervals' bounds, which is rather
    too wide than too narrow.
    """
    figures = [metric.summary(counts) for counts in cells]
    keys = [key for key in metric.labels if all(key in found for found in figures)]
    values = {key: float(np.mean([found[key] for found in figures])) for key in keys}
    if metric.figures:
        ends = {key: np.array([metric.interval(counts, key) for counts in cells]).mean(0) for key in keys}
    else:
        stacked = {name: np.stack([counts[name] for counts in cells], 1) for name in cells[0]}
        ends = {key: bootstrap(stacked, lambda sums, key=key: metric.totals(sums)[key].mean(1)) for key in keys}
    return {key: (values[key], float(ends[key][0]), float(ends[key][1])) for key in keys}
