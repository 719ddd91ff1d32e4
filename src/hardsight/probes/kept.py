"""Features on disk: those of one encoder for the same images are computed once, and shared by heads, runs and processes.

    CACHE/features/KEY/card.json               which images, and where the features lie on them
                      /pooled.safetensors ...  a column: one tensor [N, ...] of features or of a target

A folder is written aside while the features are computed, synced, and renamed as a whole: of several processes the first one
counts, and none sees half of it. Columns are mapped, not read into memory. Above the limit the folders that were used least
recently are deleted; a process that reads one keeps its files until it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.process import runs, token
from hardsight.data.archive import cache_folder
from hardsight.store.files import ASIDE

VARIABLE = "HARDSIGHT_FEATURES"
"""Environment variable: how many GiB the folder of features may have; 0 switches it off."""
LIMIT = 10.0
VERSION, HEADER = 1, 512
"""Of the format; and the bytes before the values of a column, since its length is known only when the last value is written."""
DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
NUMPY = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
PAGE, RELEASE = 2**21, 2**27
"""What one read may map: a page of the largest kind. After so many bytes a process gives all back, so that its memory stays small."""


def limit() -> int:
    """Bytes that the folder of features may have; raises `SpecError` if the variable is not a number of at least 0."""
    text = os.environ.get(VARIABLE, "") or str(LIMIT)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise SpecError(
            f"{VARIABLE} is '{text}'; it must be the GiB that features may take on disk, such as 10, or 0 for none"
        )
    return int(number * 2**30)


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()[:24]


class Column:
    """One tensor [N, ...] in a safetensors file of its own; indexed by positions [n], it gives those rows as a copy."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(length))["rows"]
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.shape, begin = tuple(head["shape"]), 8 + length
        kind = np.dtype(NUMPY[head["dtype"]])
        if (
            head["data_offsets"][1] != int(np.prod(self.shape)) * kind.itemsize
            or len(self._map) != begin + head["data_offsets"][1]
        ):
            raise ValueError(f"{path} is not complete")
        self._rows = np.frombuffer(self._map, kind, offset=begin).reshape(self.shape)
        self._read = 0

    def __getitem__(self, index: Tensor) -> Tensor:
        places, rows = index.numpy(), np.empty((len(index), *self.shape[1:]), self._rows.dtype)
        each = max(PAGE, rows[:1].nbytes)
        step = max(1, RELEASE // each)
        for start in range(0, len(places), step):
            part = places[start : start + step]
            rows[start : start + step] = self._rows[part]
            self._read += len(part) * each
            if self._read >= RELEASE:
                self._release()
        return torch.from_numpy(rows)

    def whole(self) -> Tensor:
        rows = torch.from_numpy(self._rows.copy())
        self._release()
        return rows

    def _release(self) -> None:
        self._read = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Writing:
    """A column while it is written, part after part."""

    def __init__(self, path: Path, like: Tensor) -> None:
        self.like, self.count, self.file = like, 0, open(path, "wb")  # noqa: SIM115
        self.file.write(bytes(HEADER))

    def add(self, rows: Tensor) -> None:
        if rows.shape[1:] != self.like.shape[1:] or rows.dtype != self.like.dtype:
            raise ValueError(f"rows are {list(rows.shape)} of {rows.dtype}, and the first {list(self.like.shape)}")
        self.file.write(memoryview(rows.contiguous().numpy()).cast("B") if rows.numel() else b"")  # type: ignore[arg-type]
        self.count += len(rows)

    def close(self) -> None:
        shape = [self.count, *self.like.shape[1:]]
        size = self.file.tell() - HEADER
        head = json.dumps({"rows": {"dtype": DTYPES[self.like.dtype], "shape": shape, "data_offsets": [0, size]}}).encode()
        self.file.seek(0)
        self.file.write(struct.pack("<Q", HEADER - 8) + head.ljust(HEADER - 8))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Kept:
    """The columns in a folder, by name, and its card."""

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self.columns = {name: Column(folder / f"{name}.safetensors") for name in self.card["columns"]}
        with contextlib.suppress(OSError):
            os.utime(folder)  # used now


def find(key: str) -> Kept | None:
    """The features under that key; None if there are none, or if they are damaged, which are then deleted."""
    folder = _home() / key
    if not folder.exists():
        return None
    try:
        return Kept(folder)
    except OSError:  # deleted in this moment
        return None
    except (ValueError, KeyError, TypeError, struct.error):
        _remove(folder)
        return None


def write(key: str, parts: Iterable[dict[str, Tensor]], count: int, card: dict[str, Any], most: int) -> Kept | None:
    """Writes the columns of all parts; None, with a warning, if they don't fit. The folder is the first writer's.

    parts: rows by column; `count`: of their rows together, as far as it is known. card: read at the end, when it is complete.
    """
    home, writers = _home(), {}
    aside = home / f".{key}.{token()}{ASIDE}"
    try:
        aside.mkdir(parents=True)
        for part in parts:
            if not writers:
                rows = len(next(iter(part.values())))
                size = sum(one.numel() * one.element_size() for one in part.values()) // max(1, rows) * count
                room = min(most, shutil.disk_usage(home).free * 9 // 10)
                if size > room:
                    _told(
                        f"features of {size / 2**30:.1f} GiB are not kept in {home}, which has room for {room / 2**30:.1f} GiB"
                    )
                    return None
            for name, rows in part.items():
                if name not in writers:
                    writers[name] = Writing(aside / f"{name}.safetensors", rows)
                writers[name].add(rows)
        if not writers:
            return None
        for one in writers.values():
            one.close()
        with open(aside / "card.json", "w", encoding="utf-8") as file:
            json.dump({**card, "columns": list(writers)}, file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # another process was first
            os.rename(aside, home / key)
        _evict(home, key, most)
        return find(key)
    except (OSError, ValueError) as error:
        _told(f"features cannot be kept in {home}: {getattr(error, 'strerror', None) or error}")
        return None
    finally:
        for one in writers.values():
            one.file.close()
        shutil.rmtree(aside, ignore_errors=True)


def _home() -> Path:
    return cache_folder() / "features"


def _told(text: str) -> None:
    warnings.warn(f"{text}; they are computed again by the next head", stacklevel=3)


def _evict(home: Path, keep: str, most: int) -> None:
    """Deletes what killed processes left, and the features used least recently, until the others take at most `most` bytes."""
    ages: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError):
        for folder in home.iterdir():
            if folder.name.startswith("."):
                if runs(folder.name.removesuffix(ASIDE).rpartition(".")[2]) is False:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                ages.append((folder.stat().st_mtime, sum(one.stat().st_size for one in folder.iterdir()), folder))
    total = sum(size for _, size, _ in ages)
    for _, size, folder in sorted(ages):
        if total > most and folder.name != keep:
            _remove(folder)
            total -= size


def _remove(folder: Path) -> None:
    """In one step for other processes: a folder is there as a whole, or not."""
    gone = folder.with_name(f".{folder.name}.{token()}{ASIDE}")
    with contextlib.suppress(OSError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
