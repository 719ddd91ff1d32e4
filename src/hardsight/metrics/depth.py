"""Monocular depth: RMSE, AbsRel, log10 and the delta thresholds, over all measured pixels of the set.

Two are means over images and say so: the RMSE that some report in place of the set's (quirk B4; where images differ in error
it is the smaller), and SILog as KITTI's benchmark has it, in percent of a factor of scale.

Source of the definitions: Eigen, Puhrsch and Fergus, NeurIPS 2014, section 4; SILog: KITTI depth prediction benchmark.
"""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From per-pixel sums, each [...], to figures; `pixels` is how many were measured.

    Sums kept before the means over images were counted give the others alone.
    """
    pixels = np.maximum(sums["pixels"], 1)
    figures = {
        "rmse": np.sqrt(sums["squared"] / pixels),
        "absrel": sums["relative"] / pixels,
        "log10": sums["log10"] / pixels,
        "delta1": sums["delta1"] / pixels,
        "delta2": sums["delta2"] / pixels,
        "delta3": sums["delta3"] / pixels,
    }
    if "images" in sums:
        images = np.maximum(sums["images"], 1)
        figures |= {"image_rmse": sums["image_rmse"] / images, "silog": sums["image_silog"] / images}
    return figures


METRIC = Metric(
    headline="rmse",
    labels={
        "rmse": ("RMSE", "m", "lower"),
        "absrel": ("AbsRel", "", "lower"),
        "log10": ("log10", "", "lower"),
        "delta1": ("delta < 1.25", "%", "higher"),
        "delta2": ("delta < 1.25²", "%", "higher"),
        "delta3": ("delta < 1.25³", "%", "higher"),
        "image_rmse": ("RMSE, mean of images", "m", "lower"),
        "silog": ("SILog", "%", "lower"),
    },
    totals=totals,
)
