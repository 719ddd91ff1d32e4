"""Where results live: a folder a cell, a file a chunk, and nothing that could not be rebuilt from them; no torch.

    STORE/store.json              which version of this layout
         /cells/<id>/cell.json    what: the specs, written first
                    /rows-00003.npz   one chunk's rows, written aside, synced and renamed
                    /gallery.npz  the first few images, before and after, for the eye
                    /done.json    when and with what: versions, revision, device, seconds, summary
         /heads/<id>.safetensors, .json   trained heads, by the fingerprint of all that made them

Kill the process anywhere: what is there is whole, and the first missing chunk is where the next run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.errors import StoreError

VERSION = 1
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


@dataclass(frozen=True)
class StoredCell:
    """One cell's folder."""

    path: Path
    what: dict[str, Any]

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def done(self) -> dict[str, Any] | None:
        path = self.path / "done.json"
        return _read_json(path) if path.exists() else None

    def chunk(self, place: int) -> Path:
        return self.path / f"rows-{place:05d}.npz"

    def has(self, place: int) -> bool:
        return self.chunk(place).exists()

    def write_chunk(self, place: int, rows: Rows) -> None:
        write_arrays(self.chunk(place), rows)

    def rows(self) -> Rows:
        """All rows there are, in order: "id", "error", "size", "queries" and "counts.<key>", images leading.

        Columns that not every chunk has, as when a newer version went on with an older one's cell, are left out.
        """
        chunks = [rows for path in sorted(self.path.glob("rows-*.npz")) if (rows := read_arrays(path))]
        shared = [name for name in chunks[0] if all(name in chunk for chunk in chunks)] if chunks else []
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in shared}

    def gallery(self) -> Rows | None:
        path = self.path / "gallery.npz"
        return read_arrays(path) if path.exists() else None

    @property
    def audit(self) -> dict[str, Any] | None:
        """What the checks found of this cell's number, where it was audited."""
        path = self.path / "audit.json"
        return _read_json(path) if path.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        write_json(self.path / "done.json", record)


class Store:
    """A store's folder; made on the first write. Raises `StoreError` for one written by another version of the layout."""

    def __init__(self, path: str | Path, must_exist: bool = False) -> None:
        self.path = Path(path)
        mark = self.path / "store.json"
        if mark.exists():
            version = _read_json(mark).get("version")
            if version != VERSION:
                raise StoreError(
                    f"{self.path} was written by version {version} of the store's layout, and this is version {VERSION}; "
                    "give another --store, or read it with the hardsight that wrote it"
                )
        elif must_exist:
            raise StoreError(
                f"{self.path} is not a store: it has no store.json; give the folder that 'hardsight bench' wrote"
            )
        elif self.path.is_file():
            raise StoreError(f"{self.path} is a file; a store is a folder")

    def create(self) -> None:
        mark = self.path / "store.json"
        if not mark.exists():
            write_json(mark, {"version": VERSION})

    def open(self, cell_id: str, what: dict[str, Any]) -> StoredCell:
        """The cell's folder, with its cell.json written if it was not there.

        Raises `StoreError` where the weights behind it have changed since its first chunk was written.
        """
        path = self.path / "cells" / cell_id
        record = path / "cell.json"
        if record.exists():
            before = _read_json(record)
            old, new = (w.get("encoder_card", {}).get("sha256") for w in (before, what))
            if old and new and old != new:
                raise StoreError(
                    f"the weights behind {what.get('encoder')} are not those that {path} was measured on; "
                    "give another --store, or delete that folder"
                )
            if before != what:
                write_json(record, what)
        else:
            self.create()
            write_json(record, what)
        return StoredCell(path, what)

    def cell(self, cell_id: str) -> StoredCell | None:
        path = self.path / "cells" / cell_id
        return StoredCell(path, _read_json(path / "cell.json")) if (path / "cell.json").exists() else None

    def cells(self) -> list[StoredCell]:
        """Every cell, in the order of the grids that made them."""
        found = [StoredCell(path.parent, _read_json(path)) for path in self.path.glob("cells/*/cell.json")]
        return sorted(found, key=lambda cell: (cell.what.get("place", 0), cell.id))

    def head(self, head_id: str) -> Path:
        return self.path / "heads" / f"{head_id}.safetensors"


def chunks(count: int, size: int) -> Iterator[tuple[int, range]]:
    """Chunk numbers and the places in them."""
    for place, start in enumerate(range(0, count, size)):
        yield place, range(start, min(start + size, count))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
        return found
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
