"""Parquet files as Hugging Face writes them: one row per sample, images as encoded files, features described in the schema.

    data/train-00000-of-00294.parquet     a repository's own layout
    <config>/train/0000.parquet           the hub's converted copy

A row is read with its whole row group, the smallest unit that Parquet can read. The last group is cached, so sequential
reading is fast and random access reads one group per image.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, DataCard
from hardsight.data.depths import Metres
from hardsight.data.images import (
    STORED,
    Size,
    UnlikeSizes,
    common,
    fit,
    open_depth,
    open_image,
    open_mask,
    passed_over,
    sides,
    size_mismatch,
    size_of,
)
from hardsight.data.lazy import need
from hardsight.data.masks import same_size
from hardsight.data.splits import Files

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
FIRST = 16
"""How many rows are opened to see whether all images have one size."""
NAMED = re.compile(r"(\w+?)(?:[-_.][\w.-]*)?\.parquet")


def split_of(name: str) -> str | None:
    """The split of a file by its posix path: from the start of its name, else from its folder; None if neither names one."""
    path = PurePosixPath(name)
    named = NAMED.fullmatch(path.name)
    return SPLITS.get(named[1].lower() if named else "") or SPLITS.get(path.parent.name.lower())


def by_split(names: Sequence[str], where: str, config: str | None = None) -> dict[str, list[str]]:
    """Parquet files by split, in order; only those of one configuration (the name of a parent folder) if `config` is given.

    Raises `DataError` if no such file exists, or if several configurations are mixed.
    """
    found: dict[str, list[str]] = {}
    tops, strange = set(), []
    for name in sorted(names):
        parts = PurePosixPath(name).parts[:-1]
        if not name.endswith(".parquet") or (config and config not in parts):
            continue
        if (split := split_of(name)) is None:
            strange.append(name)
            continue
        tops.add(next((part for part in parts if part not in SPLITS and part != "data"), ""))
        found.setdefault(split, []).append(name)
    if not found:
        limit = f" of the configuration '{config}'" if config else ""
        raise DataError(f"{where} has no parquet file{limit} that names its split, such as train-00000-of-00001.parquet")
    passed_over(f"{where}, whose files name their split", strange)
    if len(tops) > 1:
        raise DataError(f"{where} has several configurations: {', '.join(sorted(filter(None, tops)))}; give config=")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


class Shards:
    """The rows of several parquet files, concatenated in order."""

    def __init__(self, paths: Sequence[Path], reader: str) -> None:
        self.parquet = need("pyarrow.parquet", reader)
        self.paths = list(paths)
        self.files = [self._opened(path) for path in self.paths]
        groups = [(f, g) for f, file in enumerate(self.files) for g in range(file.num_row_groups)]
        counts = [self.files[f].metadata.row_group(g).num_rows for f, g in groups]
        self.groups = groups
        self.starts = [0, *accumulate(counts)]
        self._kept: tuple[int, tuple[str, ...], Any] = (-1, (), None)

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def columns(self) -> list[str]:
        return self.files[0].schema_arrow.names

    def features(self) -> dict[str, Any]:
        """The column types that Hugging Face's `datasets` wrote: {name: {"_type": "Image" | "ClassLabel" ..., ...}}."""
        noted = (self.files[0].schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            found = json.loads(noted).get("info", {}).get("features", {})
        except (ValueError, AttributeError):
            return {}
        return found if isinstance(found, dict) else {}

    def row(self, place: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """The values of a row; raises `DataError`, with the file's name, if they can't be read."""
        group = bisect_right(self.starts, place) - 1
        if self._kept[:2] != (group, columns):
            self._kept = group, columns, self._group(group, columns)
        table, inner = self._kept[2], place - self.starts[group]
        return {name: table.column(name)[inner].as_py() for name in columns}

    def values(self, column: str) -> list[Any]:
        """All values of one column."""
        return [
            value for group in range(len(self.groups)) for value in self._group(group, (column,)).column(column).to_pylist()
        ]

    def file_of(self, place: int) -> Path:
        return self.paths[self.groups[bisect_right(self.starts, place) - 1][0]]

    def _group(self, group: int, columns: tuple[str, ...]) -> Any:
        file, inner = self.groups[group]
        try:
            return self.files[file].read_row_group(inner, columns=list(columns))
        except Exception as error:  # pyarrow raises several kinds of errors for a broken file
            raise DataError(f"{self.paths[file]} is corrupt: {' '.join(str(error).split())[:200]}") from None

    def _opened(self, path: Path) -> Any:
        try:
            return self.parquet.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except Exception as error:  # pyarrow raises several kinds of errors for a broken file
            raise DataError(f"{path} is truncated or not a parquet file: {' '.join(str(error).split())[:200]}") from None


def bytes_of(value: Any, path: Path) -> bytes:
    """The encoded image in a table cell; raises `DataError` if the cell only names a file, or contains something else."""
    raw = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(raw, bytes):
        raise DataError(
            f"{path}: a cell contains {type(raw).__name__}, not the bytes of an image; the image files must be embedded"
        )
    return raw


def rows(shards: Shards, part: str, image: str, wanted: dict[str, str | None], card: DataCard, size: Size) -> Files:
    """A split of table rows: `image` is the column with the encoded images, `wanted` the column of each target."""
    columns = (image, *dict.fromkeys(column for column in wanted.values() if column))
    dense = bool(wanted.get("mask") or wanted.get("depth"))

    metres = Metres(card.max_depth or 1.0, card.unit or 1.0, STORED)

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        row, path = shards.row(place, columns), shards.file_of(place)
        where = f"{path}, row {place} of {part}"
        pixels = open_image(bytes_of(row[image], path), where)
        target: dict[str, np.ndarray] = {}
        if (column := wanted.get("label")) and row[column] != -1:
            target["label"] = np.array(_label(row[column], len(card.classes), where))
        if column := wanted.get("mask"):
            target["mask"] = _mask(open_mask(bytes_of(row[column], path), where), len(card.mask_classes), where)
        if column := wanted.get("depth"):
            target["depth"] = metres(open_depth(bytes_of(row[column], path), where), pixels, where)
        if "mask" in target:
            same_size(f"the mask of {where}", target["mask"], pixels)
        if size is None and pixels.shape[:2] != card.size:
            raise UnlikeSizes(size_mismatch(where, pixels.shape[:2], "the first", card.size))
        if dense:
            target = {kind: fit(value, size, nearest=True) if value.ndim else value for kind, value in target.items()}
            pixels = fit(pixels, size)
        return pixels, target

    return Files([f"{part}_{number:07d}" for number in range(len(shards))], read, size=None if dense else size)


def row_size(size: Size, shards: Shards, image: str) -> tuple[int, int]:
    """The size (h, w) of the images in all rows: the requested size, or else that of the first rows, which must be one."""
    if asked := sides(size):
        return asked
    if len(shards) == 0:
        raise DataError(f"{shards.paths[0]} has no rows")
    names = [f"{shards.paths[0]}, row {place}" for place in range(min(FIRST, len(shards)))]
    cells = (shards.row(place, (image,))[image] for place in range(len(names)))
    return common((name, size_of(bytes_of(cell, shards.paths[0]), name)) for name, cell in zip(names, cells, strict=True))


def _label(value: Any, count: int, where: str) -> int:
    if not isinstance(value, int) or not 0 <= value < count:
        raise DataError(f"{where}: its label is {value!r}; valid classes are 0 to {count - 1}")
    return value


def _mask(ids: np.ndarray, count: int, where: str) -> np.ndarray:
    strange = ids[(ids >= count) & (ids != IGNORE)]
    if strange.size:
        raise DataError(
            f"{where}: its mask has the id {int(strange.max())}; valid are 0 to {count - 1} (mask_classes={count}) "
            f"and {IGNORE}"
        )
    return ids
