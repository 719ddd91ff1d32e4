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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.store.files import Rows, read_arrays, read_json, write_arrays, write_json

VERSION = 1


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
        return read_json(path) if path.exists() else None

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
        return read_json(path) if path.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        write_json(self.path / "done.json", record)


class Store:
    """A store's folder; made on the first write. Raises `StoreError` for one written by another version of the layout."""

    def __init__(self, path: str | Path, must_exist: bool = False) -> None:
        self.path = Path(path)
        mark = self.path / "store.json"
        if mark.exists():
            version = read_json(mark).get("version")
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
            before = read_json(record)
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
        return StoredCell(path, read_json(path / "cell.json")) if (path / "cell.json").exists() else None

    def cells(self) -> list[StoredCell]:
        """Every cell, in the order of the grids that made them."""
        found = [StoredCell(path.parent, read_json(path)) for path in self.path.glob("cells/*/cell.json")]
        return sorted(found, key=lambda cell: (cell.what.get("place", 0), cell.id))

    def head(self, head_id: str) -> Path:
        return self.path / "heads" / f"{head_id}.safetensors"


def chunks(count: int, size: int) -> Iterator[tuple[int, range]]:
    """Chunk numbers and the places in them."""
    for place, start in enumerate(range(0, count, size)):
        yield place, range(start, min(start + size, count))
