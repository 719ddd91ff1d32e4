"""A cell as a report reads it: each of its files once; what is computed from its rows is kept beside them, in `figures.json`.

A row of the table is computed from the rows of its cells; the file lies in the folder of the first of them, and has a hash of
all that it was computed from: the settings and the rows of every cell, and the code. If anything of that changes, or the file
is missing or damaged, it is computed again. Where it can't be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.metrics import intervals
from hardsight.metrics.intervals import quantile
from hardsight.store.cells import StoredCell
from hardsight.store.files import write_bytes

NAME = "figures.json"
SETTINGS = ("task_name", "attack", "attack_name", "column", "norm", "eps", "eps_text", "count")
"""What of a cell's record the figures of its row depend on."""
SHARES = (0.25, 0.5, 0.75)
SUMS = ("halted", "flat", "queries")


class CellLike(Protocol):
    """The part of a store's cell that a report needs."""

    @property
    def id(self) -> str: ...

    @property
    def what(self) -> dict[str, Any]: ...

    @property
    def done(self) -> dict[str, Any] | None: ...

    def rows(self) -> dict[str, np.ndarray]: ...

    def gallery(self) -> dict[str, np.ndarray] | None: ...


class Kept:
    """A cell whose small files are read once. Its rows are read at every call, as those of all cells need too much memory."""

    def __init__(self, cell: CellLike) -> None:
        self.cell, self.id, self.what = cell, cell.id, cell.what
        self.rows, self.gallery = cell.rows, cell.gallery

    @functools.cached_property
    def done(self) -> dict[str, Any] | None:
        return self.cell.done

    @functools.cached_property
    def audit(self) -> dict[str, Any] | None:
        return getattr(self.cell, "audit", None)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """`facts_of` its rows; those of a row that is kept are known already."""
        return facts_of(self.rows())

    @functools.cached_property
    def empty(self) -> bool:
        """Whether it has no image yet."""
        if isinstance(self.cell, StoredCell):
            if self.done and self.done.get("images"):
                return not any(self.cell.path.glob("rows-*.npz"))
            return not len(self.cell.rows(lambda name: name == "id").get("id", ()))
        return not len(self.rows().get("id", ()))


def facts_of(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a report needs of a cell's rows beside its figures.

    "largest": size of a perturbation; sums of columns; "nearest": quantiles of the minimal perturbations with their intervals.
    """
    sizes, least = rows.get("size", np.zeros(0)), rows.get("nearest", np.zeros(0))
    least = least[least > 0]
    found: dict[str, Any] = {"largest": float(np.nan_to_num(sizes, nan=np.inf).max(initial=0))}
    found |= {name: int(rows[name].sum()) for name in SUMS if name in rows}
    if len(least):
        quantiles = [quantile(least, share) for share in SHARES]
        found["nearest"] = {"n": len(least), "felled": int(np.isfinite(least).sum()), "quantiles": quantiles}
    return found


def kept(cells: Sequence[Kept], compute: Callable[[], Any]) -> Any:
    """What `compute` returns, as JSON, or what it returned for the same cells before. The facts of the cells are kept with it."""
    stored = [one.cell for one in cells if isinstance(one.cell, StoredCell)]
    if len(stored) < len(cells):
        return compute()
    path, key = stored[0].path / NAME, _key(cells, stored)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_bytes())
        if found["key"] == key:
            for one in cells:
                one.facts = found["facts"][one.id]
            return found["row"]
    row = compute()
    content = {"key": key, "row": row, "facts": {one.id: one.facts for one in cells}}
    with contextlib.suppress(StoreError):
        write_bytes(path, json.dumps(content).encode())
    return row


def _key(cells: Sequence[Kept], stored: Sequence[StoredCell]) -> str:
    digest = hashlib.blake2b(_code(), digest_size=16)
    for one, cell in zip(cells, stored, strict=True):
        settings = [one.what.get(name) for name in SETTINGS]
        digest.update(repr((one.id, settings, one.done is None)).encode())
        for path in sorted(cell.path.glob("rows-*.npz")):
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


@functools.cache
def _code() -> bytes:
    """A hash of the code that computes figures, and of numpy's version."""
    digest = hashlib.blake2b(np.__version__.encode())
    here = Path(__file__).parent
    for path in [
        *sorted(Path(intervals.__file__).parent.glob("*.py")),
        *(here / f"{name}.py" for name in ("columns", "figured", "kept", "over")),
    ]:
        digest.update(path.read_bytes())
    return digest.digest()
