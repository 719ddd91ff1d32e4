"""Converts depth maps to one format: float32 metres, 0 = not measured, with a warning if their unit is probably another."""

from __future__ import annotations

import warnings

import numpy as np

from hardsight.core.errors import DataError, DataWarning

NEAR, FAR = 0.01, 1000.0
"""Metres: no depth camera measures half of its pixels closer or farther than this."""
UNITS = "sensors mostly store 0.001 m, KITTI 1/256 m, TUM RGB-D 1/5000 m"


class Metres:
    """Converts the depth maps of one data set, stored in multiples of `unit` metres; warns once if the unit looks wrong.

    Raises `DataError` unless both are above 0. most: the largest value that can be stored, or None; warns if max_depth is
    beyond it, because such depths are stored in a larger unit.
    """

    def __init__(self, max_depth: float, unit: float, most: int | None = None) -> None:
        if not max_depth > 0:
            raise DataError(f"max_depth={max_depth}: it must be a depth above 0 in metres, such as 10.0")
        if not 0 < unit < FAR:
            raise DataError(f"unit={unit}: it must be the metres that one stored value stands for; {UNITS}")
        self.max_depth, self.unit = float(max_depth), float(unit)
        self._warned = False
        if most is not None and self.max_depth > most * self.unit:
            self._warn(
                f"max_depth={self.max_depth:g} m can't be reached: values up to {most} at unit={unit:g} m are at most "
                f"{most * self.unit:.4g} m"
            )

    def __call__(self, stored: np.ndarray, image: np.ndarray, name: str) -> np.ndarray:
        """The depth [H, W] in metres of an image [H, W, 3]; not finite, not above 0 or beyond max_depth becomes 0.

        Raises `DataError`, with a message that starts with `name`, if the two differ in size.
        """
        if stored.shape != image.shape[:2]:
            high, wide = stored.shape
            raise DataError(f"{name}: its depth is {wide}x{high} pixels, its image is {image.shape[1]}x{image.shape[0]}")
        depth = np.where(np.isfinite(stored) & (stored > 0), stored, 0).astype(np.float32) / np.float32(1 / self.unit)
        measured = depth[depth > 0]
        if not self._warned and measured.size:
            median = float(np.median(measured))
            if median > min(self.max_depth, FAR):
                self._warn(f"{name}: half of its depths are beyond {median:,.1f} m (max_depth is {self.max_depth:g} m)")
            elif median < NEAR:
                self._warn(f"{name}: half of its depths are below {median:.2g} m")
        return np.where(depth > self.max_depth, np.float32(0), depth)

    def _warn(self, what: str) -> None:
        self._warned = True
        warnings.warn(
            f"{what}, so the unit is probably not {self.unit:g} m per stored value: {UNITS}", DataWarning, stacklevel=3
        )
