"""Trains a head on a frozen encoder: the features of a split are computed once, then the head trains on them in seconds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import DataError, SpecError
from hardsight.data import Data, open_data
from hardsight.data.feed import choose
from hardsight.encoders.adapt import weights_hash
from hardsight.encoders.base import Encoder
from hardsight.losses.objective import still
from hardsight.probes.bank import Bank, Tick
from hardsight.specs.catalog import build, minimal, register
from hardsight.specs.syntax import Call, show
from hardsight.tasks.base import System, Task, seeded

OUTPUTS = 2**27
"""Maximum number of values in a head's output for one batch: 150 classes at 512x512 use batches of 3 images, not 32."""
TUNED = "encoder/"
"""Prefix of a fine-tuned encoder's weights, stored together with the head's."""
TRAINER = 2
"""Version of the training code; increased when a change of it changes the trained heads."""


@dataclass(frozen=True)
class Probe:
    """How a head is trained; None: the task's default. images: number of training images (None: all)."""

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
    """A head on frozen features, trained by AdamW with a cosine schedule; None is the task's default."""
    for name, value in (("epochs", epochs), ("batch", batch), ("images", images), ("lr", lr)):
        if value is not None and value <= 0:
            raise SpecError(f"probe: {name} is {value:g}; it must be above 0")
    if batch == 1 or images == 1:
        raise SpecError("probe: batch and images must be at least 2, as batch norm needs 2 images at once")
    if weight_decay is not None and weight_decay < 0:
        raise SpecError(f"probe: weight_decay is {weight_decay:g}; it must be at least 0")
    return Probe(epochs, lr, weight_decay, batch, images)


@torch.inference_mode(False)  # gradients are recorded, also where the caller has switched that off
def fit_probe(
    encoder: Encoder,
    task: Task | str | Call,
    data: Data | str | Call,
    probe: Probe | str | Call = "probe",
    seed: int = 0,
    device: torch.device | str | None = None,
    bank: Bank | None = None,
    tick: Tick | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> System:
    """The system of a frozen encoder and a head trained for the task on the data's "train" split.

    If the probe fine-tunes the encoder (finetune, aff), the system has a tuned copy, and `encoder` is not changed. bank:
    precomputed features; otherwise they are computed here. seed: of the head's initialization and the batches' order.
    Raises `DataError` if the data lack what the task needs.
    """
    at: Task = build(task, "Task") if isinstance(task, str | Call) else task
    data = open_data(data) if isinstance(data, str | Call) else data
    how = build(probe, "Probe") if isinstance(probe, str | Call) else probe
    device = device or next(iter(encoder.parameters())).device
    if (own := getattr(how, "fit", None)) is not None:
        return own(encoder, at, data, seed, device, on_error, tick)
    head = at.head(encoder, data.card)
    if not head.state_dict():
        return System(encoder, head.eval(), at)
    if bank is None:
        images = data.split("train")
        layers = getattr(head, "layers", ())
        bank = Bank(encoder, images, choose(images, how.images), at.reads == "dense", device, on_error, layers=layers)
    if len(bank) < 2:
        first = f"; the first unreadable one: {bank.skipped[0]}" if bank.skipped else ""
        raise DataError(f"{data.card.name} has {len(bank)} readable training images, and a head needs at least 2{first}")
    if (fill := getattr(head.to(device), "fill", None)) is not None:
        features, target = bank.batch(torch.arange(len(bank)), dense=False)
        fill(features.pooled, target[at.target])
        return System(encoder, head.eval(), at)
    head = seeded(head, seeds.generator("head", seed))
    _train(head, at, bank, how, seed, tick)
    return System(encoder, head.eval().requires_grad_(False), at)


def weights_of(system: System, encoder: Encoder) -> dict[str, Tensor]:
    """The weights that must be stored to restore the system: the head's, and a tuned encoder's."""
    parts = [("", system.head)] if system.encoder is encoder else [("", system.head), (TUNED, system.encoder)]
    named = [(f"{prefix}{name}", value) for prefix, part in parts for name, value in part.state_dict().items()]
    return {name: value.detach().cpu().contiguous() for name, value in named}


def with_weights(
    encoder: Encoder, task: Task, data: Data, probe: str, weights: dict[str, Tensor], device: torch.device | str
) -> System:
    """The system restored from `weights_of`; `encoder` is not changed. Raises `RuntimeError` if the weights don't fit."""
    tuned = {name.removeprefix(TUNED): value for name, value in weights.items() if name.startswith(TUNED)}
    body = copy.deepcopy(encoder) if tuned else encoder
    if tuned:
        body.load_state_dict(tuned)
        tuned_card(body, probe)
    head = task.head(body, data.card)
    head.load_state_dict({name: value for name, value in weights.items() if not name.startswith(TUNED)})
    return System(body, head.to(device).eval().requires_grad_(False), task)


def tuned_card(encoder: Encoder, probe: str | Call) -> None:
    """Updates a tuned copy's card: the hash of its weights, and the probe that tuned them."""
    note = "; ".join(text for text in (encoder.card.note, f"tuned by {show(minimal(probe))}") if text)
    encoder.with_card(sha256=weights_hash(encoder), note=note)


def head_identity(encoder: Encoder, specs: dict[str, str], seed: int, stamp: str = "") -> dict[str, Any]:
    """Everything that determines a trained head, which is stored under its fingerprint; specs are minimal ones, by what they name."""
    return {"encoder_sha256": encoder.card.sha256, **specs, "seed": seed, "stamp": stamp, "trainer": TRAINER}


def _train(head: nn.Module, task: Task, bank: Bank, how: Probe, seed: int, tick: Tick | None) -> None:
    usual = task.training
    epochs, size = how.epochs or usual.epochs, min(how.batch or usual.batch, len(bank))
    if not how.batch:
        size = max(2, min(size, OUTPUTS // _outputs(head, bank, task.reads == "dense")))
    if not how.epochs:
        epochs = max(epochs, -(-usual.steps // (len(bank) // size)))
    decay = usual.weight_decay if how.weight_decay is None else how.weight_decay
    for part in head.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not getattr(head, "moving", False):
            part.momentum = None  # a plain average over the run, as the features do not change
    optimizer = torch.optim.AdamW(head.parameters(), lr=how.lr or usual.lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * (len(bank) // size))
    rng = seeds.generator("batches", seed)
    head.train()
    for epoch in range(epochs):
        order = torch.randperm(len(bank), generator=rng)
        for start in range(0, len(bank) - size + 1, size):
            features, target = bank.batch(order[start : start + size], task.reads == "dense")
            loss = task.loss(head(features), target[task.target]).mean()
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


def _outputs(head: nn.Module, bank: Bank, dense: bool) -> int:
    """Number of values in the head's output for one image."""
    with torch.no_grad(), still(head):
        return head(bank.batch(torch.zeros(1, dtype=torch.int64), dense)[0]).numel()
