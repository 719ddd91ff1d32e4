"""A plan on many workers: each finds its work in the store (`measure/queue`), and this process follows what appears there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hardsight.core.machine import pick_device
from hardsight.core.progress import Bar, Watch
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench, Todo
from hardsight.measure.cells import Cell, Resolved
from hardsight.measure.engines.base import Call, Engine, marked, results
from hardsight.measure.geometry import geometry_of, kept_in
from hardsight.measure.plan import rebuilt
from hardsight.measure.protocol import Protocol
from hardsight.metrics.embeddings import EncoderGeometry
from hardsight.store.cells import Store, StoredCell, chunk_name, measured

SHARE = 0.1
"""The largest part of this process's time that is spent on looking at the store."""


@dataclass(frozen=True)
class Job:
    """What a worker needs of a bench."""

    cells: tuple[Cell, ...]
    audit: int
    protocol: Protocol | None
    store: Path
    on_error: Literal["stop", "skip"]
    gallery: int


def work(job: Job, device: str = "auto") -> list[str]:
    """In a worker: measures until nothing is left, and returns what should be said of it."""
    watch = Watch(quiet=True)
    plan = rebuilt(job.cells, job.audit, job.protocol)
    bench = Bench(plan, Store(job.store), device, job.on_error, job.gallery, watch)
    with watch, watch.bar("measuring", 1) as bar:
        bench.work(bench.todo(), bar)
    return sorted(bench.left_out)


def run_on(engine: Engine, bench: Bench, device: str = "auto") -> list[StoredCell]:
    """`bench.run()`, by the engine's workers. bench: its device is only used for the checks before."""
    todo = bench.todo()
    bench.check(todo)
    if todo:
        plan, store = bench.plan, bench.store.path.resolve()
        job = Job(plan.cells, plan.audit, plan.protocol, store, bench.on_error, bench.gallery)
        mark = marked(store)
        parts = sum(len(one.cell.places) for one in todo.cells) + len(todo.unaudited)
        calls = [Call(work, (job,), device, mark)] * min(engine.workers, parts)
        try:
            with bench.watch, bench.watch.bar(f"{len(calls)} workers", sum(one.passes for one in todo.cells)) as bar:
                follow = Follow(bench, todo, bar, mark)
                for _, messages in results(engine, calls, follow, said=bench.watch.note, over=follow.over):
                    for message in messages:
                        bench.say_once(message)
                follow.look()
        finally:
            mark.unlink(missing_ok=True)
    return bench.finish(todo)


class Follow:
    """Says what appears in the store while workers write to it, and moves the bar. Called: whether anything is new."""

    def __init__(self, bench: Bench, todo: Todo, bar: Bar, mark: Path) -> None:
        self.bench, self.bar, self.mark = bench, bar, mark
        self.cells = {one.cell.id: one for one in todo.cells}
        self.audits = set(todo.unaudited)
        self.chunks = {cell: self._there(one) for cell, one in self.cells.items()}
        for cell, there in self.chunks.items():
            self._move(self.cells[cell], len(there))
        self.heads, self._next = 0, 0.0

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        started = time.monotonic()
        new = self.look()
        self._next = time.monotonic() + (time.monotonic() - started) / SHARE
        return new

    def look(self) -> bool:
        """One look at every cell that is not finished; keeps the mark of the store, for workers that start late."""
        self.mark.touch()
        store, new = self.bench.store, False
        for cell, one in list(self.cells.items()):
            there = self._there(one)
            if more := there - self.chunks[cell]:
                new = True
                self._move(one, len(more))
                self.chunks[cell] = there
            if measured(store.names(cell), one.cell.places) and (stored := store.cell(cell)):
                del self.cells[cell]
                self.bench.say(stored)
        for cell in list(self.audits):
            if "audit.json" in store.names(cell) and (stored := store.cell(cell)):
                self.audits.remove(cell)
                self.bench.say_audit(stored)
                new = True
        heads = len(list(store.path.glob("heads/*.safetensors")))
        new, self.heads = new or heads > self.heads, heads
        return new

    def over(self) -> bool:
        """Whether the store has all that was to be done, whoever did it."""
        return not self.cells and not self.audits

    def _there(self, one: Resolved) -> set[str]:
        return set(self.bench.store.names(one.cell.id) & {chunk_name(place) for place in one.cell.places})

    def _move(self, one: Resolved, chunks: int) -> None:
        share = chunks / len(one.cell.places)
        self.bar.advance(round(one.passes * share), round(one.cell.count * share))


def geometry_at(encoder: Any, data: str, threat: str, how: dict[str, Any], device: str = "auto") -> EncoderGeometry:
    """In a worker: the statistics of one encoder. how: arguments of `geometry_of`."""
    return geometry_of(load_encoder(encoder, pick_device(device)), data, threat, **how)


def geometry_on(
    engine: Engine,
    encoders: Sequence[str],
    runs: Sequence[Path],
    data: str,
    threat: str,
    watch: Watch,
    device: str = "auto",
    **how: Any,
) -> list[EncoderGeometry]:
    """`over(encoders)` and `over_epochs` of each run, by the engine's workers: each encoder is one call."""
    kept = [(folder.resolve().name, epoch, call) for folder in runs for epoch, call in kept_in(folder).items()]
    labels = ["" for _ in encoders] + [f"{name}, epoch {epoch}" for name, epoch, _ in kept]
    asked = zip(labels, [*encoders, *(call for _, _, call in kept)], strict=True)
    calls = [Call(geometry_at, (one, data, threat, {**how, "label": label}), device) for label, one in asked]
    found: dict[int, EncoderGeometry] = {}
    with watch, watch.bar(f"geometry, {min(engine.workers, len(calls))} workers", len(calls)) as bar:
        for place, value in results(engine, calls, said=watch.note):
            found[place] = value
            bar.advance(1)
    for place, (name, epoch, _) in enumerate(kept, len(encoders)):
        found[place] = replace(found[place], series=name, epoch=epoch)
    return [found[place] for place in range(len(calls))]
