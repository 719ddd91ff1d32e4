"""COCO's format: annotations/instances_<split><year>.json, or files of other names, and folders with the images they name.

Category ids have gaps (COCO uses 80 of 1 to 90); sorted by id they become 0, 1, 2, ... A box is [x, y, width, height] from
the top left corner. An annotation file is read when its split is first used: that of COCO's train2017 has 450 MB.
"""

from __future__ import annotations

import functools
import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardsight.core.errors import DataError, DataWarning
from hardsight.data.base import OWN, Data, DataCard
from hardsight.data.boxes import StatedSizes, boxed
from hardsight.data.drawn import drawn
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, first_few, fit, folder_at, open_image, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside
from hardsight.data.sets.coco_files import EXPECTED, annotation_files, image_folder
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

BACKGROUND = ("background", "bg")
OUTLINE = re.compile(rb'"segmentation":\s*\[[^"{}]*\]\s*,\s*(?=")')
"""Segmentation outlines: boxes don't need them, and removing this 3/4 of the file first makes parsing over twice as fast."""
OWN_NAMES = re.compile(r"(COCO_\w+_)?\d{12}\.jpg")
"""The names of COCO's own images."""
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
    """The contents of one annotation file.

    categories: name by id. names and sizes (h, w) of N images, (0, 0) if not given. boxes [M, 4] as x, y, w, h and labels
    [M] in 0..K-1, image after image; those of image n are starts[n] to starts[n + 1].
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
    annotations: str | None = None,
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """COCO, or another set in its format: boxes of its categories, from annotations/instances_*.json, or any JSON file.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; required, because COCO's images differ in size.
    images: the image folder relative to root, if it is not one of the usual ones. year: needed if there are several. crowd:
    whether crowd boxes are kept. annotations: one file, relative to root, instead of those whose names say their part. test,
    seed: the share of images that is drawn for testing, if one file is for all images. Images without a box are kept; a
    category 0 or background that no box has is no class. Source: Lin et al., 2014. differs: COCO's own metric ignores
    detections in crowds; here crowds are removed from the ground truth. Raises `DataError`.
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    files = annotation_files(place, year, annotations)
    index = functools.cache(lambda name: read_index(files[name], crowd))
    smallest = min(files, key=lambda name: files[name].stat().st_size)
    if any(_is_background(*one) for one in index(smallest).categories.items()):
        index = _without_background({name: index(name) for name in files}).__getitem__
    categories, stated = index(smallest).categories, StatedSizes()

    def paths(name: str) -> list[Path]:
        folder = image_folder(place, name, files[name], images, index(name).names[0])
        return [folder / file for file in index(name).names]

    def split(name: str, rows: list[int] | None = None) -> Files:
        if index(name).categories != categories:
            raise DataError(
                f"{files[name]} and {files[smallest]} have different categories; they must be the same in all splits"
            )
        return _split(files[name], index(name), paths(name), size, stated, rows)

    published = len(categories) == 80 and OWN_NAMES.fullmatch(index(smallest).names[0]) is not None
    card = DataCard(
        name="COCO" if published else place.resolve().name,
        targets=("boxes",),
        size=shared_size(size, lambda: [path for name in files for path in paths(name)]),
        classes=tuple(categories[number] for number in sorted(categories)),
        source="Lin et al., 2014" if published else f"{OWN} COCO's layout",
    )
    if "" in files:
        return Data(card, {name: split("", rows) for name, rows in drawn(len(index("").names), test, seed).items()})
    return Data(card, {name: Lazy(functools.partial(split, name)) for name in files})


def read_index(path: Path, crowd: bool = False) -> Index:
    """Reads an annotation file; raises `DataError`, with its name, if it is truncated or inconsistent."""
    try:
        content = json.loads(OUTLINE.sub(b"", path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated or not JSON: {error}") from None
    try:
        categories = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        images = {int(one["id"]): one for one in content["images"]}
        names = _names([str(one["file_name"]) for one in content["images"]], path)
        sizes = [(_side(one.get("height")), _side(one.get("width"))) for one in content["images"]]
        if not names or len(set(names)) < len(names) or len(images) < len(names):
            raise DataError(f"{path} lists {len(names)} images under {len(images)} ids and {len(set(names))} names")
        row, label = ({number: place for place, number in enumerate(ids)} for ids in (images, sorted(categories)))
        found, lost = [], set()
        for one in content["annotations"]:
            if one.get("iscrowd") and not crowd:
                continue
            if one["image_id"] not in row:
                lost.add(one["image_id"])
                continue
            if one["category_id"] not in label:
                raise DataError(
                    f"{path}: annotation {one.get('id')} has the category {one['category_id']}, which the file doesn't list"
                )
            x, y, wide, high = one["bbox"]
            found.append((row[one["image_id"]], label[one["category_id"]], float(x), float(y), float(wide), float(high)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = f"{type(error).__name__} {error}"
        raise DataError(f"{path} is no instances file (images, annotations with a bbox, categories): {reason}") from None
    if lost:
        few = first_few(str(number) for number in sorted(lost, key=str))
        warnings.warn(
            f"{path} has annotations of images that it doesn't list, which are not used: {few}", DataWarning, stacklevel=2
        )
    table = np.array(found, dtype=np.float64).reshape(-1, 6)
    table = table[np.argsort(table[:, 0], kind="stable")]
    starts = np.searchsorted(table[:, 0], np.arange(len(names) + 1))
    return Index(categories, names, sizes, table[:, 2:].astype(np.float32), table[:, 1].astype(np.int64), starts)


def _is_background(key: int, name: str) -> bool:
    return key == 0 or name.strip("_").lower() in BACKGROUND


def _without_background(indices: dict[str, Index]) -> dict[str, Index]:
    """The indices without the categories that are no class: background or the id 0, if no box of any part has it."""
    found = {key for index in indices.values() for key, name in index.categories.items() if _is_background(key, name)}
    used = {sorted(index.categories)[label] for index in indices.values() for label in np.unique(index.labels)}
    without = {}
    for part, index in indices.items():
        kept = {key: name for key, name in index.categories.items() if key not in found - used}
        place = np.array([sorted(kept).index(key) if key in kept else -1 for key in sorted(index.categories)], np.int64)
        without[part] = index._replace(categories=kept, labels=place[index.labels])
    return without


def _names(names: list[str], file: Path) -> list[str]:
    """Paths of images below a folder; of those of another machine only the last part, with one warning."""
    plain = [re.sub(r"\\+(?=[\w.])", "/", name) for name in names]  # as Windows separates folders
    strange = [name for name in plain if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/")]
    if strange:
        what = f"{len(strange):,} images with paths outside the folder, such as {strange[0]}"
        warnings.warn(f"{file} has {what}; only their file names are used", DataWarning, stacklevel=3)
    cut = set(strange)
    return [inside(name.rpartition("/")[2] if name in cut else name, file) for name in plain]


def _side(stated: Any) -> int:
    """A side of an image in pixels as the file states it, or 0 if it states none."""
    try:
        return int(stated)
    except (TypeError, ValueError, OverflowError):
        return 0


def _split(file: Path, index: Index, paths: list[Path], size: Size, stated: StatedSizes, rows: list[int] | None) -> Files:
    """The images at these rows of the index; None: all of them."""
    rows = list(range(len(paths))) if rows is None else rows

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        row = rows[place]
        image, where = open_image(paths[row]), f"{file}: {index.names[row]}"
        mine = slice(index.starts[row], index.starts[row + 1])
        corners = index.boxes[mine].copy()
        corners[:, 2:] += corners[:, :2]
        stated(index.sizes[row], corners, image, where)
        return fit(image, size), boxed(corners, index.labels[mine], image.shape, size, where)

    return Files([index.names[row] for row in rows], read)
