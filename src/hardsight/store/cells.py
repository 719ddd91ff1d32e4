"""The layout of a store: one folder per cell, one file per chunk; reports are derived from these files. No torch.

    STORE/store.json              the version of this layout
         /cells/<id>/cell.json    the specs of the cell, written first
                    /rows-00003.npz   the rows of one chunk: written to a temporary file, synced and renamed
                    /gallery.npz  the first few images, clean and attacked, for visual inspection
                    /done.json    written at the end: versions, git revision, device, seconds, summary
                    /figures.json what a report has computed from the rows (`report/kept`); it can be deleted at any time
         /heads/<id>.safetensors, .json   trained heads, by the fingerprint of everything that determines them
         /plans/<hash>.json       the cells of each plan that was run on the store, in order, for `hardsight status`
         /claims/<what>.json      only while processes run: who works on what (`store/claims`)

A process can be killed at any time: every existing file is complete, and the next run resumes at the first missing chunk. Many
processes, on several machines with a shared folder, may write to one store: each file has one writer or one content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.store.files import Rows, read_arrays, read_json, write_arrays, write_bytes, write_json

VERSION = 1


@dataclass(frozen=True)
class StoredCell:
    """The folder of one cell. what: the content of cell.json."""

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
        return self.path / chunk_name(place)

    def has(self, place: int) -> bool:
        return self.chunk(place).exists()

    def count(self, place: int) -> int:
        """The number of images in a chunk."""
        return len(read_arrays(self.chunk(place), lambda name: name == "id").get("id", ()))

    def write_chunk(self, place: int, rows: Rows) -> None:
        write_arrays(self.chunk(place), rows)

    def rows(self, only: Callable[[str], bool] | None = None) -> Rows:
        """All stored rows in order: "id", "error", "size", "queries" and "counts.<key>", images first.

        only: which columns are read, by name; None: all. Without those of images whose label is what a targeted attack wants; `left_out` is their number.

        Columns that some chunks lack, for example if a newer version resumed the cell of an older one, are left out.
        """
        rows = self._all(only and (lambda name: name == "left_out" or only(name)))
        out = rows.pop("left_out", None)
        return rows if out is None else {name: value[~out] for name, value in rows.items()}

    @property
    def left_out(self) -> int:
        """The number of images that are in no figure, since their label already is what the attack wants."""
        return int(self._all(lambda name: name == "left_out").get("left_out", np.zeros(0)).sum())

    def _all(self, only: Callable[[str], bool] | None) -> Rows:
        chunks = [rows for path in sorted(self.path.glob("rows-*.npz")) if (rows := read_arrays(path, only))]
        shared = [name for name in chunks[0] if all(name in chunk for chunk in chunks)] if chunks else []
        return {name: np.concatenate(padded([chunk[name] for chunk in chunks])) for name in shared}

    def gallery(self) -> Rows | None:
        path = self.path / "gallery.npz"
        return read_arrays(path) if path.exists() else None

    @property
    def audit(self) -> dict[str, Any] | None:
        """The findings of the audit, if this cell was audited."""
        path = self.path / "audit.json"
        return read_json(path) if path.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        write_json(self.path / "done.json", record)


class Store:
    """A store's folder, created by the first write. Raises `StoreError` if it has another version of the layout."""

    def __init__(self, path: str | Path, must_exist: bool = False) -> None:
        self.path = Path(path)
        mark = self.path / "store.json"
        if mark.exists():
            version = read_json(mark).get("version")
            if version != VERSION:
                raise StoreError(
                    f"{self.path} has version {version} of the store's layout, but this hardsight uses version {VERSION}; "
                    "give another --store, or use the hardsight version that wrote it"
                )
        elif must_exist:
            raise StoreError(f"{self.path} is not a store: it has no store.json; give a folder written by 'hardsight bench'")
        elif self.path.is_file():
            raise StoreError(f"{self.path} is a file; a store must be a folder")

    def create(self) -> None:
        mark = self.path / "store.json"
        if not mark.exists():
            write_json(mark, {"version": VERSION})

    def open(self, cell_id: str, what: dict[str, Any]) -> StoredCell:
        """The cell's folder; writes cell.json if it is missing or has changed.

        Raises `StoreError` if the encoder's weights have changed since the cell was created.
        """
        path = self.path / "cells" / cell_id
        record = path / "cell.json"
        if record.exists():
            before = read_json(record)
            card = what.get("encoder_card", {}).get("sha256")
            self.same_weights(cell_id, {**({str(what.get("encoder")): card} if card else {}), **what.get("weights", {})})
            if before != what:
                write_json(record, what)
        else:
            self.create()
            write_json(record, what)
        return StoredCell(path, what)

    def same_weights(self, cell_id: str, weights: Mapping[str, str]) -> None:
        """`StoreError` if the cell was measured with other weights: SHA-256 by the spec of the encoder, or of a surrogate."""
        path = self.path / "cells" / cell_id
        what = read_json(path / "cell.json")
        before = {what.get("encoder"): what.get("encoder_card", {}).get("sha256"), **what.get("weights", {})}
        for spec, found in weights.items():
            if (before.get(spec) or found) != found:
                raise StoreError(
                    f"the weights behind {spec} are not those with which {path} was measured; "
                    "give another --store, or delete that folder"
                )

    def cell(self, cell_id: str) -> StoredCell | None:
        path = self.path / "cells" / cell_id
        return StoredCell(path, read_json(path / "cell.json")) if (path / "cell.json").exists() else None

    def cells(self) -> list[StoredCell]:
        """Every cell, in the order of the plan that created it."""
        found = [StoredCell(path.parent, read_json(path)) for path in self.path.glob("cells/*/cell.json")]
        return sorted(found, key=lambda cell: (cell.what.get("place", 0), cell.id))

    def names(self, cell_id: str) -> frozenset[str]:
        """The names of the files that the store has of a cell: one look at its folder, whatever the number of its chunks."""
        try:
            return frozenset(os.listdir(self.path / "cells" / cell_id))
        except OSError:
            return frozenset()

    def head(self, head_id: str) -> Path:
        return self.path / "heads" / f"{head_id}.safetensors"

    def keep_plan(self, cells: Sequence[dict[str, Any]]) -> None:
        """Notes that these cells are to be measured: {"id", "what", "encoder", "passes", "chunks", "audited"} of each."""
        content = json.dumps({"cells": list(cells)}, ensure_ascii=False).encode()
        path = self.path / "plans" / f"{hashlib.sha256(content).hexdigest()[:16]}.json"
        if not path.exists():
            write_bytes(path, content)

    def planned(self) -> list[dict[str, Any]]:
        """The cells of all plans that were run on this store, each once."""
        found = [cell for path in sorted(self.path.glob("plans/*.json")) for cell in read_json(path)["cells"]]
        return list({cell["id"]: cell for cell in found}.values())


def chunk_name(place: int) -> str:
    return f"rows-{place:05d}.npz"


def measured(names: frozenset[str], places: Iterable[int]) -> bool:
    """Whether a cell with these files has the chunks at `places`, its record and its summary."""
    return {"cell.json", "done.json"} <= names and all(chunk_name(place) in names for place in places)


def padded(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Columns of other chunks or cells: lists (of boxes) get the length of the longest, with -1 for integers, 0 for floats."""
    longest = tuple(max(sides) for sides in zip(*(part.shape[1:] for part in parts), strict=True))
    if all(part.shape[1:] == longest for part in parts):
        return parts
    rest = -1 if parts[0].dtype.kind == "i" else 0
    room = [[(0, 0), *((0, most - side) for most, side in zip(longest, p.shape[1:], strict=True))] for p in parts]
    return [np.pad(part, more, constant_values=rest) for part, more in zip(parts, room, strict=True)]


def chunks(count: int, size: int, joined: int = 0) -> Iterator[tuple[int, range]]:
    """(number of the chunk, range of the indices in it) for `count` images in chunks of `size`.

    joined: the last images, fewer than a chunk, are in the chunk before.
    """
    for place, start in enumerate(range(0, count - joined, size)):
        end = start + size
        yield place, range(start, end if end < count - joined else count)
