"""CamVid in SegNet's layout: {train,val,test}/*.png, and a mask of the same name in {split}annot/ for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, Data, DataCard
from hardsight.data.images import (
    SUFFIXES,
    check_size,
    common_size,
    contents,
    fit,
    folder_at,
    is_image,
    natural,
    open_image,
    open_mask,
)
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
VOID = len(CLASSES)
"""The id of pixels without a class, which becomes `IGNORE`."""
SPLITS = ("train", "val", "test")


@register
def camvid(root: str, size: tuple[int, int] | None = None) -> Data:
    """CamVid, 11 classes of street scenes, in SegNet's layout: {train,val,test}/*.png with masks in {split}annot/*.png.

    root: the folder with these, or the one that contains CamVid/. size: (h, w) to resize to; masks use nearest neighbour.
    Mask ids 0 to 10 are the classes, 11 (void) becomes 255. Source: Brostow et al., 2009; Badrinarayanan et al., 2017.
    Raises `DataError` for a missing mask immediately; for a mask of the wrong size or with invalid ids when it is read.
    """
    check_size(size)
    expected = "train/ and trainannot/ (test/ and testannot/, val/ and valannot/), or CamVid/ with these inside"
    place = folder_at(root, expected)
    place = place / "CamVid" if (place / "CamVid").is_dir() else place
    pairs = {name: _pairs(place, name) for name in SPLITS if (place / name).is_dir()}
    if not pairs:
        raise DataError(f"{place} contains no CamVid; expected {expected}, found {contents(place)}")
    natural_size = size or common_size([image for found in pairs.values() for image, _ in found])
    card = DataCard(
        name="CamVid",
        targets=("mask",),
        size=natural_size,
        mask_classes=CLASSES,
        source="Brostow et al., 2009, in SegNet's layout",
        licence="CC BY-NC 4.0",
    )
    return Data(card, {name: _split(place, found, size) for name, found in pairs.items()})


def read_ids(path: Path) -> np.ndarray:
    """The mask, uint8 [H, W]: 0 to 10, and `IGNORE` where the file has void."""
    ids = open_mask(path)
    if ids.max() > VOID:
        raise DataError(f"{path} has the id {int(ids.max())}; a CamVid mask has 0 to {VOID - 1}, and {VOID} for void")
    return np.where(ids == VOID, np.uint8(IGNORE), ids)


def _pairs(place: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and mask of every frame of a split, in natural order."""
    masks = place / f"{split}annot"
    names = sorted((path.name for path in (place / split).iterdir() if is_image(path.name)), key=natural)
    if not names:
        raise DataError(f"{place / split} contains no image ({', '.join(SUFFIXES)}); it contains {contents(place / split)}")
    pairs = [(place / split / name, (masks / name).with_suffix(".png")) for name in names]
    for image, mask in pairs:
        if not mask.is_file():
            raise DataError(f"{image} has no mask: expected the file {mask}")
    return pairs


def _split(place: Path, pairs: list[tuple[Path, Path]], size: tuple[int, int] | None) -> Files:
    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, ids = open_image(pairs[number][0]), read_ids(pairs[number][1])
        if ids.shape != image.shape[:2]:
            high, wide = ids.shape
            raise DataError(f"{pairs[number][1]} is {wide}x{high} pixels, its image is {image.shape[1]}x{image.shape[0]}")
        return fit(image, size), {"mask": fit(ids, size, nearest=True)}

    return Files([image.relative_to(place).as_posix() for image, _ in pairs], read)
