"""PASCAL VOC's layout: JPEGImages/, lists in ImageSets/, and either a palette PNG or an XML file for every image.

    ImageSets/Segmentation/{train,val}.txt    with SegmentationClass/*.png: 0 background, 1 to 20, 255 for borders
    ImageSets/Main/{train,val,test}.txt       with Annotations/*.xml: objects with one name and one box each

A set of one's own needs neither lists nor these folders: an image and its XML file have the same name, wherever they lie, and
a folder's name may say the part, as in images/train/ or valid/.

The XML counts pixels from 1 and includes the last one, so the box [1, 1, 500, 375] covers a whole 500x375 image and becomes
[0, 0, 500, 375] here. Other sets in this layout count from 0 (`origin=0`) or have other classes (`classes=`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, OWN, Data, DataCard
from hardsight.data.boxes import StatedSizes, boxed
from hardsight.data.drawn import drawn
from hardsight.data.get import Published, by_torchvision
from hardsight.data.images import (
    SUFFIXES,
    Size,
    check_size,
    contents,
    expand,
    fit,
    folder_at,
    open_image,
    shared_size,
)
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside, lines_of
from hardsight.data.masks import masked, table_of_ids
from hardsight.data.sets.voc_files import Item, class_names, own_files, read_objects
from hardsight.data.splits import Files
from hardsight.specs.catalog import register
from hardsight.specs.syntax import Call

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = {"mask": "Segmentation", "boxes": "Main", "label": "Main"}
SPLITS = ("train", "val", "test")
EXPECTED = (
    "JPEGImages/, ImageSets/ and Annotations/ or SegmentationClass/, or VOCdevkit/VOC2012 with these inside, or images and XML "
    "files of the same names"
)
PUBLISHED = {
    "voc": Published(
        "https://www.robots.ox.ac.uk/~vgg/projects/pascal/VOC/",
        {"train": 1464, "val": 1449},
    )
}


@register
def voc(
    root: str,
    size: int | tuple[int, int] | None = None,
    what: Literal["mask", "boxes", "label"] = "mask",
    years: tuple[int, ...] = (2012,),
    classes: tuple[str, ...] | None = None,
    difficult: bool = False,
    origin: int = 1,
    images: str | None = None,
    annotations: str | None = None,
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """PASCAL VOC 2007 to 2012: masks of 21 classes, or the boxes of 20, from the XML files; or boxes of one's own in XML files.

    root: the folder with JPEGImages/, VOCdevkit/, or the parent of VOCdevkit/. size: (h, w), or an int: resize the shorter
    side to it, then centre crop; required, because VOC's images differ in size. what: `mask`; `boxes`; `label`, the class of
    the object with the largest box. years: which folders of a devkit to use, with their splits concatenated. classes: the
    names of the objects, if they are not VOC's; of a set without ImageSets/ all that occur, by default. difficult: whether
    difficult objects are kept. origin: the number of the first pixel in the XML. images, annotations: of a set without
    ImageSets/, the folders below root in which images and XML files are looked for. test, seed: the share of images that is
    drawn for testing, if neither lists nor folders say the parts. Source: Everingham et al., 2010. differs: VOC's own classification task is multi-label, and its
    detection metric ignores difficult objects; here they are removed. Raises `DataError`.
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    plain = what != "mask" and own_files(place, images, annotations)
    if plain:
        names = classes or class_names([xml for items in plain.values() for _, xml, _ in items], origin)
        found = (
            {part: [plain[""][n] for n in rows] for part, rows in drawn(len(plain[""]), test, seed).items()}
            if "" in plain
            else plain
        )
    else:
        names = CLASSES if classes is None else classes
        places = _places(place, years)
        found = _splits(places, LISTS[what])
    card = DataCard(
        name=place.resolve().name if plain else "+".join(place.resolve().name for place in places),
        targets=(what,),
        size=shared_size(size, lambda: [image for items in found.values() for image, _, _ in items]),
        classes=() if what == "mask" else names,
        mask_classes=("background", *names) if what == "mask" else (),
        source="Everingham et al., 2010" if classes is None and not plain else f"{OWN} PASCAL VOC's layout",
    )
    stated = StatedSizes()

    def split(items: list[Item]) -> Files:
        if what == "mask":
            table = table_of_ids({number: number for number in range(len(names) + 1)}, ignored=[IGNORE])
            valid = f"a VOC mask has 0 to {len(names)}, and {IGNORE} for borders"
            return masked(places[0].parent, [(image, mask) for image, mask, _ in items], table, valid, size)
        return _annotated(items, what, names, difficult, origin, size, stated)

    return Data(card, {name: Lazy(lambda items=items: split(items)) for name, items in found.items()})


def fetch(call: Call) -> Path:
    """Downloads the devkits of the requested years into the root."""
    root = expand(str(call["root"]))
    for year in call["years"]:
        for part in ("trainval", "test") if year == 2007 else ("trainval",):
            by_torchvision("VOCDetection", root, {"year": str(year), "image_set": part})
    return root


def _places(root: Path, years: tuple[int, ...]) -> list[Path]:
    """The folders with JPEGImages/: the root itself, or the folder of each year in a devkit."""
    if (root / "JPEGImages").is_dir():
        return [root]
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    places = [devkit / f"VOC{year}" for year in years]
    for place in places:
        if not (place / "JPEGImages").is_dir():
            raise DataError(f"{root} contains no VOC of {place.name[3:]}; expected {EXPECTED}, found {contents(devkit)}")
    return places


def _splits(places: list[Path], lists: str) -> dict[str, list[Item]]:
    """Every image with its XML file or mask, by split; in the list of one class (`name 1`) only the names are used."""
    below, ending = ("SegmentationClass", ".png") if lists == "Segmentation" else ("Annotations", ".xml")
    found: dict[str, list[Item]] = {}
    for place in places:
        for split in SPLITS:
            if (file := place / "ImageSets" / lists / f"{split}.txt").is_file():
                names = [inside(line.split()[0], file) for line in lines_of(file)]
                items = [(_image(place, n), place / below / f"{n}{ending}", f"{place.name}/{n}") for n in names]
                found.setdefault(split, []).extend(items)
    if not any(found.values()):
        raise DataError(f"{places[0]} has no lists of images: expected ImageSets/{lists}/train.txt, val.txt or test.txt")
    return {split: items for split, items in found.items() if items}


def _image(place: Path, name: str) -> Path:
    """The image of that name in JPEGImages/: a .jpg, or one with another ending if only that exists."""
    path = place / "JPEGImages" / f"{name}.jpg"
    if path.is_file():
        return path
    return next((other for ending in SUFFIXES if (other := path.with_name(name + ending)).is_file()), path)


def _annotated(
    items: list[Item],
    what: str,
    names: tuple[str, ...],
    difficult: bool,
    origin: int,
    size: Size,
    sizes: StatedSizes,
) -> Files:
    index = {name: number for number, name in enumerate(names)}

    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        picture, path, _ = items[number]
        image, (objects, stated) = open_image(picture), read_objects(path, difficult)
        for kind, _ in objects:
            if kind not in index:
                raise DataError(f"{path} has the object '{kind}', not one of the {len(names)} classes; give classes=[...]")
        kept = [index[kind] for kind, _ in objects]
        corners = [(x1 - origin, y1 - origin, x2, y2) for _, (x1, y1, x2, y2) in objects]
        sizes(stated, corners, image, str(path))
        if what == "boxes":
            return fit(image, size), boxed(corners, kept, image.shape, size, str(path))
        if not kept:
            raise DataError(f"{path} has no object (difficult={difficult}), so its image has no label; it needs one object")
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in corners]
        return fit(image, size), {"label": np.array(kept[int(np.argmax(areas))])}

    return Files([name for _, _, name in items], read)
