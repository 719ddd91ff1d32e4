"""Finished cells of any number of stores, and what makes two of them comparable.

Two cells are compared, or ranked together, only if they answer the same question about the same images: the same task, data,
split, count, seed, head, attack and threat, prepared alike, with the same files behind the data and the same departures from
a protocol. What differs is kept as text, so that a page can say why two cells are not in one ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.metrics import METRICS
from hardsight.report.prepared import bare
from hardsight.report.results import NATURAL, plain
from hardsight.specs.syntax import read as read_spec
from hardsight.store.cells import Store, StoredCell

Settings = tuple[tuple[str, str], ...]
"""(name of a setting, its value as text), in a fixed order."""
NEEDED = ("encoder", "task", "data", "attack", "threat", "probe", "task_name")


@dataclass(frozen=True)
class Entry:
    """A finished cell. encoder: its spec, the stamp of its files and the hash of its weights; setup and under: its settings.

    setup: all but the attack: cells that share it are of the same images. under: attack, threat and protocol.
    """

    cell: StoredCell
    store: str
    done: dict[str, Any]
    encoder: tuple[str, str, str] = field(init=False)
    setup: Settings = field(init=False)
    under: Settings = field(init=False)

    def __post_init__(self) -> None:
        what = self.what
        own, _, data = str(what.get("stamp", "")).partition(":")
        identity = (str(what["encoder"]), own, str((what.get("encoder_card") or {}).get("sha256", "")))
        object.__setattr__(self, "encoder", identity)
        object.__setattr__(self, "setup", _setup(what, data))
        object.__setattr__(self, "under", _under(what))

    @property
    def what(self) -> dict[str, Any]:
        return self.cell.what

    @property
    def name(self) -> str:
        return plain(self.what.get("encoder_name") or self.what["encoder"])

    @property
    def natural(self) -> bool:
        """Whether it is a common corruption."""
        return read_spec(str(self.what["attack"])).name == "corrupt"

    @property
    def norm(self) -> str:
        return NATURAL if self.natural else plain(self.what.get("norm", ""))

    @property
    def attack(self) -> str:
        return "clean" if self.what.get("column") == "clean" else plain(self.what.get("attack_name") or self.what["attack"])

    @property
    def title(self) -> str:
        """The attack and the threat as a column's title."""
        if self.attack == "clean" or self.natural:
            return self.attack
        return f"{self.attack} · {self.norm} {plain(self.what.get('eps_text', ''))}".rstrip(" ·")

    def rows(self) -> dict[str, np.ndarray]:
        """Per image: "id", "error", "counts.*" and "members.*", sorted by id. `StoreError` if it has none."""
        rows = self.cell.rows(lambda name: name in ("id", "error") or name.startswith(("counts.", "members.")))
        if not len(rows.get("id", ())):
            raise StoreError(f"{self.cell.path} has no rows")
        order = np.argsort(rows["id"], kind="stable")
        return {key: value[order] for key, value in rows.items()}


def _setup(what: dict[str, Any], data_stamp: str) -> Settings:
    pairs = {
        "task": what["task"],
        "data": bare(str(what["data"])),
        "pictures prepared by": what.get("preprocess") or "",
        "split": what.get("split", ""),
        "count": what.get("count", ""),
        "seed": what.get("seed", ""),
        "head": what["probe"],
        "precision": what.get("precision", ""),
        "files of the data": data_stamp,
    }
    return tuple((name, plain(value)) for name, value in pairs.items())


def _under(what: dict[str, Any]) -> Settings:
    protocol = what.get("protocol") or {}
    departures = "; ".join(str(one) for one in protocol.get("departures") or ())
    name = " ".join(str(protocol[key]) for key in ("name", "version") if key in protocol)
    clean = what.get("column") == "clean"
    pairs = {
        "attack": "clean" if clean else what["attack"],
        "threat": "" if clean else what["threat"],
        "files of the attack": what.get("beside", ""),
        "protocol": name,
        "departures from the protocol": departures,
    }
    return tuple((key, plain(value)) for key, value in pairs.items())


def read(stores: Sequence[str | Path]) -> tuple[list[Entry], list[str]]:
    """(finished cells, one line for each that is left out and why), in the order of the stores and their plans.

    A damaged or unfinished cell is left out. Of one encoder measured twice in the same way, the later cell is kept. Raises
    `StoreError` if a folder is not a store.
    """
    found: dict[tuple, Entry] = {}
    left_out: list[str] = []
    for folder in stores:
        store = Store(folder, must_exist=True)
        entries = []
        for path in sorted(store.path.glob("cells/*")):
            try:
                entries.append(_entry(store, path))
            except StoreError as error:
                left_out.append(str(error))
        for entry in sorted(entries, key=lambda one: (one.what.get("place", 0), one.cell.id)):
            key = (entry.encoder, entry.setup, entry.under)
            before = found.get(key)
            if before is not None:
                older, entry = sorted((before, entry), key=lambda one: str(one.done.get("finished", "")))
                if older.cell.path.resolve() != entry.cell.path.resolve():
                    left_out.append(f"{older.cell.path}: the same was measured again in {entry.cell.path}")
            found[key] = entry
    return list(found.values()), left_out


def _entry(store: Store, path: Path) -> Entry:
    cell = store.cell(path.name)
    if cell is None:
        raise StoreError(f"{path} has no cell.json")
    if missing := [key for key in NEEDED if key not in cell.what]:
        raise StoreError(f"{path / 'cell.json'} lacks {', '.join(missing)}")
    if cell.what["task_name"] not in METRICS:
        raise StoreError(f"{path}: this hardsight knows no metric for the task '{plain(cell.what['task_name'])}'")
    if (done := cell.done) is None:
        raise StoreError(
            f"{path} is not finished: {plain(cell.what.get('encoder_name', '?'))}, {plain(cell.what['attack'])}"
        )
    return Entry(cell, str(store.path), done)


def names_of(entries: Sequence[Entry]) -> dict[tuple[str, str, str], str]:
    """A name for each encoder: its own; its spec where two have the same; with its weights' hash where specs are the same."""
    encoders = {entry.encoder: entry.name for entry in entries}
    names = list(encoders.values())
    found = {one: name if names.count(name) == 1 else plain(one[0]) for one, name in encoders.items()}
    twice = [name for name in found.values() if list(found.values()).count(name) > 1]
    return {one: f"{name} [{one[2][:8] or one[1][:8]}]" if name in twice else name for one, name in found.items()}


def differing(a: Settings, b: Settings) -> list[str]:
    """What differs between the settings of two cells, one line each: "count: 500, not 1000"."""
    other = dict(b)
    return [f"{name}: {value or 'none'}, not {other.get(name) or 'none'}" for name, value in a if value != other.get(name)]
