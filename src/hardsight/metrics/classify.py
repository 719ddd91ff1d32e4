"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import numpy as np

from hardsight.metrics import Metric


def totals(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From hits, hits5 and images, each [...], to fractions in [0, 1]."""
    found = {"accuracy": sums["hits"] / sums["images"]}
    if "hits5" in sums:
        found["top5"] = sums["hits5"] / sums["images"]
    return found


METRIC = Metric(
    headline="accuracy",
    labels={"accuracy": ("accuracy", "%", "higher"), "top5": ("top-5 accuracy", "%", "higher")},
    totals=totals,
    shares=True,
)
