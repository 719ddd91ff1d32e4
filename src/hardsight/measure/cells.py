"""One number to measure: the specs that define it (`Cell`), and the objects built from them once (`Resolved`).

Everything that plans, measures or audits takes the resolved cell; no other code builds objects from a cell's specs.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

from hardsight.attacks.attack import Attack, misfit, on
from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.data import Data, Images
from hardsight.data.feed import choose
from hardsight.probes.linear import Probe
from hardsight.specs.catalog import complete, find, fingerprint, minimal
from hardsight.specs.recipe import Precision
from hardsight.specs.syntax import calls_in, show
from hardsight.store.cells import chunks
from hardsight.tasks.base import Task

MEASURE = 5
"""Increased when a change of this code changes the measured numbers, so that results of older code are not reused."""
DRAWS = 2
"""In the place of `MEASURE` where random numbers derive from a cell: they are the same for every version of the code."""


@dataclass(frozen=True)
class Cell:
    """One number to measure, by the specs that define it, written in minimal form.

    stamp: hashes of the files behind encoder and data (`stamps`). beside: stamps of the surrogate encoders of a transfer
    attack, and of files that task, attack, threat or probe name.
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

    @functools.cached_property
    def id(self) -> str:
        """The fingerprint of everything that determines the number; names that only tables print are not part of it."""
        return self._fingerprint(MEASURE)

    @functools.cached_property
    def draws(self) -> str:
        """What the cell's random numbers derive from: not the quirks of its task, so that these are compared in pairs."""
        return self._fingerprint(DRAWS, without_quirks(self.task))

    def _fingerprint(self, version: int, task: str | None = None) -> str:
        specs = (self.encoder, task or self.task, self.data, self.attack, self.threat, self.probe)
        rest = (
            version,
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

    @property
    def places(self) -> list[int]:
        """The number of every chunk."""
        return [place for place, _ in self.chunks]


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
    def places(self) -> list[int]:
        """The indices of the images: the same for every cell, or with quirk E1 others for each attack."""
        apart = "E1" in getattr(self.task, "bugs", ()) and not self.natural
        return choose(self.images, self.cell.count, seeds.seed_of("apart", self.cell.attack) if apart else 0)

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


def without_quirks(task: str) -> str:
    """A task's spec without `official`."""
    call = minimal(task)
    return show(replace(call, arguments=tuple(pair for pair in call.arguments if pair[0] != "official")))


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
