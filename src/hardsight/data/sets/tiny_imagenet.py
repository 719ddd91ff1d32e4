"""Tiny ImageNet: 200 of ImageNet's classes at 64x64, in the layout published by Stanford's course.

    wnids.txt  words.txt                       the classes, and a name for each WordNet id
    train/<wnid>/images/*.JPEG                 500 per class
    val/images/*.JPEG  val/val_annotations.txt lines such as "val_0.JPEG  n03444034  0 32 44 62"

The test images have no labels and are not read. Classes are numbered by sorted WordNet id, as class-folder readers do;
wnids.txt has a different order.
"""

from __future__ import annotations

from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.images import check_size, contents, folder_at, list_by_folder, shared_size
from hardsight.data.labelled import Item, labelled
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside, lines_of
from hardsight.data.preprocess import Preprocess
from hardsight.specs.catalog import register

FOLDER = "tiny-imagenet-200"
PUBLISHED = {
    "tiny_imagenet": Published(
        "http://cs231n.stanford.edu",
        {"train": 100000, "val": 10000},
        files=((f"http://cs231n.stanford.edu/{FOLDER}.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
    )
}


@register
def tiny_imagenet(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Tiny ImageNet, 64x64, 200 classes, from the folder `tiny-imagenet-200` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Splits train and val. Source: Stanford
    CS231n, 2015. Raises `DataError`, with the line, for a missing class or image.
    """
    check_size(size)
    expected = f"the folder {FOLDER} or its parent, with wnids.txt, train/ and val/val_annotations.txt"
    place = folder_at(root, expected)
    place = place / FOLDER if (place / FOLDER).is_dir() else place
    if not (place / "wnids.txt").is_file():
        raise DataError(f"{place} contains no Tiny ImageNet; expected {expected}, found {contents(place)}")
    wnids = sorted(set(lines_of(place / "wnids.txt")))
    index = {wnid: number for number, wnid in enumerate(wnids)}
    listing = {"train": lambda: _train(place, index), "val": lambda: _val(place, index)}
    listing = {name: items for name, items in listing.items() if (place / name).is_dir()}
    if not listing:
        raise DataError(f"{place} has neither train/ nor val/; it contains {contents(place)}")
    card = DataCard(
        name="Tiny ImageNet",
        targets=("label",),
        size=shared_size(size, lambda: [path for items in listing.values() for path, _ in items()]),
        classes=_names(place / "words.txt", wnids),
        source="Stanford CS231n, 2015",
    )
    return Data(card, {name: Lazy(lambda items=items: labelled(place, items(), size)) for name, items in listing.items()})


def _train(place: Path, index: dict[str, int]) -> list[Item]:
    if missing := next((wnid for wnid in index if not (place / "train" / wnid).is_dir()), None):
        raise DataError(f"{place / 'train'} has no folder {missing}, which wnids.txt lists")
    return [(path, index[wnid]) for path, wnid in list_by_folder(place / "train", index, r".*_boxes\.txt")]


def _val(place: Path, index: dict[str, int]) -> list[Item]:
    file, items = place / "val" / "val_annotations.txt", []
    for number, line in enumerate(lines_of(file), 1):
        name, wnid, *_ = [*line.split(), ""]
        path = place / "val" / "images" / inside(name, file)
        if wnid not in index:
            raise DataError(f"{file}, line {number}: '{wnid}' is not a class in wnids.txt")
        if not path.is_file():
            raise DataError(f"{file}, line {number}: no such file {path}")
        items.append((path, index[wnid]))
    if not items:
        raise DataError(f"{file} lists no image")
    return items


def _names(path: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first name of each class, or its WordNet id if words.txt has no name for it."""
    rows = [line.split("\t") for line in lines_of(path)] if path.is_file() else []
    names = {row[0]: row[-1].split(",")[0] for row in rows}
    return tuple(names.get(wnid, wnid) for wnid in wnids)
