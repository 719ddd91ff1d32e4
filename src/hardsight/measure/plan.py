"""The cells of a recipe: the grid of its encoders, tasks, data sets, attacks and radii, resolved once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hardsight.attacks.attack import Attack, Single, refusal, searches
from hardsight.attacks.search.compose import blind
from hardsight.core.errors import SpecError
from hardsight.data import Data, open_data
from hardsight.measure.cells import Cell, Resolved, attack_name, left_over, sources
from hardsight.measure.pictures import Pictures
from hardsight.measure.protocol import Protocol
from hardsight.measure.stamps import black_box, stamp
from hardsight.specs.catalog import build, complete, minimal
from hardsight.specs.recipe import Recipe
from hardsight.specs.syntax import read, show
from hardsight.tasks.base import Task

Build = Callable[[str, str], Any]
"""(spec, kind) -> the object, cached: the same one for every call with the same arguments."""


@dataclass(frozen=True)
class Plan:
    """The cells of a recipe in order, their data sets, and what was left out of the grid, with the reason.

    audit: number of images that the checks use, for each encoder, task and data set. notes: what else a run should say,
    such as which split is measured where the recipe names none. protocol: whose cells these are, if they are one's.
    """

    resolved: tuple[Resolved, ...]
    data: dict[str, Data]
    left_out: tuple[str, ...]
    audit: int = 0
    notes: tuple[str, ...] = ()
    protocol: Protocol | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(one.cell for one in self.resolved)

    def audited(self) -> list[Resolved]:
        """The audited cell of each encoder, task and data set: preferably of the task's own attack, at the largest eps.

        None where no gradient passes through the encoder, on which the checks rest.
        """
        best: dict[tuple[str, str, str], tuple[bool, float, Resolved]] = {}
        for one in self.resolved if self.audit else ():
            cell = one.cell
            key, rank = (cell.encoder, cell.task, cell.data), (cell.column == "task", one.threat.eps)
            if not one.natural and not black_box(cell.encoder) and (key not in best or rank > best[key][:2]):
                best[key] = (*rank, one)
        return [one for _, _, one in best.values()]

    @functools.cached_property
    def earlier(self) -> dict[str, list[Cell]]:
        """By audited cell: those of the encoders before, whose adversarial examples its audit tries, in order."""
        audited = [one.cell for one in self.audited()]
        first: dict[str, int] = {}
        alike: dict[tuple[str, ...], list[tuple[int, Cell]]] = {}
        for place, cell in enumerate(audited):
            first.setdefault(cell.encoder, place)
            alike.setdefault((cell.task, cell.data, cell.attack, cell.threat), []).append((place, cell))
        return {
            cell.id: [other for place, other in found if place < first[cell.encoder]]
            for found in alike.values()
            for _, cell in found
        }

    def audit_of(self, one: Resolved) -> tuple[str, Attack, int]:
        """(spec, attack, number of images) of the cell's audit; dense tasks use half as many images."""
        count = self.audit if one.task.target == "label" else -(-self.audit // 2)
        # not a suite, which takes thousands of forward passes, and not an attack on embeddings, which ignores the head
        own = isinstance(one.attack, Single) and one.attack.where == "output"
        spec, attack = (one.cell.attack, one.attack) if own else (one.task.attack, build(one.task.attack, "Attack"))
        return spec, attack, min(count, one.cell.count)


def plan(recipe: Recipe) -> Plan:
    """Opens the data and lists the cells: clean once, each attack at each eps, each task on the data that has its target."""
    recipe.check()
    cached: Build = functools.cache(build)
    pictures, data = Pictures(recipe.preprocess), {}
    encoders = {show(minimal(complete(text, "Encoder"))): stamp(text, "Encoder") for text in recipe.encoders}
    probe, found, left_out, notes = show(minimal(recipe.probe)), [], [], []
    for written in dict.fromkeys(show(minimal(read(text))) for text in recipe.data):
        data_stamp = stamp(written, "Data")
        for encoder, encoder_stamp in encoders.items():
            for task_text in recipe.tasks:
                task: Task = cached(task_text, "Task")
                data_text, opened = pictures.of(written, encoder, task.target)
                data[data_text] = opened
                split = opened.measured_on(recipe.split)
                if split != (recipe.split or "test"):
                    notes.append(f"{opened.card.name} is measured on its '{split}' part: it has no test part with targets")
                count = min(recipe.count, len(opened.split(split)))
                if task.target not in opened.card.targets:
                    left_out.append(f"{task.name} on {opened.card.name}: the data has no {task.target}")
                    continue
                for column, attack, threat, eps_text in _attacks(recipe, task, left_out, cached):
                    built = cached(attack, "Attack")
                    if black_box(encoder) and any(one.gradients for one, _ in searches(built, task.target)):
                        left_out.append(f"{attack_name(attack, built)} on {encoder}: {blind(encoder)}")
                        continue
                    try:
                        joined = left_over(built, task.target, count, recipe.chunk)
                    except SpecError as error:
                        left_out.append(f"{attack_name(attack, built)} on {task.name}: {error}")
                        continue
                    parts = {"Task": task_text, "Attack": attack, "Threat": threat, "Probe": probe}
                    files = [stamp(text, part) for part, text in parts.items()]
                    cell = Cell(
                        encoder=encoder,
                        task=show(minimal(task_text)),
                        data=data_text,
                        attack=attack,
                        threat=threat,
                        probe=probe,
                        split=split,
                        count=count,
                        chunk=recipe.chunk,
                        seed=recipe.seed,
                        precision=recipe.precision,
                        stamp=f"{encoder_stamp}:{data_stamp}",
                        beside=",".join([*(stamp(source, "Encoder") for source in sources(attack)), *filter(None, files)]),
                        column=column,
                        eps_text=eps_text,
                        joined=joined,
                    )
                    found.append(
                        Resolved(
                            cell,
                            task,
                            opened,
                            built,
                            cached(threat, "Threat"),
                            cached(probe, "Probe"),
                            attack_name(attack, built),
                        )
                    )
    if all(one.cell.column == "clean" for one in found) and (left_out or not found) and set(recipe.attacks) != {"clean"}:
        raise SpecError("nothing to measure: " + "; ".join(dict.fromkeys(left_out)))
    found = list({one.cell.id: one for one in reversed(found)}.values())[::-1]  # drop duplicates, keep the first
    notes = dict.fromkeys([*notes, *pictures.notes()])
    return Plan(tuple(found), data, tuple(dict.fromkeys(left_out)), recipe.audit, tuple(notes))


def rebuilt(cells: Sequence[Cell], audit: int = 0, protocol: Protocol | None = None) -> Plan:
    """The plan that has these cells, in another process: nothing is read again for their stamps."""
    cached: Build = functools.cache(build)
    data = {text: open_data(text) for text in dict.fromkeys(cell.data for cell in cells)}
    found = []
    for cell in cells:
        task, attack, threat, probe = (
            cached(text, kind)
            for text, kind in ((cell.task, "Task"), (cell.attack, "Attack"), (cell.threat, "Threat"), (cell.probe, "Probe"))
        )
        found.append(Resolved(cell, task, data[cell.data], attack, threat, probe, attack_name(cell.attack, attack)))
    return Plan(tuple(found), data, (), audit, (), protocol)


def plan_of(protocol: Protocol, recipes: Sequence[Recipe]) -> Plan:
    """The cells of a protocol's recipes, each once. `SpecError` if one can't be measured: a protocol leaves nothing out."""
    plans = [plan(recipe) for recipe in recipes]
    if lacking := dict.fromkeys(line for one in plans for line in one.left_out):
        raise SpecError(f"protocol {protocol.name} can't be measured: " + "; ".join(lacking))
    found = {one.cell.id: one for part in plans[::-1] for one in part.resolved[::-1]}
    data = {text: opened for one in plans for text, opened in one.data.items()}
    notes = tuple(dict.fromkeys(note for one in plans for note in one.notes))
    return Plan(tuple(found.values())[::-1], data, (), recipes[0].audit, notes, protocol)


def _attacks(recipe: Recipe, task: Task, left_out: list[str], cached: Build) -> Iterator[tuple[str, str, str, str]]:
    """(column, attack, threat, eps as written) of every attack on a task; what does not fit is added to `left_out`."""
    each = [(text,) if text == "task" else getattr(cached(text, "Attack"), "each", (text,)) for text in recipe.attacks]
    for text in chain(*each):
        spec = show(minimal(complete(task.attack if text == "task" else text, "Attack")))
        attack = cached(spec, "Attack")
        name = attack_name(spec, attack)
        if not attack.fits(task):
            left_out.append(f"{name} on {task.name}: its loss needs another target")
            continue
        if spec == "clean":
            yield "clean", spec, "linf(0)", ""
            continue
        if own := getattr(attack, "threat", ""):  # a fixed threat of its own: one cell, independent of the recipe's eps
            yield name, spec, own, ""
            continue
        for threat, eps_text in recipe.threats():
            if why := refusal(attack, cached(threat, "Threat"), task.target):
                left_out.append(f"{name} in {show(minimal(threat))}: {why}")
                continue
            yield text if text in ("task", "embed") else name, spec, show(minimal(threat)), eps_text
