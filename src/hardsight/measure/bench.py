"""Runs the cells of a plan that are missing in the store; finished cells are never computed again."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Lab, misfit, on, prepared
from hardsight.core import seeds, tree
from hardsight.core.errors import DataError, MissingDependency, WeightsError
from hardsight.core.machine import device_name, pick_device, revision, versions
from hardsight.core.progress import Bar, Watch
from hardsight.data.feed import Batch, choose, load, pixels
from hardsight.encoders.adapt import seeded
from hardsight.encoders.base import Encoder
from hardsight.measure.audit import audit
from hardsight.measure.cells import Cell, Resolved, attack_name, left_over, sources
from hardsight.measure.checks.base import Case
from hardsight.measure.departures import record
from hardsight.measure.engines.base import stop_if_asked
from hardsight.measure.evaluate import evaluate
from hardsight.measure.lines import of_audit, of_cell
from hardsight.measure.passes import counted
from hardsight.measure.pictures import prepared_by
from hardsight.measure.plan import Plan
from hardsight.measure.queue import Queue, chunk_claim
from hardsight.measure.stamps import fixes_weights, stamp
from hardsight.measure.systems import Systems
from hardsight.metrics import counts_in, of
from hardsight.metrics.worst import members_of
from hardsight.metrics.worst import summary as worst_summary
from hardsight.specs.catalog import complete, minimal
from hardsight.specs.syntax import Call, read, show
from hardsight.store.cells import Store, StoredCell, chunks, measured
from hardsight.store.claims import Busy, Claims
from hardsight.store.files import read_arrays, sweep, write_arrays, write_json
from hardsight.tasks.base import System


class Todo(NamedTuple):
    """What a store lacks of a plan: cells to measure, and by id the cells to audit."""

    cells: tuple[Resolved, ...]
    unaudited: frozenset[str]

    @property
    def missing(self) -> frozenset[str]:
        return frozenset(one.cell.id for one in self.cells)

    def __bool__(self) -> bool:
        return bool(self.cells or self.unaudited)


class Bench:
    """Measures and audits the cells of a plan that the store lacks; `gallery`: example images stored per cell."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        device: str = "auto",
        on_error: Literal["stop", "skip"] = "stop",
        gallery: int = 4,
        watch: Watch | None = None,
    ) -> None:
        self.plan, self.store, self.gallery = plan, store, gallery
        self.on_error: Literal["stop", "skip"] = on_error
        self.device = pick_device(device)
        self.watch = watch or Watch(quiet=True)
        self.claims = Claims(store.path)
        self.systems = Systems(plan, store, self.device, on_error, self.watch, self.claims)
        self._place = {cell.id: place for place, cell in enumerate(plan.cells)}
        self._passes: dict[str, int] = {}
        """Of each cell that is not finished: how far it has moved the bar."""
        self._noted: set[str] = set()
        self.left_out: set[str] = set()
        """What should be said of training images that could not be read."""

    def run(self) -> list[StoredCell]:
        """Returns every cell of the plan, measured now or before. Finished chunks are kept if this is interrupted.

        Other processes may work on the store, with this plan or another one: what they do is not done again.
        """
        todo = self.todo()
        self.check(todo)
        with self.watch, self.watch.bar("measuring", sum(one.passes for one in todo.cells)) as bar:
            self.work(todo, bar)
        return self.finish(todo)

    def todo(self) -> Todo:
        """What the store lacks."""
        names = {one.cell.id: self.store.names(one.cell.id) for one in self.plan.resolved}
        for cell, there in names.items():
            sweep(self.store.path / "cells" / cell, there)
        missing = [one for one in self.plan.resolved if not measured(names[one.cell.id], one.cell.places)]
        unaudited = (one.cell.id for one in self.plan.audited() if "audit.json" not in names[one.cell.id])
        return Todo(tuple(missing), frozenset(unaudited))

    def check(self, todo: Todo) -> None:
        """Says what the plan's notes say, and raises what is wrong with a spec, before anything is written; notes the plan."""
        for line in self.plan.notes:
            self.watch.note(line)
        for one in reversed(self.plan.resolved):
            self.systems.forget_others(one.cell)
            if one.cell.id in todo.missing:
                self.systems.check(one)
            self._check_weights(one, one.cell.id in todo.missing)
        if todo.cells:
            self.store.create()
            audited = frozenset(one.cell.id for one in self.plan.audited())
            self.store.keep_plan([self._planned(one, audited) for one in self.plan.resolved])

    def work(self, todo: Todo, bar: Bar) -> None:
        """Measures and audits until nothing is left, whoever does it."""
        if not todo:
            return
        with self.claims:
            queue = Queue(self.plan, self.store, self.claims, todo.missing, todo.unaudited, self._count_up(bar), self._wait)
            for part in queue:
                stop_if_asked()
                cell = part.one.cell
                self.systems.forget_others(cell)
                bar.say(f"{_short(cell.encoder)} · {cell.task} · {part.what}")
                with contextlib.suppress(Busy):
                    if part.audit:
                        queue.tried |= self._audit(part.one)
                    else:
                        self._measure(part.one, bar, part.helping)

    def finish(self, todo: Todo) -> list[StoredCell]:
        """Compares with the protocol and removes what killed processes left behind; every cell of the plan."""
        self._compare()
        self.claims.clear()
        if todo:
            for folder in ("", "heads", "plans", *(f"cells/{cell}" for cell in todo.missing | todo.unaudited)):
                sweep(self.store.path / folder)
        return [stored for cell in self.plan.cells if (stored := self.store.cell(cell.id))]

    def _count_up(self, bar: Bar) -> Callable[[Resolved], None]:
        """Moves the bar for the chunks of a finished cell that other processes have measured."""

        def over(one: Resolved) -> None:
            bar.advance(one.passes - self._passes.pop(one.cell.id, 0))

        return over

    def _wait(self) -> None:
        self.say_once(f"the rest is being measured by other processes that write to {self.store.path}")

    def _planned(self, one: Resolved, audited: frozenset[str]) -> dict[str, Any]:
        cell = one.cell
        what = " ".join(part for part in (cell.encoder, cell.task, cell.data, cell.column, cell.eps_text) if part)
        counts = {"passes": one.passes, "chunks": len(cell.chunks), "audited": cell.id in audited}
        return {"id": cell.id, "what": what, "encoder": cell.encoder, **counts}

    def _compare(self) -> None:
        """Writes into every cell's record where it departs from the protocol, also of cells that were measured before."""
        for one in self.plan.resolved if self.plan.protocol else ():
            if (stored := self.store.cell(one.cell.id)) is not None:
                kept = {**stored.what, **self._protocol(one, stored.what, len((stored.done or {}).get("skipped", ())))}
                if kept != stored.what:
                    write_json(stored.path / "cell.json", kept)

    def _protocol(self, one: Resolved, what: dict[str, Any], skipped: int = 0) -> dict[str, Any]:
        protocol = self.plan.protocol
        return {"protocol": record(protocol, what, len(one.images), skipped)} if protocol else {}

    def _check_weights(self, one: Resolved, missing: bool) -> None:
        """`StoreError` if the store's numbers of a cell are of other weights than those that its encoders have now."""
        if self.store.cell(one.cell.id) is None:
            return
        try:
            self.store.same_weights(one.cell.id, self._weights(one.cell))
        except (WeightsError, MissingDependency) as error:
            if missing:
                raise
            self.say_once(f"{one.cell.encoder}: the store's numbers are given without a look at its weights: {error}")

    def _weights(self, cell: Cell) -> dict[str, str]:
        """By encoder, also those that a transfer attack is from: the SHA-256 of weights that no stamp tells."""
        surrogates = [show(minimal(complete(source, "Encoder"))) for source in sources(cell.attack)]
        stamps = [cell.stamp.partition(":")[0], *cell.beside.split(",")]
        pairs = zip([cell.encoder, *surrogates], stamps, strict=False)
        return {spec: self.systems.encoder(spec).card.sha256 for spec, known in pairs if not fixes_weights(spec, known)}

    def say_once(self, message: str) -> None:
        """Says it once."""
        if message not in self._noted:
            self._noted.add(message)
            self.watch.note(message)

    def _measure(self, one: Resolved, bar: Bar, helping: bool = False) -> None:
        """Measures the chunks that are missing and that nobody works on. helping: from the last one, as another begins with the first."""
        cell, threat, target = one.cell, one.threat, one.task.target
        system = self.systems.system(one)
        stored = self.store.open(cell.id, self._what(one, system.encoder))
        with seeded(seeds.seed_of(cell.draws, "lab")):
            attack = on(prepared(one.attack, self._lab(one, system)), target)
        started, here, skipped = time.monotonic(), set(), []
        for place, span in reversed(cell.chunks) if helping else cell.chunks:
            whole = len(span) * attack.passes
            with self.claims.held(chunk_claim(cell.id, place), f"{_short(cell.encoder)} · {cell.task}") as mine:
                if not mine or stored.has(place):
                    continue
                here.add(place)
                batch = self._batch(one, span, attack, skipped)
                if not batch.ids:  # no image could be read: write an empty chunk, so that the cell can be finished
                    stored.write_chunk(place, {})
                    bar.advance(whole)
                else:
                    rng = seeds.generator(cell.draws, place)
                    x, y = pixels(batch.images, self.device), tree.move(batch.target[target], self.device)
                    keep = self.gallery if place == 0 else 0
                    # an encoder may draw random numbers too: random crops
                    with counted(system.encoder, whole, bar.advance), seeded(seeds.seed_of(cell.draws, place, "model")):
                        rows, seen = evaluate(system, attack, threat, x, y, batch.ids, rng, cell.precision, keep)
                    if seen is not None:
                        write_arrays(stored.path / "gallery.npz", seen)
                    stored.write_chunk(place, rows)
            self._passes[cell.id] = self._passes.get(cell.id, 0) + whole
            bar.advance(0, len(span))
            stop_if_asked()
        if not all(stored.has(place) for place in cell.places):
            return
        with self.claims.held(f"done-{cell.id}") as mine:
            if mine and stored.done is None:
                for place, span in cell.chunks:
                    if place not in here and stored.count(place) < len(span):
                        self._batch(one, span, attack, skipped, "skip")
                self._finish(one, stored, time.monotonic() - started, skipped)

    def _batch(
        self, one: Resolved, span: range, attack: Attack, skipped: list[str], on_error: Literal["stop", "skip"] | None = None
    ) -> Batch:
        """The images of a chunk; without any if those that can be read are too few for the attack."""
        places = one.places
        batch = load(one.images, [places[at] for at in span], on_error or self.on_error, skipped)
        if batch.ids and (why := misfit(attack, one.task.target, len(batch.ids))):  # the others could not be read
            skipped += [f"{name}: {why}" for name in batch.ids]
            batch = batch._replace(ids=[])
        return batch

    def _audit(self, one: Resolved) -> set[str]:
        """Runs every check for the cell on its first few images, and stores the findings; the cell's id if none can be read."""
        cell, system, stored = one.cell, self.systems.system(one), self.store.cell(one.cell.id)
        assert stored is not None
        spec, attack, count = self.plan.audit_of(one)
        batch = load(one.images, one.places[:count], self.on_error, [])
        if not batch.ids:
            return {cell.id}
        x, y = pixels(batch.images, self.device), tree.move(batch.target[one.task.target], self.device)
        case = Case(system, attack, one.threat, x, y, cell.seed)
        ids = [batch.ids[place] for place in case.kept.tolist()]
        case = replace(case, others=self._found_elsewhere(cell, ids))
        with seeded(seeds.seed_of(cell.draws, "audit")):
            found = {"attack": attack_name(spec, attack), **audit(case)}
        write_arrays(stored.path / "audit.npz", {"id": np.array(ids), "x_adv": case.found.x_adv.half().cpu().numpy()})
        write_json(stored.path / "audit.json", found)
        self.say_audit(stored)
        return set()

    def _found_elsewhere(self, cell: Cell, ids: list[str]) -> dict[str, Tensor]:
        """By encoder name: x_adv of the same attack for these images on the encoders before this one."""
        found = {}
        for other in self.plan.earlier.get(cell.id, ()):
            stored = self.store.cell(other.id)
            if stored is not None and (path := stored.path / "audit.npz").exists():
                rows = read_arrays(path)
                if list(rows["id"]) == ids:
                    found[stored.what["encoder_name"]] = torch.from_numpy(rows["x_adv"]).float().to(self.device)
        return found

    def _lab(self, one: Resolved, system: System) -> Lab:
        cell = one.cell

        def train(count: int, batch: int, epoch: int) -> Iterator[tuple[Tensor, Any]]:
            images = one.data.split("train")
            places = choose(images, count)
            order = torch.randperm(len(places), generator=seeds.generator(cell.draws, "epoch", epoch)).tolist()
            joined = left_over(one.attack, one.task.target, len(places), batch)
            for _, span in chunks(len(places), batch, joined):
                part = load(images, [places[order[at]] for at in span], self.on_error, [])
                if part.ids and not misfit(one.attack, one.task.target, len(part.ids)):
                    yield pixels(part.images, self.device), tree.move(part.target[one.task.target], self.device)

        def other(spec: str) -> System:
            encoder, rest = show(minimal(complete(spec, "Encoder"))), cell.stamp.partition(":")[2]
            other_cell = replace(cell, encoder=encoder, stamp=f"{stamp(encoder, 'Encoder')}:{rest}")
            return self.systems.system(replace(one, cell=other_cell))

        return Lab(system, one.threat, train, other, seeds.generator(cell.draws, "lab"))

    def _finish(self, one: Resolved, stored: StoredCell, seconds: float, skipped: list[str]) -> None:
        cell, task = one.cell, one.task
        rows, metric = stored.rows(), of(task.name)
        if not rows:
            raise DataError(
                f"none of the {cell.count} images of {cell.data} could be read" + (f": {skipped[0]}" if skipped else "")
            )
        if not len(rows["id"]):
            raise DataError(
                f"{one.attack_name} attacks none of the {cell.count} images of {cell.data}: the label of all is its target"
            )
        counts, left_out = counts_in(rows), stored.left_out
        summary = metric.summary(counts)
        if members_of(rows):  # a suite: the worst case over the whole set, and with `_by_image` that of each image
            summary = worst_summary(rows, task.name) | {f"{key}_by_image": value for key, value in summary.items()}
        stored.finish(
            {
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "device": device_name(self.device),
                "images": len(rows["id"]),
                "left_out": left_out,
                "queries": float(rows["queries"].mean()),
                "summary": summary,
                "skipped": skipped,
                "head": self.systems.head(one),
                "versions": versions(),
                "git": revision(),
            }
        )
        self.say(stored)
        self.left_out |= {f"left out: {message}" for message in self.systems.skipped(cell)}
        for message in sorted(self.left_out):
            self.say_once(message)

    def say(self, stored: StoredCell) -> None:
        """Says what came out of a cell."""
        self.watch.note(of_cell(stored))
        for message in (stored.done or {})["skipped"]:
            self.say_once(f"left out: {message}")

    def say_audit(self, stored: StoredCell) -> None:
        for line in of_audit(stored):
            self.watch.note(line)

    def _what(self, one: Resolved, encoder: Encoder) -> dict[str, Any]:
        what = {
            **asdict(one.cell),
            "place": self._place[one.cell.id],
            "encoder_name": encoder.card.name,
            "task_name": one.task.name,
            "data_name": one.data.card.name,
            "preprocess": prepared_by(one.cell.data),
            "attack_name": one.attack_name,
            "norm": one.threat.norm,
            "eps": float(one.threat.eps),
            "weights": self._weights(one.cell),
            "encoder_card": _plain(asdict(encoder.card)),
            "data_card": _plain(asdict(one.data.card)),
        }
        return what | self._protocol(one, what)

    def is_done(self, cell: Cell) -> bool:
        """Whether the store has every chunk of the cell and its summary."""
        return measured(self.store.names(cell.id), cell.places)


def _short(encoder: str | Call) -> str:
    """An encoder's name in progress bars: the name or file in its spec, and the wrapper around it: clips(resnet18)."""
    call = read(encoder) if isinstance(encoder, str) else encoder
    inner = call.arguments[0][1] if call.arguments else None
    if isinstance(inner, Call):
        return f"{call.name}({_short(inner)})"
    return inner.rsplit("/", 1)[-1] if isinstance(inner, str) else call.name


def _plain(card: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in card.items()}
