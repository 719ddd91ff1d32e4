"""PASCAL VOC's layout: JPEGImages/, lists in ImageSets/, and either a palette PNG or an XML file for every image.

    ImageSets/Segmentation/{train,val}.txt    with SegmentationClass/*.png: 0 background, 1 to 20, 255 for borders
    ImageSets/Main/{train,val,test}.txt       with Annotations/*.xml: objects with one name and one box each

The XML counts pixels from 1 and includes the last one, so the box [1, 1, 500, 375] covers a whole 500x375 image and becomes
[0, 0, 500, 375] here. Other sets in this layout count from 0 (`origin=0`) or have other classes (`classes=`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, Data, DataCard
from hardsight.data.boxes import StatedSizes, boxed
from hardsight.data.get import Published, by_torchvision
from hardsight.data.images import Size, check_size, contents, expand, fit, folder_at, open_image, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside, lines_of
from hardsight.data.masks import masked, table_of_ids
from hardsight.data.splits import Files
from hardsight.specs.catalog import register
from hardsight.specs.syntax import Call

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = {"mask": "Segmentation", "boxes": "Main", "label": "Main"}
SPLITS = ("train", "val", "test")
EXPECTED = "JPEGImages/, ImageSets/ and Annotations/ or SegmentationClass/, or VOCdevkit/VOC2012 with these inside"
PUBLISHED = {
    "voc": Published(
        "https://www.robots.ox.ac.uk/~vgg/projects/pascal/VOC/",
        {"train": 1464, "val": 1449},
    )
}

Object = tuple[str, tuple[float, float, float, float]]
"""The name, and the box as stored in the file."""


@register
def voc(
    root: str,
    size: int | tuple[int, int] | None = None,
    what: Literal["mask", "boxes", "label"] = "mask",
    years: tuple[int, ...] = (2012,),
    classes: tuple[str, ...] | None = None,
    difficult: bool = False,
    origin: int = 1,
) -> Data:
    """PASCAL VOC 2007 to 2012: masks of 21 classes, or the boxes of 20, from the XML files.

    root: the folder with JPEGImages/, VOCdevkit/, or the parent of VOCdevkit/. size: (h, w), or an int: resize the shorter
    side to it, then centre crop; required, because VOC's images differ in size. what: `mask`; `boxes`; `label`, the class of
    the object with the largest box. years: which folders of a devkit to use, with their splits concatenated. classes: the
    names of the objects, if they are not VOC's. difficult: whether difficult objects are kept. origin: the number of the
    first pixel in the XML. Source: Everingham et al., 2010. differs: VOC's own classification task is multi-label, and its
    detection metric ignores difficult objects; here they are removed. Raises `DataError`.
    """
    check_size(size)
    names = CLASSES if classes is None else classes
    places = _places(folder_at(root, EXPECTED), years)
    found = _splits(places, LISTS[what])
    card = DataCard(
        name="+".join(place.resolve().name for place in places),
        targets=(what,),
        size=shared_size(size, lambda: [_image(*item) for items in found.values() for item in items]),
        classes=() if what == "mask" else names,
        mask_classes=("background", *names) if what == "mask" else (),
        source="Everingham et al., 2010" if classes is None else "a folder in PASCAL VOC's layout",
    )

    stated = StatedSizes()

    def split(items: list[tuple[Path, str]]) -> Files:
        if what == "mask":
            table = table_of_ids({number: number for number in range(len(names) + 1)}, ignored=[IGNORE])
            valid = f"a VOC mask has 0 to {len(names)}, and {IGNORE} for borders"
            pairs = [(_image(place, name), place / "SegmentationClass" / f"{name}.png") for place, name in items]
            return masked(items[0][0].parent, pairs, table, valid, size)
        return _annotated(items, what, names, difficult, origin, size, stated)

    return Data(card, {name: Lazy(lambda items=items: split(items)) for name, items in found.items()})


def fetch(call: Call) -> Path:
    """Downloads the devkits of the requested years into the root."""
    root = expand(str(call["root"]))
    for year in call["years"]:
        for part in ("trainval", "test") if year == 2007 else ("trainval",):
            by_torchvision("VOCDetection", root, {"year": str(year), "image_set": part})
    return root


def read_objects(path: Path, difficult: bool = True) -> tuple[list[Object], tuple[int, int]]:
    """The objects of an annotation, without the difficult ones if so asked, and the image size (h, w) it states, or (0, 0).

    Raises `DataError` for an invalid file or object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{path} is rejected: it declares entities, which no annotation needs")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is truncated or not XML: {error}") from None
    objects = []
    for node in tree.iter("object"):
        name, hard = (node.findtext("name") or "").strip(), node.findtext("difficult", "0").strip() == "1"
        if hard and not difficult:
            continue
        try:
            x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            x1 = x2 = y1 = y2 = math.nan
        if not name or math.isnan(x1 + y1 + x2 + y2):
            raise DataError(f"{path}: its object '{name}' has no bndbox with the numbers xmin, ymin, xmax and ymax")
        objects.append((name, (x1, y1, x2, y2)))
    sides = [node if (node := tree.findtext(f"size/{key}", "0").strip()).isdigit() else "0" for key in ("height", "width")]
    return objects, (int(sides[0]), int(sides[1]))


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


def _splits(places: list[Path], lists: str) -> dict[str, list[tuple[Path, str]]]:
    """(folder, name) of every image, by split; in the list of one class (`name 1`) only the names are used."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for place in places:
        for split in SPLITS:
            if (file := place / "ImageSets" / lists / f"{split}.txt").is_file():
                names = [inside(line.split()[0], file) for line in lines_of(file)]
                found.setdefault(split, []).extend((place, name) for name in names)
    if not any(found.values()):
        raise DataError(f"{places[0]} has no lists of images: expected ImageSets/{lists}/train.txt, val.txt or test.txt")
    return {split: items for split, items in found.items() if items}


def _image(place: Path, name: str) -> Path:
    return place / "JPEGImages" / f"{name}.jpg"


def _annotated(
    items: list[tuple[Path, str]],
    what: str,
    names: tuple[str, ...],
    difficult: bool,
    origin: int,
    size: Size,
    sizes: StatedSizes,
) -> Files:
    index = {name: number for number, name in enumerate(names)}

    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        place, name = items[number]
        path = place / "Annotations" / f"{name}.xml"
        image, (objects, stated) = open_image(_image(place, name)), read_objects(path, difficult)
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

    return Files([f"{place.name}/{name}" for place, name in items], read)
