"""Atomic writing of JSON and arrays: temporary file, sync, rename, so that no partial file exists; and reading them."""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import io
import json
import math
import os
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.core.process import runs, token

Rows = dict[str, np.ndarray]
ASIDE = ".tmp"
"""The end of a temporary file's name; before it stands the `token` of the process that writes it."""
ABANDONED = 3600.0


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: temporary file, sync, rename. On an error, raises `StoreError` and keeps the old file."""
    temporary = path.with_name(f".{path.name}.{token()}{ASIDE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> StoreError:
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return StoreError(f"cannot write {path}: {reason}; files written before are kept, run the same command again to resume")


def sweep(folder: Path, names: Iterable[str] | None = None) -> None:
    """Removes the temporary files of processes that were killed. names: those in the folder, if they are known already.

    Of another machine's process nobody here knows whether it runs: its file is removed `ABANDONED` seconds after its last change,
    by the file system's own clock.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder) if names is None else names:
            if not (name.startswith(".") and name.endswith(ASIDE)):
                continue
            path, writer = folder / name, name.removesuffix(ASIDE).rpartition(".")[2]
            known = runs(writer)
            if known is False or (known is None and clock(folder) - path.stat().st_mtime > ABANDONED):
                path.unlink(missing_ok=True)


def clock(folder: Path) -> float:
    """The time by the clock of a folder's file system, which may be another machine's; this machine's if it can't be written to."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=f".{token()}{ASIDE}") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Rows) -> None:
    """Writes an .npz whose bytes depend only on the arrays (numpy sets the date of every member to 1980)."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, only: Callable[[str], bool] | None = None) -> Rows:
    """The arrays of an .npz, or only those of some names."""
    try:
        content = path.read_bytes()
        return {name: _array(_member(content, *place)) for name, *place in _directory(content) if only is None or only(name)}
    except (OSError, ValueError, EOFError, KeyError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise StoreError(f"cannot read {path}: {error}; delete that file, and the next run will create it again") from None


def _directory(content: bytes) -> list[tuple[str, int, int, int, int]]:
    """(name without .npy, method, CRC, compressed size, offset) of each member of a zip file.

    A store has thousands of small files: read so, one takes a fifth of the time that numpy and zipfile take.
    """
    end = content.rfind(b"PK\x05\x06")
    if end < 0:
        raise zipfile.BadZipFile("File is not a zip file")
    count, _, at = struct.unpack_from("<HII", content, end + 10)
    found = []
    for _ in range(count):
        mark, method, crc, packed, size, name, extra, comment, offset = struct.unpack_from("<I6xH4xIIIHHH8xI", content, at)
        if mark != 0x02014B50 or 0xFFFFFFFF in (packed, size, offset):
            raise zipfile.BadZipFile("the directory of the zip file is damaged or of more than 4 GiB")
        found.append((content[at + 46 : at + 46 + name].decode().removesuffix(".npy"), method, crc, packed, offset))
        at += 46 + name + extra + comment
    return found


def _member(content: bytes, method: int, crc: int, packed: int, offset: int) -> bytes:
    name, extra = struct.unpack_from("<HH", content, offset + 26)
    start = offset + 30 + name + extra
    raw = content[start : start + packed]
    raw = zlib.decompress(raw, -15) if method == zipfile.ZIP_DEFLATED else raw
    if zlib.crc32(raw) != crc:
        raise zipfile.BadZipFile("a member of the zip file has a wrong checksum")
    return raw


def _array(raw: bytes) -> np.ndarray:
    if raw[:8] != b"\x93NUMPY\x01\x00":
        return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    start = 10 + struct.unpack_from("<H", raw, 8)[0]
    kind, ordered, shape = _header(raw[10:start])
    if kind.hasobject:
        raise ValueError("Object arrays are not read")
    return np.frombuffer(raw, kind, math.prod(shape), start).reshape(shape, order=ordered).copy()


@functools.lru_cache(maxsize=512)
def _header(text: bytes) -> tuple[np.dtype, Literal["C", "F"], tuple[int, ...]]:
    found = ast.literal_eval(text.decode("latin1").strip())
    return np.dtype(found["descr"]), "F" if found["fortran_order"] else "C", tuple(found["shape"])


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return found
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
