"""Monocular depth: RMSE, AbsRel, log10 and the delta thresholds, over all measured pixels of the set.

Two figures are means over images: `image_rmse`, which some papers report instead of the RMSE of the whole set (quirk B4; it
is smaller where images differ in error), and SILog as KITTI's benchmark defines it, in percent.

Source of the definitions: Eigen, Puhrsch and Fergus, NeurIPS 2014, section 4; SILog: KITTI depth prediction benchmark.
"""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From per-pixel sums, each [...], to figures; `pixels` is the number of pixels with ground truth.

    Stored sums of an older version lack the per-image means; then only the other figures are returned.
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
    if "by_image" in sums:  # quirk B4
        figures["rmse"] = figures["image_rmse"]
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
