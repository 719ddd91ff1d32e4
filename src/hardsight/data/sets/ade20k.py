"""ADE20K in the scene parsing challenge's layout: images/{training,validation}/*.jpg, and annotations/ with one PNG each.

In an annotation, 0 means unlabelled and becomes `IGNORE`; k means class k - 1. Treating 0 as a class, or ignoring it in the
loss but not in the metric, is the most common cause of results that are not comparable.
"""

from __future__ import annotations

from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, contents, folder_at, list_images, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.lists import lines_of
from hardsight.data.masks import masked, table_of_ids
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
COUNT = 150
TABLE = table_of_ids({number + 1: number for number in range(COUNT)}, ignored=[0])
PUBLISHED = {
    "ade20k": Published(
        "http://sceneparsing.csail.mit.edu",
        {"train": 20210, "val": 2000},
        files=((f"http://data.csail.mit.edu/places/ADEchallenge/{FOLDER}.zip", "7328b3957e407ddae1d3cbf487f149ef"),),
    )
}


@register
def ade20k(root: str, size: int | tuple[int, int] | None = None) -> Data:
    """ADE20K, 150 classes of scenes, from the folder `ADEChallengeData2016` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; required, because the images differ in size.
    Splits train and val. Class names come from objectInfo150.txt next to images/; without it they are numbers. Source: Zhou
    et al., 2017. Raises `DataError`: for a missing mask when its split is listed, for an invalid one when it is read.
    """
    check_size(size)
    expected = f"the folder {FOLDER} or its parent, with images/training, images/validation and the same in annotations/"
    place = folder_at(root, expected)
    place = place / FOLDER if (place / FOLDER).is_dir() else place
    found = {name: place / "images" / below for name, below in SPLITS.items() if (place / "images" / below).is_dir()}
    if not found:
        raise DataError(f"{place} contains no ADE20K; expected {expected}, found {contents(place)}")
    card = DataCard(
        name="ADE20K",
        targets=("mask",),
        size=shared_size(size, lambda: [path for folder in found.values() for path in list_images(folder)]),
        mask_classes=class_names(place / "objectInfo150.txt"),
        source="Zhou et al., 2017 (ADEChallengeData2016)",
    )
    return Data(card, {name: Lazy(lambda folder=folder: _split(place, folder, size)) for name, folder in found.items()})


def class_names(path: Path) -> tuple[str, ...]:
    """The 150 names, each up to its first comma, from a tab-separated table with columns Idx and Name."""
    if not path.is_file():
        return tuple(f"class {number}" for number in range(1, COUNT + 1))
    rows = [line.split("\t") for line in lines_of(path)]
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in rows[1:]}
    if set(names) != {str(number) for number in range(1, COUNT + 1)}:
        raise DataError(f"{path} lists {len(names)} classes; it should have the numbers 1 to {COUNT}, one per line")
    return tuple(names[str(number)] for number in range(1, COUNT + 1))


def _split(place: Path, folder: Path, size: Size) -> Files:
    annotations = place / "annotations" / folder.name
    pairs = [(path, (annotations / path.name).with_suffix(".png")) for path in list_images(folder)]
    return masked(place, pairs, TABLE, f"an ADE20K annotation has 1 to {COUNT}, and 0 for unlabelled", size)
