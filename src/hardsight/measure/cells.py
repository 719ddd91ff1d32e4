"""One number to measure: the specs that define it (`Cell`), and the objects built from them once (`Resolved`).

Everything that plans, measures or audits takes the resolved cell; no other code builds objects from a cell's specs.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from hardsight.attacks.attack import Attack, misfit, on
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.data import Data, Images
from hardsight.data.globs import common_folder
from hardsight.encoders.runs import exported
from hardsight.encoders.zoo import known
from hardsight.probes.linear import Probe
from hardsight.specs.catalog import complete, find, fingerprint, minimal
from hardsight.specs.recipe import Precision
from hardsight.specs.syntax import calls_in, show
from hardsight.store.cells import chunks
from hardsight.tasks.base import Task

MEASURE = 2
"""Increased when a change of this code changes the measured numbers, so that results of older code are not reused."""


@dataclass(frozen=True)
class Cell:
    """One number to measure, by the specs that define it, written in minimal form.

    stamp: hashes of the files behind encoder and data. beside: stamps of the surrogate encoders of a transfer attack.
    joined: how many images, too few for an attack that relates images to each other, are joined to the chunk before.
    """

    encoder: str
    task: str
    data: str
    attack: str
    threat: str
    probe: str
    split: str
    count: int
    chunk: int
    seed: int
    precision: Precision
    stamp: str
    beside: str
    column: str
    eps_text: str
    joined: int = 0

    @property
    def id(self) -> str:
        """The fingerprint of everything that determines the number; names that only tables print are not part of it."""
        specs = (self.encoder, self.task, self.data, self.attack, self.threat, self.probe)
        rest = (
            MEASURE,
            self.split,
            self.count,
            self.chunk,
            self.seed,
            self.precision,
            self.stamp,
            *filter(None, [self.beside, self.joined]),
        )
        return hashlib.sha256(repr((fingerprint(*specs), rest)).encode()).hexdigest()[:16]

    @property
    def chunks(self) -> list[tuple[int, range]]:
        """(number, range of the indices in it) of every chunk."""
        return list(chunks(self.count, self.chunk, self.joined))


@dataclass(frozen=True)
class Resolved:
    """A cell with the objects that its specs name. attack_name: the attack's name in tables."""

    cell: Cell
    task: Task
    data: Data
    attack: Attack
    threat: Threat
    probe: Probe
    attack_name: str

    @property
    def images(self) -> Images:
        """The split on which the cell is measured."""
        return self.data.split(self.cell.split)

    @property
    def passes(self) -> int:
        """Images x forward passes, at most."""
        parts = getattr(self.threat, "parts", ()) or (None,)
        return self.cell.count * on(self.attack, self.task.target).passes * len(parts)

    @property
    def natural(self) -> bool:
        """Whether there is no adversary: clean images, a corruption, or noise."""
        search = getattr(self.attack, "search", None)
        return self.cell.column == "clean" or getattr(self.attack, "natural", getattr(search, "natural", False))


def left_over(attack: Attack, target: str, count: int, chunk: int) -> int:
    """How many images are joined to the chunk before: those of the last one, if the attack cannot run on so few.

    Raises `SpecError` if it cannot run on the chunks either.
    """
    rest = count % chunk if count > chunk else 0
    joined = rest if rest and misfit(attack, target, rest) else 0
    for _, span in chunks(count, chunk, joined):
        if why := misfit(attack, target, len(span)):
            raise SpecError(f"{why}; count is {count} and chunk {chunk}: choose another count, chunk or shift")
    return joined


def attack_name(spec: str, attack: Attack) -> str:
    """The attack's name in tables: its title, or the title of its entry with the arguments that differ from the defaults."""
    call = minimal(spec)
    if call.name == "attack" and len(call.arguments) == 1:
        return show(call.arguments[0][1])
    if title := getattr(attack, "title", ""):
        return title
    text = show(call)
    return find(call.name).title + text[len(call.name) :]


def sources(attack: str) -> list[str]:
    """The surrogate encoders that a transfer attack's spec names."""
    return [str(call.get("source")) for call in calls_in(complete(attack)) if call.name == "transfer"]


def stamp(spec: str, kind: str) -> str:
    """A hash of the files on this disk that a spec refers to: other files under the same name make another cell.

    Of a checkpoint or a run's encoder: its bytes; of a zoo encoder: the listed hash; of a data folder: the names and sizes
    of its files. Empty if the spec refers to no file.
    """
    inner = [one for _, value in complete(spec, kind).arguments for one in calls_in(value)]
    if any(find(one.name).kind == kind for one in inner):  # an encoder that wraps another: the hash of the inner one
        found = [stamp(show(one), kind) for one in inner if find(one.name).kind == kind]
        return hashlib.sha256("".join(found).encode()).hexdigest()[:16] if any(found) else ""
    call = complete(spec, kind)
    if call.name == "zoo":
        entry = next((one for one in known() if one["name"] == call["name"]), {})
        if "spec" not in entry:
            return entry.get("sha256", "")[:16]
        call = complete(entry["spec"], kind)
    if call.name == "run":
        place: object = str(exported(call["folder"], call["best"], call["epoch"]))
    elif call.name == "pairs":
        place = str(common_folder([call[name] for name in ("images", "masks", "depths") if call[name] is not None]))
    else:
        place = call.get("path") if call.name == "file" else call.get("name" if call.name == "hfdata" else "root")
    if not isinstance(place, str):
        return ""
    path, digest = Path(os.path.expandvars(os.path.expanduser(place))), hashlib.sha256()
    if path.is_file() and kind == "Encoder":
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for one in files:
        if one.is_file():
            digest.update(f"{one.relative_to(path).as_posix()}\0{one.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
