"""A grid, the cells that are missing from the store, and running them: what is done is never done again."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from hardsight import noise, tree
from hardsight.attack import Attack, Lab, on, prepared
from hardsight.audit import audit
from hardsight.catalog import build, complete, minimal
from hardsight.checks.base import Case
from hardsight.data import Data
from hardsight.data.feed import choose, load, pixels
from hardsight.encoders import load_encoder
from hardsight.encoders.adapt import seeded
from hardsight.encoders.base import Encoder
from hardsight.errors import DataError, StoreError
from hardsight.evaluate import evaluate
from hardsight.machine import device_name, pick_device, revision, versions
from hardsight.metrics import of
from hardsight.metrics.worst import counts_for, members_of
from hardsight.metrics.worst import summary as worst_summary
from hardsight.plan import Cell, Plan, attack_name, stamp
from hardsight.probe import Bank, fit_probe, head_identity, weights_of, with_weights
from hardsight.spec import Call, read, show
from hardsight.store import Store, StoredCell, chunks, read_arrays, write_arrays, write_bytes, write_json
from hardsight.tasks.base import System, Task
from hardsight.threats.base import Threat
from hardsight.watch import Bar, Watch


class Bench:
    """Runs the cells of a plan that the store lacks."""

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
        self._told: set[str] = set()
        self._encoders: dict[str, Encoder] = {}
        self._banks: dict[tuple[Any, ...], Bank] = {}
        self._systems: dict[tuple[Any, ...], System] = {}

    def run(self) -> list[StoredCell]:
        """Every cell of the plan, measured now or before. What is written stays, whenever this is interrupted."""
        missing = [cell for cell in self.plan.cells if not self._is_done(cell)]
        unaudited = [
            cell for cell in self.plan.audited() if (stored := self.store.cell(cell.id)) is None or not stored.audit
        ]
        for cell in reversed(missing):  # all of them once, before anything is written: a misspelt one is told at once
            self._forget_others(cell)
            self._check(cell)
        if missing:
            self.store.create()
        with self._alone(), self.watch, self.watch.bar("measuring", sum(map(self.plan.passes, missing))) as bar:
            for cell in self.plan.cells:
                if cell not in missing and cell not in unaudited:
                    continue
                self._forget_others(cell)
                bar.say(f"{_short(cell.encoder)} · {cell.task} · {cell.column} {cell.eps_text}".rstrip())
                if cell in missing:
                    self._measure(cell, bar)
                if cell in unaudited:
                    bar.say(f"{_short(cell.encoder)} · {cell.task} · audit")
                    self._audit(cell)
        return [stored for cell in self.plan.cells if (stored := self.store.cell(cell.id))]

    def _check(self, cell: Cell) -> None:
        """Raises what would be raised later: the encoder can be had, the task's head fits it, and there is data to train on."""
        data, encoder = self.plan.data[cell.data], self._encoder(cell)
        if build(cell.task, "Task").head(encoder, data.card).state_dict():
            data.split("train")

    def system(self, cell: Cell) -> System:
        """The cell's encoder with its head: from memory, from the store, or trained now and stored."""
        key = (cell.encoder, cell.task, cell.data, cell.probe, cell.seed)
        if key not in self._systems:
            self._systems[key] = self._make_system(cell)
        return self._systems[key]

    def _make_system(self, cell: Cell) -> System:
        encoder = self._encoder(cell)
        task: Task = build(cell.task, "Task")
        data = self.plan.data[cell.data]
        head = task.head(encoder, data.card)
        tunes = hasattr(build(cell.probe, "Probe"), "fit")
        if not head.state_dict() and not tunes:
            return System(encoder, head.eval(), task)
        identity = head_identity(
            encoder,
            {"encoder": cell.encoder, "task": cell.task, "data": cell.data, "probe": cell.probe},
            cell.seed,
            cell.stamp,
        )
        path = self.store.head(hashlib.sha256(repr(identity).encode()).hexdigest()[:16])
        if path.exists():
            try:
                return with_weights(encoder, task, data, cell.probe, load_file(path), self.device)
            except Exception as error:
                raise StoreError(
                    f"cannot read the head {path}: {error}; delete that file, and the next run trains it again"
                ) from None
        name = f"{encoder.card.name} · {task.name} head"
        with self.watch.bar(name, 1) as bar:
            bank = None if tunes else self._bank(cell, encoder, bar, getattr(head, "layers", ()))
            bar.images = 0
            started = time.monotonic()
            system = fit_probe(encoder, task, data, cell.probe, cell.seed, self.device, bank, bar, self.on_error)
        count = len(bank or choose(data.split("train"), build(cell.probe, "Probe").images))
        write_bytes(path, save(weights_of(system, encoder)))
        write_json(path.with_suffix(".json"), {**identity, "images": count, "seconds": round(time.monotonic() - started, 2)})
        return system

    def _encoder(self, cell: Cell) -> Encoder:
        if cell.encoder not in self._encoders:
            self._encoders[cell.encoder] = load_encoder(cell.encoder, device=self.device)
        return self._encoders[cell.encoder]

    def _bank(self, cell: Cell, encoder: Encoder, bar: Bar, layers: tuple[int, ...] = ()) -> Bank:
        """Features of the training images, with dense ones if any task of the plan will read them, or with those layers."""
        same = [c for c in self.plan.cells if (c.encoder, c.data) == (cell.encoder, cell.data)]
        dense = any(build(task, "Task").reads == "dense" for task in {c.task for c in same})
        key = (cell.encoder, cell.data, cell.probe, dense, layers)
        if key not in self._banks:
            images = self.plan.data[cell.data].split("train")
            places = choose(images, build(cell.probe, "Probe").images)
            with seeded(noise.seed_of("bank", cell.encoder, cell.data)):
                self._banks[key] = Bank(encoder, images, places, dense, self.device, self.on_error, bar, layers)
        return self._banks[key]

    def _measure(self, cell: Cell, bar: Bar) -> None:
        system = self.system(cell)
        attack: Attack = build(cell.attack, "Attack")
        threat: Threat = build(cell.threat, "Threat")
        data = self.plan.data[cell.data]
        images = data.split(cell.split)
        stored = self.store.open(cell.id, self._what(cell, system.encoder, data, threat))
        with seeded(noise.seed_of(cell.id, "lab")):
            attack = on(prepared(attack, self._lab(cell, system, threat)), system.task.target)
        places, started, skipped = choose(images, cell.count), time.monotonic(), []
        for place, span in chunks(cell.count, cell.chunk):
            if not stored.has(place):
                batch = load(images, [places[one] for one in span], self.on_error, skipped)
                if not batch.ids:  # none of them could be read: an empty chunk, so that the cell can be finished
                    stored.write_chunk(place, {})
                    bar.advance(len(span) * attack.passes)
                    continue
                rng = noise.generator(cell.id, place)
                x, y = pixels(batch.images, self.device), tree.move(batch.target[system.task.target], self.device)
                keep = self.gallery if place == 0 else 0
                with seeded(noise.seed_of(cell.id, place, "model")):  # an encoder may draw too: fresh crops
                    rows, seen = evaluate(system, attack, threat, x, y, batch.ids, rng, cell.precision, keep)
                if seen is not None:
                    write_arrays(stored.path / "gallery.npz", seen)
                stored.write_chunk(place, rows)
            bar.advance(len(span) * attack.passes, len(span))
        self._finish(cell, stored, system.task, time.monotonic() - started, skipped)

    def _audit(self, cell: Cell) -> None:
        """Asks every check about the cell's number, on the first few of its images, and stores what they say."""
        system, threat = self.system(cell), build(cell.threat, "Threat")
        images, stored = self.plan.data[cell.data].split(cell.split), self.store.cell(cell.id)
        assert stored is not None
        spec, count = self.plan.audit_of(cell)
        batch = load(images, choose(images, cell.count)[:count], self.on_error, [])
        if not batch.ids:
            return
        x, y = pixels(batch.images, self.device), tree.move(batch.target[system.task.target], self.device)
        case = Case(system, build(spec, "Attack"), threat, x, y, cell.seed, self._found_elsewhere(cell, batch.ids))
        with seeded(noise.seed_of(cell.id, "audit")):
            found = {"attack": attack_name(spec), **audit(case)}
        write_arrays(stored.path / "audit.npz", {"id": np.array(batch.ids), "x_adv": case.found.x_adv.half().cpu().numpy()})
        write_json(stored.path / "audit.json", found)
        name = f"{stored.what['encoder_name']} · {stored.what['task_name']}"
        self.watch.note(f"{name} · audit: {found['verdict']}, {len(found['checks'])} checks, {found['seconds']} s")
        for one in found["checks"]:
            if one["verdict"] in ("warn", "fail"):
                self.watch.note(f"  {one['verdict']}: {one['title']}: {one['reason']}")

    def _found_elsewhere(self, cell: Cell, ids: list[str]) -> dict[str, Tensor]:
        """What the same attack found for these images on the encoders before this one, by their names."""
        found = {}
        for other in self.plan.audited():
            if other.encoder == cell.encoder:
                break
            stored = self.store.cell(other.id)
            alike = (other.task, other.data, other.attack, other.threat) == (cell.task, cell.data, cell.attack, cell.threat)
            if alike and stored is not None and (path := stored.path / "audit.npz").exists():
                rows = read_arrays(path)
                if list(rows["id"]) == ids:
                    found[stored.what["encoder_name"]] = torch.from_numpy(rows["x_adv"]).float().to(self.device)
        return found

    def _lab(self, cell: Cell, system: System, threat: Threat) -> Lab:
        images = self.plan.data[cell.data].split("train")

        def train(count: int, batch: int, epoch: int) -> Iterator[tuple[Tensor, Any]]:
            places = choose(images, count)
            order = torch.randperm(len(places), generator=noise.generator(cell.id, "epoch", epoch)).tolist()
            for start in range(0, len(places), batch):
                part = load(images, [places[one] for one in order[start : start + batch]], self.on_error, [])
                if part.ids:
                    yield pixels(part.images, self.device), tree.move(part.target[system.task.target], self.device)

        def other(spec: str) -> System:
            encoder, rest = show(minimal(complete(spec, "Encoder"))), cell.stamp.partition(":")[2]
            return self.system(replace(cell, encoder=encoder, stamp=f"{stamp(encoder, 'Encoder')}:{rest}"))

        return Lab(system, threat, train, other, noise.generator(cell.id, "lab"))

    def _finish(self, cell: Cell, stored: StoredCell, task: Task, seconds: float, skipped: list[str]) -> None:
        rows, metric = stored.rows(), of(task.name)
        if not rows:
            raise DataError(
                f"none of the {cell.count} images of {cell.data} could be read" + (f": {skipped[0]}" if skipped else "")
            )
        counts = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith("counts.")}
        summary, headline = metric.summary(counts), counts_for(rows, metric, metric.headline)
        if members_of(rows):  # a suite: the set's worst case first, that of each image beside it
            summary = worst_summary(rows, task.name) | {f"{key}_by_image": value for key, value in summary.items()}
        stored.finish(
            {
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "device": device_name(self.device),
                "images": len(rows["id"]),
                "queries": float(rows["queries"].mean()),
                "summary": summary,
                "skipped": skipped,
                "versions": versions(),
                "git": revision(),
            }
        )
        low, high = metric.interval(headline)
        scale = 100 if metric.unit == "%" else 1
        value, low, high = (f"{scale * one:.{1 if scale == 100 else 3}f}" for one in (summary[metric.headline], low, high))
        what = stored.what
        self.watch.note(
            f"{what['encoder_name']} · {task.name} on {what['data_name']} · {what['attack_name']} {cell.eps_text}".rstrip()
            + f": {metric.label} {value} {metric.unit} [{low}, {high}], n = {len(rows['id'])}, {seconds:.1f} s"
        )
        bank = next((one for key, one in self._banks.items() if key[:2] == (cell.encoder, cell.data)), None)
        for message in [*skipped, *(bank.skipped if bank else [])]:
            if message not in self._told:
                self._told.add(message)
                self.watch.note(f"left out: {message}")

    def _what(self, cell: Cell, encoder: Encoder, data: Data, threat: Threat) -> dict[str, Any]:
        task: Task = build(cell.task, "Task")
        return {
            **asdict(cell),
            "place": self.plan.cells.index(cell),
            "encoder_name": encoder.card.name,
            "task_name": task.name,
            "data_name": data.card.name,
            "attack_name": attack_name(cell.attack),
            "norm": threat.norm,
            "eps": float(threat.eps),
            "encoder_card": _plain(asdict(encoder.card)),
            "data_card": _plain(asdict(data.card)),
        }

    def _is_done(self, cell: Cell) -> bool:
        stored = self.store.cell(cell.id)
        whole = stored is not None and all(stored.has(place) for place, _ in chunks(cell.count, cell.chunk))
        return whole and stored is not None and stored.done is not None

    def _forget_others(self, cell: Cell) -> None:
        """Drops what another encoder or data set needed: one encoder and its features in memory at a time."""
        here = (cell.encoder, cell.data)
        self._encoders = {key: value for key, value in self._encoders.items() if key == cell.encoder}
        self._banks = {key: value for key, value in self._banks.items() if key[:2] == here}
        self._systems = {key: value for key, value in self._systems.items() if (key[0], key[2]) == here}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the store for this process; `StoreError` where another run is writing to it."""
        if not self.store.path.exists() or platform.system() == "Windows":
            yield
            return
        import fcntl

        with open(self.store.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"another run is writing to {self.store.path}; wait for it, or give another --store"
                ) from None
            yield


def _short(encoder: str | Call) -> str:
    """What a bar calls an encoder: the name or file within its spec, and around it what it is made into: clips(resnet18)."""
    call = read(encoder) if isinstance(encoder, str) else encoder
    inner = call.arguments[0][1] if call.arguments else None
    if isinstance(inner, Call):
        return f"{call.name}({_short(inner)})"
    return inner.rsplit("/", 1)[-1] if isinstance(inner, str) else call.name


def _plain(card: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in card.items()}
