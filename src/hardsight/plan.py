"""What a recipe asks for, cell by cell: one number each, named by all that fixes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hardsight.attack import Single, on, refusal
from hardsight.catalog import build, complete, find, fingerprint, minimal
from hardsight.data import Data, open_data
from hardsight.encoders.runs import exported
from hardsight.encoders.zoo import known
from hardsight.errors import SpecError
from hardsight.recipe import Precision, Recipe
from hardsight.spec import calls_in, read, show
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
class Plan:
    """The cells of a recipe, in order, the data they are on, and what the grid left out (and why).

    audit: images that the checks look at, for each encoder, task and data.
    """

    cells: tuple[Cell, ...]
    data: dict[str, Data]
    left_out: tuple[str, ...]
    audit: int = 0

    def audited(self) -> list[Cell]:
        """Of each encoder, task and data the cell that is audited: at the task's own attack, or else another, and the greatest eps."""
        best: dict[tuple[str, str, str], tuple[bool, float, Cell]] = {}
        for cell in self.cells if self.audit else ():
            eps, attack = build(cell.threat, "Threat").eps, build(cell.attack, "Attack")
            natural = getattr(attack, "natural", getattr(getattr(attack, "search", None), "natural", False))
            if cell.column == "clean" or natural:
                continue
            key, rank = (cell.encoder, cell.task, cell.data), (cell.column == "task", eps)
            if key not in best or rank > best[key][:2]:
                best[key] = (*rank, cell)
        return [cell for _, _, cell in best.values()]

    def audit_of(self, cell: Cell) -> tuple[str, int]:
        """(the attack that the cell is audited under, on how many images): dense tasks take half as many."""
        task, attack = build(cell.task, "Task"), build(cell.attack, "Attack")
        # suites take thousands of readings, and an attack in the embedding sees no head
        own = isinstance(attack, Single) and attack.where == "output"
        count = self.audit if task.target == "label" else -(-self.audit // 2)
        return cell.attack if own else task.attack, min(count, cell.count)

    def passes(self, cell: Cell) -> int:
        """Images x readings, at most."""
        parts = getattr(build(cell.threat, "Threat"), "parts", ()) or (None,)
        attack = on(build(cell.attack, "Attack"), build(cell.task, "Task").target)
        return cell.count * attack.passes * len(parts)


def plan(recipe: Recipe) -> Plan:
    """Opens the data and lists the cells: clean once, each attack at each eps, tasks only on data that carry their target."""
    recipe.check()
    data = {show(minimal(read(text))): open_data(text) for text in recipe.data}
    encoders = {show(minimal(complete(text, "Encoder"))): stamp(text, "Encoder") for text in recipe.encoders}
    cells, left_out = [], []
    for data_text, opened in data.items():
        data_stamp = stamp(data_text, "Data")
        count = min(recipe.count, len(opened.split(recipe.split)))
        for encoder, encoder_stamp in encoders.items():
            for task_text in recipe.tasks:
                task: Task = build(task_text, "Task")
                if task.target not in opened.card.targets:
                    left_out.append(f"{task.name} on {opened.card.name}: it has no {task.target}")
                    continue
                for column, attack, threat, eps_text in _attacks(recipe, task, left_out):
                    cells.append(
                        Cell(
                            encoder=encoder,
                            task=show(minimal(task_text)),
                            data=data_text,
                            attack=attack,
                            threat=threat,
                            probe=show(minimal(recipe.probe)),
                            split=recipe.split,
                            count=count,
                            chunk=recipe.chunk,
                            seed=recipe.seed,
                            precision=recipe.precision,
                            stamp=f"{encoder_stamp}:{data_stamp}",
                            beside=",".join(stamp(source, "Encoder") for source in sources(attack)),
                            column=column,
                            eps_text=eps_text,
                        )
                    )
    if all(cell.column == "clean" for cell in cells) and (left_out or not cells) and set(recipe.attacks) != {"clean"}:
        raise SpecError("nothing to measure: " + "; ".join(dict.fromkeys(left_out)))
    cells = list({cell.id: cell for cell in reversed(cells)}.values())[::-1]  # the same number asked for twice is one cell
    return Plan(tuple(cells), data, tuple(dict.fromkeys(left_out)), recipe.audit)


def attack_name(spec: str) -> str:
    """What tables call an attack: the title it brings, or its entry's, with the arguments that are not the defaults."""
    call = minimal(spec)
    if call.name == "attack" and len(call.arguments) == 1:
        return show(call.arguments[0][1])
    if title := getattr(build(call, "Attack"), "title", ""):
        return title
    text = show(call)
    return find(call.name).title + text[len(call.name) :]


def _attacks(recipe: Recipe, task: Task, left_out: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """(column, attack, threat, eps as written) for a task."""
    for text in chain(*map(_each, recipe.attacks)):
        spec = show(minimal(complete(task.attack if text == "task" else text, "Attack")))
        attack = build(spec, "Attack")
        if not attack.fits(task):
            left_out.append(f"{attack_name(spec)} on {task.name}: its loss reads another target")
            continue
        if spec == "clean":
            yield "clean", spec, "linf(0)", ""
            continue
        if own := getattr(attack, "threat", ""):  # it brings its own: one cell, whatever eps the recipe names
            yield attack_name(spec), spec, own, ""
            continue
        for threat, eps_text in recipe.threats():
            if why := refusal(attack, build(threat, "Threat"), task.target):
                left_out.append(f"{attack_name(spec)} in {show(minimal(threat))}: {why}")
                continue
            column = text if text in ("task", "embed") else attack_name(spec)
            yield column, spec, show(minimal(threat)), eps_text


def _each(attack: str) -> tuple[str, ...]:
    """The attack's own spec, or those that it stands for, a cell each."""
    return (attack,) if attack == "task" else getattr(build(attack, "Attack"), "each", (attack,))


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
