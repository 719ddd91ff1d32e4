"""COCO's layout: annotations/instances_<split><year>.json, and the images it names in a folder a split.

Category ids have gaps (COCO uses 80 of 1 to 90); in the order of the ids they become 0, 1, 2, ... A box is [x, y, width,
height] from the picture's corner. A file is read when its split is first used: that of COCO's train2017 has 450 MB.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.boxes import boxed
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, contents, fit, folder_at, open_image, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

NAMED = re.compile(r"instances_(train|val|test)(\d*)\.json")
OUTLINE = re.compile(rb'"segmentation":\s*\[[^"{}]*\]\s*,\s*(?=")')
"""The outlines, which no box needs and which are three quarters of a file: to cut them first makes reading more than twice as fast."""
EXPECTED = "annotations/instances_train2017.json or instances_val2017.json, with train2017/ or val2017/"
PUBLISHED = {
    "coco": Published(
        "https://cocodataset.org",
        {"train": 118287, "val": 5000},
        files=tuple(
            (f"http://images.cocodataset.org/{name}.zip", "")
            for name in ("annotations/annotations_trainval2017", "zips/val2017", "zips/train2017")
        ),
    )
}


class Index(NamedTuple):
    """One file of annotations.

    categories: name by id. names and sizes (h, w), (0, 0) where none is told, of N images. boxes [M, 4] as x, y, w, h and
    labels [M] in 0..K-1, image after image; those of image n are starts[n] to starts[n + 1].
    """

    categories: dict[int, str]
    names: list[str]
    sizes: list[tuple[int, int]]
    boxes: np.ndarray
    labels: np.ndarray
    starts: np.ndarray


@register
def coco(
    root: str,
    size: int | tuple[int, int] | None = None,
    images: str | None = None,
    year: int | None = None,
    crowd: bool = False,
) -> Data:
    """COCO, or another set in its layout: boxes of its categories, from annotations/instances_*.json.

    size: (h, w), or a number: the shorter side is resized to it and the centre cut out; COCO's images differ in size, so one
    is needed. images: the folder below root that the file names start in, where it is none of the usual. year: where there
    are several. crowd: whether boxes of crowds are kept. Images without a box are kept. Source: Lin et al., 2014. differs:
    COCO's own score neither rewards nor punishes what is found in crowds; here they are left out. Raises `DataError`.
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    files = _files(place, year)
    index = functools.cache(lambda name: read_index(files[name], crowd))
    smallest = min(files, key=lambda name: files[name].stat().st_size)
    categories = index(smallest).categories

    def paths(name: str) -> list[Path]:
        folder = _folder(place, name, files[name], images, index(name).names)
        return [folder / file for file in index(name).names]

    def split(name: str) -> Files:
        if index(name).categories != categories:
            raise DataError(f"{files[name]} has other categories than {files[smallest]}")
        return _split(files[name], index(name), paths(name), size)

    whole = len(categories) == 80
    card = DataCard(
        name="COCO" if whole else place.resolve().name,
        targets=("boxes",),
        size=shared_size(size, lambda: [path for name in files for path in paths(name)]),
        classes=tuple(categories[number] for number in sorted(categories)),
        source="Lin et al., 2014" if whole else "a folder in COCO's layout",
    )
    return Data(card, {name: Lazy(functools.partial(split, name)) for name in files})


def read_index(path: Path, crowd: bool = False) -> Index:
    """What a file of annotations says; `DataError`, with its name, for one that is cut short or does not hold together."""
    try:
        content = json.loads(OUTLINE.sub(b"", path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is cut short or no JSON: {error}") from None
    try:
        categories = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        images = {int(one["id"]): one for one in content["images"]}
        names = [inside(str(one["file_name"]), path) for one in content["images"]]
        sizes = [(int(one.get("height") or 0), int(one.get("width") or 0)) for one in content["images"]]
        if not names or len(set(names)) < len(names) or len(images) < len(names):
            raise DataError(f"{path} lists {len(names)} images under {len(images)} ids and {len(set(names))} names")
        row, label = ({number: place for place, number in enumerate(ids)} for ids in (images, sorted(categories)))
        found = []
        for one in content["annotations"]:
            if one.get("iscrowd") and not crowd:
                continue
            if one["image_id"] not in row or one["category_id"] not in label:
                told = f"image {one['image_id']} and category {one['category_id']}"
                raise DataError(f"{path}: the annotation {one.get('id')} is of {told}, and the file has no such")
            x, y, wide, high = one["bbox"]
            found.append((row[one["image_id"]], label[one["category_id"]], float(x), float(y), float(wide), float(high)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        told = f"{type(error).__name__} {error}"
        raise DataError(f"{path} is no file of instances (images, annotations with a bbox, categories): {told}") from None
    table = np.array(found, dtype=np.float64).reshape(-1, 6)
    table = table[np.argsort(table[:, 0], kind="stable")]
    starts = np.searchsorted(table[:, 0], np.arange(len(names) + 1))
    return Index(categories, names, sizes, table[:, 2:].astype(np.float32), table[:, 1].astype(np.int64), starts)


def _files(place: Path, year: int | None) -> dict[str, Path]:
    """The file of each split; `DataError` where there is none, or several years of one and none is asked for."""
    found: dict[str, Path] = {}
    folder = place / "annotations"
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        if (named := NAMED.fullmatch(path.name)) and (year is None or named[2] == str(year)):
            if named[1] in found:
                raise DataError(f"{folder} has both {found[named[1]].name} and {path.name}; give year=")
            found[named[1]] = path
    if not found:
        raise DataError(
            f"{place} holds no COCO{f' of {year}' if year else ''}; expected {EXPECTED}, found {contents(place)}"
        )
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _folder(place: Path, split: str, file: Path, images: str | None, names: list[str]) -> Path:
    """The folder that a split's file names start in: the first of the usual ones that holds its first image."""
    if images is not None:
        return place / images
    named: Any = NAMED.fullmatch(file.name)
    usual = [f"{split}{named[2]}", f"images/{split}{named[2]}", f"images/{split}", split, "images", "."]
    for folder in usual:
        if (place / folder / names[0]).is_file():
            return place / folder
    raise DataError(f"{place} has no {names[0]} in {', '.join(dict.fromkeys(usual))}; give images='folder'")


def _split(file: Path, index: Index, paths: list[Path], size: Size) -> Files:
    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, told = open_image(paths[place]), index.sizes[place]
        if all(told) and told != image.shape[:2]:
            high, wide = image.shape[:2]
            raise DataError(f"{paths[place]} is {wide}x{high} pixels, but {file.name} says {told[1]}x{told[0]}")
        mine = slice(index.starts[place], index.starts[place + 1])
        corners = index.boxes[mine].copy()
        corners[:, 2:] += corners[:, :2]
        return fit(image, size), boxed(corners, index.labels[mine], image.shape, size, f"{file}: {index.names[place]}")

    return Files(index.names, read)
