"""Boxes as arrays: corners x1 y1 x2 y2 in pixels from the top left corner, float32 [N, 4], and one class each, int64 [N].

The boxes of a file are clipped to its image, and resized and cropped together with it. A box with no area left inside the
image is removed, because there is nothing to detect; an invalid box (swapped corners, NaN) is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from hardsight.core.errors import DataError, DataWarning
from hardsight.data.images import Size, placing

BEYOND = 2
"""Pixels by which a hand-drawn box may reach beyond its image."""


def boxed(
    boxes: Sequence[Sequence[float]] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    shape: Sequence[int],
    size: Size,
    name: str,
) -> dict[str, np.ndarray]:
    """The targets `boxes` [N, 4] and `box_labels` [N] of an image [H, W, ...] that `images.fit` resizes to `size`.

    N is 0 if there is no box. Raises `DataError`, with a message that starts with `name`, for an invalid box.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    classes = np.asarray(labels, dtype=np.int64).reshape(-1)
    if len(corners) != len(classes):
        raise DataError(f"{name}: {len(corners)} boxes but {len(classes)} classes")
    for corner in corners:
        if not np.isfinite(corner).all() or corner[2] < corner[0] or corner[3] < corner[1]:
            values = ", ".join(f"{value:g}" for value in corner)
            raise DataError(f"{name} has the box [{values}]; the corners must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    high, wide = shape[:2]
    corners = _clipped(corners, high, wide)
    exact, (top, left) = placing((high, wide), size)
    corners = corners * np.array([exact[1], exact[0]] * 2) / np.array([wide, high] * 2) - np.array([left, top] * 2)
    corners = _clipped(corners, *((size, size) if isinstance(size, int) else exact)).astype(np.float32)
    left_over = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return {"boxes": corners[left_over], "box_labels": classes[left_over]}


class StatedSizes:
    """Compares the image sizes that the annotations of one data set state, which nothing here reads, with the images.

    A wrong one is warned about once. If a box reaches beyond the image, it was drawn in an image of the stated size, so its
    place in this one is unknown.
    """

    def __init__(self) -> None:
        self._warned = False

    def __call__(
        self, stated: tuple[int, int], corners: Sequence[Sequence[float]] | np.ndarray, image: np.ndarray, name: str
    ) -> None:
        """stated: (h, w), 0 if unknown. Raises `DataError`, with a message that starts with `name`, for such a box."""
        high, wide = image.shape[:2]
        if not all(stated) or stated == (high, wide):
            return
        said = f"{name} says {stated[1]}x{stated[0]} pixels, but its image is {wide}x{high}"
        for corner in corners:
            if corner[2] > wide + BEYOND or corner[3] > high + BEYOND:
                values = ", ".join(f"{value:g}" for value in corner)
                raise DataError(f"{said} and the box [{values}] lies beyond it: give the image that was annotated")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{said}; the sizes in annotations are not used, and its boxes lie within the image",
                DataWarning,
                stacklevel=2,
            )


def around(instances: np.ndarray) -> np.ndarray:
    """The bounding box [N, 4] of each instance in a map [H, W], where 0 is background and every other id is one instance."""
    found = []
    for instance in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == instance)
        found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return np.array(found, dtype=np.float32).reshape(-1, 4)


def _clipped(corners: np.ndarray, high: int, wide: int) -> np.ndarray:
    return np.clip(corners, 0, np.array([wide, high] * 2))
