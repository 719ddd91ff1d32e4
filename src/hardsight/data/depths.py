"""Converts depth maps to one format: float32 metres, 0 = not measured, with a warning if the unit is probably not metres."""

from __future__ import annotations

import warnings

import numpy as np

from hardsight.core.errors import DataError

FAR = 1000.0
"""Metres: no depth camera measures half of its pixels beyond this distance."""


class Metres:
    """Converts the depth maps of one data set; warns once if half of a map's measurements are too far for a depth camera."""

    def __init__(self, max_depth: float, unit: str = "metres") -> None:
        if not max_depth > 0:
            raise DataError(f"max_depth={max_depth}: it must be a depth above 0 in metres, such as 10.0")
        self.max_depth, self.unit = float(max_depth), unit
        self._warned = False

    def __call__(self, depth: np.ndarray, image: np.ndarray, name: str) -> np.ndarray:
        """The depth map [H, W] of an image [H, W, 3]; values that are not finite, not above 0 or beyond max_depth become 0.

        Raises `DataError`, with a message that starts with `name`, if the two differ in size.
        """
        if depth.shape != image.shape[:2]:
            high, wide = depth.shape
            raise DataError(f"{name}: its depth is {wide}x{high} pixels, its image is {image.shape[1]}x{image.shape[0]}")
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
        measured = depth[depth > 0]
        if not self._warned and measured.size and (median := float(np.median(measured))) > min(self.max_depth, FAR):
            self._warned = True
            warnings.warn(
                f"{name}: half of its depths are beyond {median:,.1f} m (max_depth is {self.max_depth:g} m); "
                f"the unit is probably not {self.unit}",
                stacklevel=2,
            )
        return np.where(depth > self.max_depth, np.float32(0), depth)
