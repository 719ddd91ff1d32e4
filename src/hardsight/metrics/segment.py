"""Segmentation: set-level mIoU, pixel accuracy and mean class accuracy, over labelled pixels only.

The mean is over the classes that occur somewhere in the set, in the labels or in the predictions: a class that is predicted
but never labelled counts with IoU 0, a class that does not occur is left out. (Figures: Long et al., CVPR 2015, section 5.)
"""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From intersection, predicted and labelled pixels by class, each [..., K], to fractions in [0, 1].

    accuracy_over: what class accuracy is divided by, if not by the labelled pixels (quirk D4).
    """
    hits, predicted, labelled = sums["intersection"], sums["predicted"], sums["labelled"]
    return {
        "miou": _mean(hits, predicted + labelled - hits),
        "pixel_accuracy": hits.sum(-1) / np.maximum(labelled.sum(-1), 1),
        "class_accuracy": _mean(hits, sums.get("accuracy_over", labelled)),
    }


def _mean(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """The mean of over / under along the last axis, over the entries where under is not zero."""
    valid = under > 0
    shares = np.where(valid, over / np.where(valid, under, 1), 0.0)
    return shares.sum(-1) / np.maximum(valid.sum(-1), 1)


METRIC = Metric(
    headline="miou",
    labels={
        "miou": ("mIoU", "%", "higher"),
        "pixel_accuracy": ("pixel accuracy", "%", "higher"),
        "class_accuracy": ("class accuracy", "%", "higher"),
    },
    totals=totals,
)
