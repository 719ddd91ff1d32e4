"""COCO's layout: annotations/instances_<split><year>.json, and one folder per split with the images it names.

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
from hardsight.data.base import Data, DataCard
from hardsight.data.boxes import StatedSizes, boxed
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, contents, first_few, fit, folder_at, open_image, shared_size
from hardsight.data.lazy import Lazy
from hardsight.data.lists import inside
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

NAMED = re.compile(r"instances_(train|val|test)(\d*)\.json")
OUTLINE = re.compile(rb'"segmentation":\s*\[[^"{}]*\]\s*,\s*(?=")')
"""Segmentation outlines: boxes don't need them, and removing this 3/4 of the file first makes parsing over twice as fast."""
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
) -> Data:
    """COCO, or another set in its layout: boxes of its categories, from annotations/instances_*.json.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; required, because COCO's images differ in size.
    images: the image folder relative to root, if it is not one of the usual ones. year: needed if there are several. crowd:
    whether crowd boxes are kept. Images without a box are kept. Source: Lin et al., 2014. differs: COCO's own metric ignores
    detections in crowds; here crowds are removed from the ground truth. Raises `DataError`.
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    files = _files(place, year)
    index = functools.cache(lambda name: read_index(files[name], crowd))
    smallest = min(files, key=lambda name: files[name].stat().st_size)
    categories, stated = index(smallest).categories, StatedSizes()

    def paths(name: str) -> list[Path]:
        folder = _folder(place, name, files[name], images, index(name).names)
        return [folder / file for file in index(name).names]

    def split(name: str) -> Files:
        if index(name).categories != categories:
            raise DataError(
                f"{files[name]} and {files[smallest]} have different categories; they must be the same in all splits"
            )
        return _split(files[name], index(name), paths(name), size, stated)

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


def _files(place: Path, year: int | None) -> dict[str, Path]:
    """The file of each split; raises `DataError` if there is none, or if a split has several years and none is chosen."""
    found: dict[str, Path] = {}
    folder = place / "annotations"
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        if (named := NAMED.fullmatch(path.name)) and (year is None or named[2] == str(year)):
            if named[1] in found:
                raise DataError(f"{folder} has both {found[named[1]].name} and {path.name}; give year=")
            found[named[1]] = path
    if not found:
        raise DataError(
            f"{place} contains no COCO{f' of {year}' if year else ''}; expected {EXPECTED}, found {contents(place)}"
        )
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _folder(place: Path, split: str, file: Path, images: str | None, names: list[str]) -> Path:
    """The image folder of a split: the first of the usual ones that contains its first image."""
    if images is not None:
        return place / images
    named: Any = NAMED.fullmatch(file.name)
    usual = [f"{split}{named[2]}", f"images/{split}{named[2]}", f"images/{split}", split, "images", "."]
    for folder in usual:
        if (place / folder / names[0]).is_file():
            return place / folder
    raise DataError(f"{place} has no {names[0]} in {', '.join(dict.fromkeys(usual))}; give images='folder'")


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


def _split(file: Path, index: Index, paths: list[Path], size: Size, stated: StatedSizes) -> Files:
    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, where = open_image(paths[place]), f"{file}: {index.names[place]}"
        mine = slice(index.starts[place], index.starts[place + 1])
        corners = index.boxes[mine].copy()
        corners[:, 2:] += corners[:, :2]
        stated(index.sizes[place], corners, image, where)
        return fit(image, size), boxed(corners, index.labels[mine], image.shape, size, where)

    return Files(index.names, read)
