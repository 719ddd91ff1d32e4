"""Images with one mask file each, whose ids a table maps to classes: the code that all segmentation formats share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE
from hardsight.data.images import EXACT, Size, fit, open_image, open_mask
from hardsight.data.splits import Files

UNKNOWN = -1
"""The table entry of an id that the format does not define."""


def table_of_ids(classes: dict[int, int], ignored: Iterable[int] = ()) -> np.ndarray:
    """The lookup table, int16 [256]: id in the file -> class, `IGNORE`, or `UNKNOWN`."""
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[list(ignored)] = IGNORE
    for number, name in classes.items():
        table[number] = name
    return table


def read_mask(path: Path, table: np.ndarray, expected: str, three: bool = False) -> np.ndarray:
    """The class map, uint8 [H, W]; raises `DataError`, which ends with `expected`, for an id that is not in the table.

    three: whether three equal channels count as one.
    """
    ids = open_mask(path, three=three)
    classes = table[ids]
    if (strange := ids[classes == UNKNOWN]).size:
        raise DataError(f"{path} has the id {int(strange.max())}; {expected}")
    return classes.astype(np.uint8)


def read_colours(path: Path, classes: dict[tuple[int, ...], int], expected: str) -> np.ndarray:
    """The class map, uint8 [H, W], of a mask whose colours (red, green, blue) are classes; `DataError` for another colour."""
    image = open_image(path, formats=EXACT)
    numbers, places = np.unique(image @ np.array([2**16, 2**8, 1]), return_inverse=True)
    colours = [(number >> 16, number >> 8 & 255, number & 255) for number in numbers.tolist()]
    if strange := next((colour for colour in colours if colour not in classes), None):
        raise DataError(f"{path} has the colour {list(strange)}; {expected}")
    return np.array([classes[colour] for colour in colours], np.uint8)[places].reshape(image.shape[:2])


def masked(root: Path, pairs: Sequence[tuple[Path, Path]], table: np.ndarray, expected: str, size: Size) -> Files:
    """A split of (image, mask) files; ids are the image paths relative to root; masks are resized with nearest neighbour.

    Raises `DataError` immediately for a missing mask; for a mask that differs in size from its image, when it is read.
    """
    for image, mask in pairs:
        if not mask.is_file():
            raise DataError(f"{image} has no mask: expected the file {mask}")

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, classes = open_image(pairs[place][0]), read_mask(pairs[place][1], table, expected)
        same_size(pairs[place][1], classes, image)
        return fit(image, size), {"mask": fit(classes, size, nearest=True)}

    return Files([image.relative_to(root).as_posix() for image, _ in pairs], read)


def same_size(name: Path | str, mask: np.ndarray, image: np.ndarray) -> None:
    """Raises `DataError`, which starts with `name`, unless the mask [H, W] and the image [H, W, 3] have the same size."""
    (high, wide), (image_high, image_wide) = mask.shape[:2], image.shape[:2]
    if (high, wide) != (image_high, image_wide):
        raise DataError(f"{name} is {wide}x{high} pixels, its image is {image_wide}x{image_high}")
