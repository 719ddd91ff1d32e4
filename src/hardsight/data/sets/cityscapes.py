"""Cityscapes: leftImg8bit/{train,val}/<city>/*_leftImg8bit.png, and gtFine/ with a *_gtFine_labelIds.png for each.

Of its 34 label ids 19 are evaluated; the table here maps them to train ids 0 to 18 and all others to `IGNORE`, so the
original files can be used. The ground truth of the test split is not published, so there is no such split.
"""

from __future__ import annotations

from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, contents, folder_at, list_images, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.masks import masked, table_of_ids
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

EVALUATED = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The evaluated label ids and their names, in the order of the train ids."""
LAST = 33
TABLE = table_of_ids(
    {label: train for train, label in enumerate(EVALUATED)}, ignored=[n for n in range(LAST + 1) if n not in EVALUATED]
)
SPLITS = ("train", "val")
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
PUBLISHED = {
    "cityscapes": Published(
        "https://www.cityscapes-dataset.com",
        {"train": 2975, "val": 500},
        by_hand="with an account download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip; unpack both in the root",
    )
}


@register
def cityscapes(root: str, size: int | tuple[int, int] | None = None) -> Data:
    """Cityscapes, 19 classes of street scenes at 1024x2048, from the folder that contains leftImg8bit/ and gtFine/.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; masks use nearest neighbour. Splits train
    and val, with fine annotations. Source: Cordts et al., 2016. Raises `DataError`: for a missing mask when its split is
    listed, for an invalid one when it is read.
    """
    check_size(size)
    expected = "leftImg8bit/train, leftImg8bit/val and the same in gtFine/"
    place = folder_at(root, expected)
    found = {name: place / "leftImg8bit" / name for name in SPLITS if (place / "leftImg8bit" / name).is_dir()}
    if not found:
        raise DataError(f"{place} contains no Cityscapes; expected {expected}, found {contents(place)}")
    card = DataCard(
        name="Cityscapes",
        targets=("mask",),
        size=shared_size(size, lambda: [path for folder in found.values() for path in list_images(folder)]),
        mask_classes=tuple(EVALUATED.values()),
        source="Cordts et al., 2016",
        licence="non-commercial, Cityscapes' own",
    )
    return Data(card, {name: Lazy(lambda folder=folder: _split(place, folder, size)) for name, folder in found.items()})


def _split(place: Path, folder: Path, size: Size) -> Files:
    pairs = []
    for path in list_images(folder):
        if not path.name.endswith(IMAGE):
            raise DataError(f"{path} is not a Cityscapes image; its name must end in {IMAGE}")
        below = path.relative_to(folder).with_name(path.name.removesuffix(IMAGE) + MASK)
        pairs.append((path, place / "gtFine" / folder.name / below))
    return masked(place, pairs, TABLE, f"a Cityscapes labelIds file has 0 to {LAST}", size)
