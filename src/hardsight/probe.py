"""Trains a head on a frozen encoder: features are computed once for a split, and the head then trains on those in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight import noise, tree
from hardsight.catalog import build, complete, register
from hardsight.data import Data, Images, open_data
from hardsight.data.feed import choose, load, pixels
from hardsight.encoders.base import Encoder, Features
from hardsight.errors import DataError, SpecError
from hardsight.objective import still
from hardsight.spec import Call, show
from hardsight.tasks.base import System, Task, seeded

CACHE_BYTES = 3 * 2**30
"""Features of a split beyond this many bytes are not kept but computed anew in every epoch."""

OUTPUTS = 2**27
"""Numbers that a head may make of one batch: 150 classes at 512x512 are trained 3 images at once, not 32."""
TRAINER = 1
"""Raised when a change of this code changes the heads that it trains."""

Tick = Callable[[int, int], None]
"""(done, total) images, called as the work goes on."""


@dataclass(frozen=True)
class Probe:
    """How a head is trained; None: as the task usually does. images: how many training images (None: all)."""

    epochs: int | None
    lr: float | None
    weight_decay: float | None
    batch: int | None
    images: int | None


@register
def probe(
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch: int | None = None,
    images: int | None = None,
) -> Probe:
    """A head on frozen features, by AdamW with a cosine schedule; what is None is as the task usually does."""
    for name, value in (("epochs", epochs), ("batch", batch), ("images", images), ("lr", lr)):
        if value is not None and value <= 0:
            raise SpecError(f"probe: {name} is {value:g}; it must be above 0")
    if batch == 1 or images == 1:
        raise SpecError("probe: batch norm needs at least 2 images at once")
    if weight_decay is not None and weight_decay < 0:
        raise SpecError(f"probe: weight_decay is {weight_decay:g}; it is at least 0")
    return Probe(epochs, lr, weight_decay, batch, images)


class Bank:
    """Features of one split's images under one encoder, with the targets beside them: kept, or computed on every visit."""

    def __init__(
        self,
        encoder: Encoder,
        images: Images,
        places: list[int],
        dense: bool,
        device: torch.device | str = "cpu",
        on_error: Literal["stop", "skip"] = "stop",
        tick: Tick | None = None,
    ) -> None:
        self.encoder, self.images, self.places, self.dense, self.device = encoder, images, places, dense, device
        self.on_error: Literal["stop", "skip"] = on_error
        self.skipped: list[str] = []
        self.kept: list[tuple[Features, dict[str, Tensor]]] | None = []
        size = 0
        for start in range(0, len(places), 64):
            found = self._visit(places[start : start + 64])
            if found is None:
                continue
            size += sum(part.numel() * part.element_size() for part in found[0][:2] if part is not None)
            if size * len(places) / (start + len(found[0].pooled)) > CACHE_BYTES:
                self.kept = None
                break
            self.kept.append(found)
            if tick:
                tick(min(start + 64, len(places)), len(places))
        if self.kept:
            self._features = _joined([features for features, _ in self.kept])
            self._target = {key: torch.cat([t[key] for _, t in self.kept]) for key in self.kept[0][1]}
            del self.kept[1:]

    def __len__(self) -> int:
        if self.kept is None:
            return len(self.places)
        return len(self._features.pooled) if self.kept else 0

    def batch(self, index: Tensor) -> tuple[Features, dict[str, Tensor]]:
        """Features and targets of the images at these places of the bank, on its device."""
        if self.kept is None:
            found = self._visit([self.places[int(place)] for place in index])
            if found is None:
                raise DataError(f"a whole batch of training images could not be read: {self.skipped[-1]}")
            return found
        return tree.move(tree.take(self._features, index), self.device), tree.take(self._target, index)

    def _visit(self, places: list[int]) -> tuple[Features, dict[str, Tensor]] | None:
        """Features and targets of the images at these places; None where none of them could be read."""
        batch = load(self.images, places, self.on_error, self.skipped)
        if not batch.ids:
            return None
        with torch.no_grad(), still(self.encoder):
            features = self.encoder(pixels(batch.images, self.device))
        dense = features.dense.clone() if self.dense and features.dense is not None else None
        keep = features._replace(
            pooled=features.pooled.clone(), layers=(), trunk=None, dense=dense
        )  # views would keep all tokens
        return (tree.move(keep, "cpu") if self.kept is not None else keep), batch.target


def fit_probe(
    encoder: Encoder,
    task: Task | str | Call,
    data: Data | str | Call,
    probe: Probe | str | Call = "probe",
    seed: int = 0,
    device: torch.device | str | None = None,
    bank: Bank | None = None,
    tick: Tick | None = None,
) -> System:
    """The system of a frozen encoder and a head trained at the task on the data's "train" part.

    bank: features computed before; otherwise they are computed here. seed draws the head's start and the batches' order.
    Raises `DataError` where the data lack what the task needs.
    """
    at: Task = build(task, "Task") if isinstance(task, str | Call) else task
    data = open_data(data) if isinstance(data, str | Call) else data
    how = build(probe, "Probe") if isinstance(probe, str | Call) else probe
    device = device or next(iter(encoder.parameters())).device
    head = at.head(encoder, data.card)
    if not any(True for _ in head.parameters()):
        return System(encoder, head.eval(), at)
    if bank is None:
        images = data.split("train")
        bank = Bank(encoder, images, choose(images, how.images), at.reads == "dense", device)
    if not len(bank):
        raise DataError(f"{data.card.name} has no training images")
    head = seeded(head, noise.generator("head", seed)).to(device)
    _train(head, at, bank, how, seed, tick)
    return System(encoder, head.eval().requires_grad_(False), at)


def head_identity(encoder: Encoder, specs: dict[str, Any], seed: int, stamp: str = "") -> dict[str, Any]:
    """All that makes a head: its fingerprint is the name it is stored under."""
    texts = {name: show(complete(spec)) for name, spec in specs.items()}
    return {"encoder_sha256": encoder.card.sha256, **texts, "seed": seed, "stamp": stamp, "trainer": TRAINER}


def _train(head: nn.Module, task: Task, bank: Bank, how: Probe, seed: int, tick: Tick | None) -> None:
    usual = task.training
    epochs, size = how.epochs or usual.epochs, min(how.batch or usual.batch, len(bank))
    if not how.batch:
        size = max(2, min(size, OUTPUTS // _outputs(head, bank)))
    if not how.epochs:
        epochs = max(epochs, -(-usual.steps // (len(bank) // size)))
    decay = usual.weight_decay if how.weight_decay is None else how.weight_decay
    for part in head.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None  # a plain average over the run: the features do not change
    optimizer = torch.optim.AdamW(head.parameters(), lr=how.lr or usual.lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * (len(bank) // size))
    rng = noise.generator("batches", seed)
    head.train()
    for epoch in range(epochs):
        order = torch.randperm(len(bank), generator=rng)
        for start in range(0, len(bank) - size + 1, size):
            features, target = bank.batch(order[start : start + size])
            loss = task.loss(head(features), target[task.target].to(features.pooled.device)).mean()
            if not torch.isfinite(loss):
                raise DataError(
                    f"the {task.name} head's loss became {float(loss.detach())} in epoch {epoch + 1}; try a smaller lr: probe(lr=1e-3)"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if tick:
            tick((epoch + 1) * len(bank), epochs * len(bank))


def _outputs(head: nn.Module, bank: Bank) -> int:
    """How many numbers the head makes of one image."""
    with torch.no_grad(), still(head):
        return head(bank.batch(torch.zeros(1, dtype=torch.int64))[0]).numel()


def _joined(parts: list[Features]) -> Features:
    dense = None if parts[0].dense is None else torch.cat([part.dense for part in parts if part.dense is not None])
    return parts[0]._replace(pooled=torch.cat([part.pooled for part in parts]), dense=dense)
