"""Folders of images in the common layouts, recognized by their paths only; an archive is read as a packed folder.

    train/<class>/*  val/<class>/*  test/<class>/*   the given splits
    <class>/*                                        split by a hash of each path, class by class
    labels.csv next to the images                    a split "test", unless the file has a column "split"
    *                                                a split "test" without labels

A class is a first-level folder with everything below it; classes are numbered in alphabetical order, or in numeric order if
all names are whole numbers. A folder that contains nothing but one folder is skipped, so `root` may be one level too high.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.archive import ENDINGS, is_archive, read_archive
from hardsight.data.base import Data, DataCard, Images
from hardsight.data.images import (
    SUFFIXES,
    Size,
    check_size,
    common_size,
    contents,
    expand,
    first_few,
    folder_at,
    image_names,
    open_image,
    passed_over,
    sides,
)
from hardsight.data.lists import inside
from hardsight.data.preprocess import Preprocess
from hardsight.data.splits import Arrays, Files
from hardsight.specs.catalog import register

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MOST_CLASSES = 100_000
EXPECTED = "train/<class>/*.jpg and test/<class>/*.jpg, or <class>/*.jpg, or labels.csv, or just images"


class Layout(NamedTuple):
    """Split -> [(posix path, class index)]; for images without labels the index is -1 and classes is empty."""

    splits: dict[str, list[tuple[str, int]]]
    classes: tuple[str, ...] = ()


@register
def folder(root: str, size: int | tuple[int, int] | Preprocess | None = None, test: float = 0.2) -> Data:
    """Images in folders, one folder per class, with or without train/, val/, test/; also labels.csv, and .tar.xz archives.

    size: (h, w), or an int: resize the shorter side to it, then centre crop, or a preprocessing, evaluation(224, 256). Where
    images differ in size, a benchmark prepares them as each encoder's authors do, training draws crops from them as they
    are stored, and all else needs a size. test: the share of each class for the test split, if the folders define no splits. labels.csv has the columns file,
    class_index and optionally name and split. Ids are paths relative to root. Raises `DataError`.
    """
    check_size(size)
    if not 0 <= test <= 1:
        raise DataError(f"test={test}: the share of images to test on must be between 0 and 1")
    return _from_archive(expand(root), size, test) if is_archive(root) else _from_folder(root, size, test)


def arrange(names: list[str], test: float, root: str) -> Layout:
    """Splits and classes, from the paths only; raises `DataError` if it is ambiguous what the classes are."""
    names = sorted(names)
    depth = _shared_depth(names)
    parts = {name: name.split("/")[depth:] for name in names}
    tops = {found[0] for found in parts.values() if len(found) > 1}
    named = {top for top in tops if top in SPLITS}
    if named and (named == tops or any(len(found) > 2 and found[0] in named for found in parts.values())):
        groups: dict[str, dict[str, list[str]]] = {}
        for name, found in parts.items():
            if found[0] in named:
                groups.setdefault(SPLITS[found[0]], {})[name] = found[1:]
    else:
        groups = {"": parts}
    labelled = {_is_labelled(group, f"{root}/{split}".rstrip("/")) for split, group in groups.items()}
    if len(labelled) > 1:
        raise DataError(
            f"{root}: of its splits {', '.join(groups)}, some have class folders and some don't; all or none must have them"
        )
    if labelled == {False}:
        return Layout({split or "test": [(name, -1) for name in group] for split, group in groups.items()})
    classes = in_order(found[0] for group in groups.values() for found in group.values())
    _refuse_strangers(groups, root)
    index = {name: number for number, name in enumerate(classes)}
    splits = {split: [(name, index[found[0]]) for name, found in group.items()] for split, group in groups.items()}
    if "" in splits:
        splits = divide(splits[""], test)
    return Layout({split: splits[split] for split in ("train", "val", "test") if splits.get(split)}, classes)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names without repetitions: in numeric order if all are whole numbers, else in alphabetical order."""
    once = sorted(set(names))
    return tuple(sorted(once, key=int) if all(name.isascii() and name.isdigit() for name in once) else once)


def divide(items: list[tuple[str, int]], test: float) -> dict[str, list[tuple[str, int]]]:
    """Train and test: of each class, the share `test` with the lowest path hashes (if several, at least one and not all)."""
    chosen: set[str] = set()
    members: dict[int, list[str]] = {}
    for name, label in items:
        members.setdefault(label, []).append(name)
    for names in members.values():
        names.sort(key=_hash)
        count = round(test * len(names))
        if 0 < test < 1 and len(names) > 1:
            count = min(max(count, 1), len(names) - 1)
        chosen.update(names[:count])
    return {
        "train": [item for item in items if item[0] not in chosen],
        "test": [item for item in items if item[0] in chosen],
    }


def read_labels(file: Path) -> Layout:
    """Reads a labels.csv; raises `DataError`, with the line, for a missing image, a path outside the folder, a bad index."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV: {error}") from None
    if missing := [name for name in ("file", "class_index") if name not in columns]:
        raise DataError(f"{file} has no column '{missing[0]}'; its columns are: {', '.join(columns) or 'none'}")
    if not rows:
        raise DataError(f"{file} lists no image")
    splits: dict[str, list[tuple[str, int]]] = {}
    known: dict[int, str] = {}
    seen: set[str] = set()
    for line, row in enumerate(rows, 2):
        name, index = PurePosixPath(row["file"] or "").as_posix(), (row["class_index"] or "").strip()
        split = (row.get("split") or "test").strip()
        inside(name, f"{file}, line {line}")
        if not (file.parent / name).is_file():
            raise DataError(f"{file}, line {line}: no such file {name}")
        if name in seen:
            raise DataError(f"{file}, line {line}: {name} is listed twice")
        if not (index.isascii() and index.isdigit() and int(index) < MOST_CLASSES):
            raise DataError(
                f"{file}, line {line}: class_index is '{index}'; it must be an integer from 0 to {MOST_CLASSES - 1}"
            )
        if split not in SPLITS:
            raise DataError(f"{file}, line {line}: split is '{split}'; it must be train, val or test")
        seen.add(name)
        splits.setdefault(SPLITS[split], []).append((name, int(index)))
        if row.get("name"):
            known[int(index)] = row["name"].strip()
    most = max(index for items in splits.values() for _, index in items)
    return Layout(splits, tuple(known.get(index, str(index)) for index in range(most + 1)))


def _from_folder(root: str, size: Size, test: float) -> Data:
    place = folder_at(root, EXPECTED)
    if (place / "labels.csv").is_file():
        layout = read_labels(place / "labels.csv")
        listed = {name for items in layout.splits.values() for name, _ in items}
        others = [name for name in image_names(place, r"labels\.csv") if name not in listed]
        passed_over(f"{place}, whose labels.csv lists the images", others)
    else:
        names = image_names(place)
        if not names:
            raise DataError(
                f"{place} contains no image ({', '.join(SUFFIXES)}); expected {EXPECTED} "
                f"or an archive ({', '.join(ENDINGS)}); it contains {contents(place)}"
            )
        layout = arrange(names, test, str(place))
    real = sides(size) or common_size([place / name for items in layout.splits.values() for name, _ in items])

    def split(items: list[tuple[str, int]]) -> Images:
        def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            name, label = items[number]
            return open_image(place / name), {} if label < 0 else {"label": np.array(label)}

        return Files([name for name, _ in items], read, size=size)

    return Data(_card(place.resolve().name, layout, real), {name: split(items) for name, items in layout.splits.items()})


def _from_archive(path: Path, size: Size, test: float) -> Data:
    names, images, passed = read_archive(path, size)
    passed_over(path, passed)
    layout = arrange(names, test, path.name)
    depth = _shared_depth(names)
    row = {name: number for number, name in enumerate(names)}
    splits: dict[str, Images] = {}
    for split, items in layout.splits.items():
        ids = ["/".join(name.split("/")[depth:]) for name, _ in items]
        labels = np.array([label for _, label in items]) if layout.classes else None
        splits[split] = Arrays(ids, images, labels, np.array([row[name] for name, _ in items]))
    high, wide = images.shape[2:]
    return Data(_card(path.name.split(".")[0], layout, (high, wide)), splits)


def _card(name: str, layout: Layout, size: tuple[int, int]) -> DataCard:
    targets = ("label",) if layout.classes else ()
    return DataCard(name, targets, size, layout.classes, source="a folder of images")


def _shared_depth(names: list[str]) -> int:
    """How many leading folders all paths have in common, up to a folder named like a split."""
    first, last = min(names).split("/")[:-1], max(names).split("/")[:-1]
    depth = 0
    for one, other in zip(first, last, strict=False):
        if one != other or one in SPLITS:
            break
        depth += 1
    return depth


def _is_labelled(group: dict[str, list[str]], where: str) -> bool:
    loose = [name for name, found in group.items() if len(found) == 1]
    if loose and len(loose) < len(group):
        raise DataError(
            f"{where} contains both images ({first_few(loose)}) and folders of images; put each image into a class folder"
        )
    return not loose


def _refuse_strangers(groups: dict[str, dict[str, list[str]]], root: str) -> None:
    """Raises `DataError` for a class that appears only outside train: it is most often a misplaced folder."""
    known = {found[0] for found in groups.get("train", {}).values()}
    for split, group in groups.items():
        strangers = sorted({found[0] for found in group.values()} - known)
        if known and strangers:
            raise DataError(f"{root}/{split} has classes that train does not have: {first_few(strangers)}")


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
