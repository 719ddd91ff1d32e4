"""Monocular depth: RMSE, AbsRel, log10 and the delta thresholds, over all measured pixels of the set.

Source of the definitions: Eigen, Puhrsch and Fergus, NeurIPS 2014, section 4.
"""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From per-pixel sums, each [...], to figures; `pixels` is how many were measured."""
    pixels = np.maximum(sums["pixels"], 1)
    return {
        "rmse": np.sqrt(sums["squared"] / pixels),
        "absrel": sums["relative"] / pixels,
        "log10": sums["log10"] / pixels,
        "delta1": sums["delta1"] / pixels,
        "delta2": sums["delta2"] / pixels,
        "delta3": sums["delta3"] / pixels,
    }


METRIC = Metric(
    headline="rmse",
    labels={
        "rmse": ("RMSE", "m", "lower"),
        "absrel": ("AbsRel", "", "lower"),
        "log10": ("log10", "", "lower"),
        "delta1": ("delta < 1.25", "%", "higher"),
        "delta2": ("delta < 1.25²", "%", "higher"),
        "delta3": ("delta < 1.25³", "%", "higher"),
    },
    totals=totals,
)
