"""Atomic writing of JSON and arrays: temporary file, sync, rename, so that no partial file exists; and reading them."""

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
    """Writes a file atomically: temporary file, sync, rename. On an error, raises `StoreError` and keeps the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        raise StoreError(
            f"cannot write {path}: {reason}; files written before are kept, run the same command again to resume"
        ) from None


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Rows) -> None:
    """Writes an .npz whose bytes depend only on the arrays (numpy sets the date of every member to 1980)."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"cannot read {path}: {error}; delete that file, and the next run will create it again") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return found
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
