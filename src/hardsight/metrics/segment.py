"""Segmentation: set-level mIoU, pixel accuracy and mean class accuracy, over labelled pixels only.

The mean runs over the classes that occur, in the labels or in the prediction, somewhere in the set: a class that is only
predicted counts with IoU 0, one that is nowhere does not count. (Long et al., CVPR 2015, section 5, for the figures.)
"""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From intersection, predicted and labelled pixels by class, each [..., K], to shares."""
    hits, predicted, labelled = sums["intersection"], sums["predicted"], sums["labelled"]
    return {
        "miou": _mean(hits, predicted + labelled - hits),
        "pixel_accuracy": hits.sum(-1) / np.maximum(labelled.sum(-1), 1),
        "class_accuracy": _mean(hits, labelled),
    }


def _mean(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """The mean of over / under along the last axis, where under is not zero."""
    there = under > 0
    shares = np.where(there, over / np.where(there, under, 1), 0.0)
    return shares.sum(-1) / np.maximum(there.sum(-1), 1)


METRIC = Metric(
    headline="miou",
    labels={
        "miou": ("mIoU", "%", "higher"),
        "pixel_accuracy": ("pixel accuracy", "%", "higher"),
        "class_accuracy": ("class accuracy", "%", "higher"),
    },
    totals=totals,
)
