"""CamVid in SegNet's layout: {train,val,test}/*.png, and a mask of the same name in {split}annot/ for each."""

from __future__ import annotations

from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.images import check_size, contents, folder_at, list_images, shared_size
from hardsight.data.masks import masked, table_of_ids
from hardsight.specs.catalog import register

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
VOID = len(CLASSES)
"""The id of pixels without a class, which becomes `IGNORE`."""
TABLE = table_of_ids({number: number for number in range(VOID)}, ignored=[VOID])
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
    card = DataCard(
        name="CamVid",
        targets=("mask",),
        size=shared_size(size, lambda: [image for found in pairs.values() for image, _ in found]),
        mask_classes=CLASSES,
        source="Brostow et al., 2009, in SegNet's layout",
        licence="CC BY-NC 4.0",
    )
    valid = f"a CamVid mask has 0 to {VOID - 1}, and {VOID} for void"
    return Data(card, {name: masked(place, found, TABLE, valid, size) for name, found in pairs.items()})


def _pairs(place: Path, split: str) -> list[tuple[Path, Path]]:
    """Image and mask of every frame of a split, in natural order."""
    folder, masks = place / split, place / f"{split}annot"
    return [(path, (masks / path.relative_to(folder)).with_suffix(".png")) for path in list_images(folder)]
