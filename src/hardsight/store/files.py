"""Files that are whole or not there: written aside, synced, renamed; JSON and arrays, and plain errors where the disk says no."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import StoreError

Rows = dict[str, np.ndarray]


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: aside, synced, renamed. A full disk is a `StoreError`, and what was there stays."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise StoreError(
            f"cannot write {path}: {reason}; what was written before is kept, run the same command again"
        ) from None


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Rows) -> None:
    """An .npz whose bytes depend on the arrays alone (numpy dates every member 1980)."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"cannot read {path}: {error}; delete that file, and the next run makes it again") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
        return found
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
