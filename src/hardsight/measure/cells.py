"""One number to measure: the specs that fix it (`Cell`), and the objects that these name (`Resolved`), built once.

Everything that plans, measures or audits takes the resolved cell; nothing else builds from a cell's texts.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from hardsight.attacks.attack import Attack, on
from hardsight.attacks.threats.base import Threat
from hardsight.data import Data, Images
from hardsight.encoders.runs import exported
from hardsight.encoders.zoo import known
from hardsight.probes.linear import Probe
from hardsight.specs.catalog import complete, find, fingerprint, minimal
from hardsight.specs.recipe import Precision
from hardsight.specs.syntax import calls_in, show
from hardsight.tasks.base import Task

MEASURE = 2
"""Raised when a change of this code changes what cells measure: what older code measured is then not taken for it."""


@dataclass(frozen=True)
class Cell:
    """One number to measure, by the specs that fix it; texts are minimal specs."""

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

    @property
    def id(self) -> str:
        """The fingerprint of what fixes the number; names that tables print are not among it."""
        specs = (self.encoder, self.task, self.data, self.attack, self.threat, self.probe)
        rest = (
            MEASURE,
            self.split,
            self.count,
            self.chunk,
            self.seed,
            self.precision,
            self.stamp,
            *filter(None, [self.beside]),
        )
        return hashlib.sha256(repr((fingerprint(*specs), rest)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Resolved:
    """A cell with what its specs name. attack_name: what tables call its attack."""

    cell: Cell
    task: Task
    data: Data
    attack: Attack
    threat: Threat
    probe: Probe
    attack_name: str

    @property
    def images(self) -> Images:
        """The split that the cell is measured on."""
        return self.data.split(self.cell.split)

    @property
    def passes(self) -> int:
        """Images x readings, at most."""
        parts = getattr(self.threat, "parts", ()) or (None,)
        return self.cell.count * on(self.attack, self.task.target).passes * len(parts)

    @property
    def natural(self) -> bool:
        """Whether there is no adversary in it: no attack, a corruption, or noise."""
        search = getattr(self.attack, "search", None)
        return self.cell.column == "clean" or getattr(self.attack, "natural", getattr(search, "natural", False))


def attack_name(spec: str, attack: Attack) -> str:
    """What tables call the attack that the spec names: its title, or its entry's with the arguments that are not the defaults."""
    call = minimal(spec)
    if call.name == "attack" and len(call.arguments) == 1:
        return show(call.arguments[0][1])
    if title := getattr(attack, "title", ""):
        return title
    text = show(call)
    return find(call.name).title + text[len(call.name) :]


def sources(attack: str) -> list[str]:
    """The other encoders that an attack's spec names: those it is transferred from."""
    return [str(call.get("source")) for call in calls_in(complete(attack)) if call.name == "transfer"]


def stamp(spec: str, kind: str) -> str:
    """What lies behind a spec on this disk, as a hash: other files under the same name make another cell.

    Of a checkpoint or a run's encoder its bytes, of an embedded encoder the listed hash, of a data folder the names and sizes of its files;
    empty where a spec says it all.
    """
    inner = [one for _, value in complete(spec, kind).arguments for one in calls_in(value)]
    if any(find(one.name).kind == kind for one in inner):  # an encoder made of another: what lies behind both
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
