"""Encoders with their heads for the cells of a plan: from memory, from the store, or trained now and stored.

Only one encoder, with its features and heads, is in memory at a time: `forget_others` drops the rest.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import nn

from hardsight.attacks.universal import learns
from hardsight.core import seeds
from hardsight.core.errors import StoreError
from hardsight.core.progress import Bar, Watch
from hardsight.data.feed import choose
from hardsight.encoders import load_encoder
from hardsight.encoders.adapt import seeded
from hardsight.encoders.base import Encoder
from hardsight.measure.cells import Cell, Resolved
from hardsight.measure.checks.trained import judged
from hardsight.measure.plan import Plan
from hardsight.probes import kept
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe, head_identity, weights_of, with_weights
from hardsight.store.cells import Store
from hardsight.store.claims import Busy, Claims
from hardsight.store.files import read_json, write_bytes, write_json
from hardsight.tasks.base import System
from hardsight.tasks.official import trained_as

BRIEF = ("how", "choice", "steps", "images", "held_out", "score", "train", "seeds")
"""What a finished cell says of its head; the rest is stored with the head."""

RENDERED = ("made", "moving")
"""Data that their spec alone fixes; of others without files (a hub's) features are not kept, as they may change under the spec."""


class Systems:
    """The systems measured by a plan's cells. on_error: "stop" or "skip" at a training image that cannot be read."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        device: torch.device,
        on_error: Literal["stop", "skip"],
        watch: Watch,
        claims: Claims,
    ) -> None:
        self.plan, self.store, self.device, self.watch, self.claims = plan, store, device, watch, claims
        self.on_error: Literal["stop", "skip"] = on_error
        kept.limit()  # refuses a wrong value before any work
        self._encoders: dict[str, Encoder] = {}
        self._banks: dict[tuple[Any, ...], Bank] = {}
        self._systems: dict[tuple[Any, ...], System] = {}

    def check(self, one: Resolved) -> None:
        """Raises early any error of loading the encoder, of building the task's head, or of a missing training split."""
        trains_head = bool(one.task.head(self.encoder(one.cell.encoder), one.data.card).state_dict())
        if trains_head or hasattr(one.probe, "fit") or learns(one.attack):
            one.data.split("train")

    def encoder(self, spec: str) -> Encoder:
        if spec not in self._encoders:
            self._encoders[spec] = load_encoder(spec, device=self.device)
        return self._encoders[spec]

    def system(self, one: Resolved) -> System:
        """The cell's encoder with its head. `Busy` if another process is training that head."""
        cell = one.cell
        key = (cell.encoder, cell.task, cell.data, cell.probe, cell.seed)
        if key not in self._systems:
            self._systems[key] = self._build(one)
        return self._systems[key]

    def head(self, one: Resolved) -> dict[str, Any] | None:
        """How the cell's head was trained, in short, and what the check `trained` says of it; None if no head was trained."""
        fitted = self.system(one).fitted
        if fitted is None:
            return None
        finding = judged(fitted)
        return {name: fitted[name] for name in BRIEF if name in fitted} | {
            "verdict": finding.verdict,
            "reason": finding.reason,
        }

    def skipped(self, cell: Cell) -> list[str]:
        """The training images that could not be read, with the reason, if a head was trained in this run."""
        bank = next((one for key, one in self._banks.items() if key[:2] == (cell.encoder, cell.data)), None)
        return bank.skipped if bank else []

    def forget_others(self, cell: Cell) -> None:
        """Drops everything that belongs to another encoder or data set."""
        here = (cell.encoder, cell.data)
        self._encoders = {key: value for key, value in self._encoders.items() if key == cell.encoder}
        self._banks = {key: value for key, value in self._banks.items() if key[:2] == here}
        self._systems = {key: value for key, value in self._systems.items() if (key[0], key[2]) == here}
        others = [data for text, data in self.plan.data.items() if text != cell.data]
        for images in (images for data in others for images in data.splits.values()):
            if forget := getattr(images, "forget", None):  # each encoder's pictures would else stay in memory
                forget()

    def _build(self, one: Resolved) -> System:
        cell, task, encoder = one.cell, one.task, self.encoder(one.cell.encoder)
        head = task.head(encoder, one.data.card)
        tunes = hasattr(one.probe, "fit")
        if not head.state_dict() and not tunes:
            return System(encoder, head.eval(), task)
        trained = cell.task if tunes else trained_as(cell.task)
        specs = {"encoder": cell.encoder, "task": trained, "data": cell.data, "probe": cell.probe}
        identity = head_identity(encoder, specs, cell.seed, cell.stamp)
        head_id = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        path = self.store.head(head_id)
        if not path.exists():
            with self.claims.held(f"head-{head_id}", f"{encoder.card.name} · {task.name} head") as mine:
                if not mine:
                    raise Busy
                if not path.exists():  # not trained in the moment before
                    return self._trained(one, head, path, identity)
        return self._stored(one, path)

    def _stored(self, one: Resolved, path: Path) -> System:
        encoder = self.encoder(one.cell.encoder)
        try:
            system = with_weights(encoder, one.task, one.data, one.cell.probe, load_file(path), self.device)
            return replace(system, fitted=read_json(path.with_suffix(".json")).get("fitted"))
        except Exception as error:
            raise StoreError(
                f"cannot read the head {path}: {error}; delete that file, and the next run will train it again"
            ) from None

    def _trained(self, one: Resolved, head: nn.Module, path: Path, identity: dict[str, Any]) -> System:
        """The system with its head trained now; the head is stored, its record first, as the head is what others look for."""
        cell, task, encoder = one.cell, one.task, self.encoder(one.cell.encoder)
        tunes = hasattr(one.probe, "fit")
        with self.watch.bar(f"{encoder.card.name} · {task.name} head", 1) as bar:
            bank = None if tunes else self._bank(one, encoder, bar, getattr(head, "layers", ()))
            bar.images = 0
            started = time.monotonic()
            system = fit_probe(encoder, task, one.data, one.probe, cell.seed, self.device, bank, bar, self.on_error)
        count = len(bank or choose(one.data.split("train"), one.probe.images))
        seconds = round(time.monotonic() - started, 2)
        write_json(path.with_suffix(".json"), {**identity, "images": count, "seconds": seconds, "fitted": system.fitted})
        write_bytes(path, save(weights_of(system, encoder)))
        return system

    def _bank(self, one: Resolved, encoder: Encoder, bar: Bar, layers: tuple[int, ...] = ()) -> Bank:
        """Features of the training images: dense ones too if a task of the plan needs them, or those of given layers."""
        cell = one.cell
        same = [o for o in self.plan.resolved if (o.cell.encoder, o.cell.data) == (cell.encoder, cell.data)]
        dense = any(other.task.reads == "dense" for other in same)
        key = (cell.encoder, cell.data, cell.probe, dense, layers)
        if key not in self._banks:
            images = one.data.split("train")
            places = choose(images, one.probe.images)
            with seeded(seeds.seed_of("bank", cell.encoder, cell.data)):
                told = cell.stamp.rpartition(":")[2] or cell.data.partition("(")[0] in RENDERED
                source = repr((cell.encoder, encoder.card.sha256, cell.data, cell.stamp)) if told else ""
                self._banks[key] = Bank(
                    encoder, images, places, dense, self.device, self.on_error, bar, layers, one.probe.half, source
                )
        return self._banks[key]
