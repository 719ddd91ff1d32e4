"""Trains a head on a frozen encoder: the features of a split are computed once, then the head trains on them in seconds.

`probe` alone is tuned on a held-out part of the training features, never on those that are measured: a linear classifier, of images
or of pixels, goes to the optimum along a path of weight decays (`logistic`), another head takes the best of a grid of learning
rates (`runs`). `probe(epochs=...)` and the like fix a run instead, as a protocol states it, and nothing is tuned.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import DataError, SpecError
from hardsight.data import Data, open_data
from hardsight.data.feed import choose
from hardsight.encoders.adapt import weights_hash
from hardsight.encoders.base import Encoder
from hardsight.probes.bank import Bank, Tick
from hardsight.probes.logistic import fit_logistic
from hardsight.probes.runs import (
    MEASURED,
    Fitted,
    Outcome,
    Setting,
    batch_of,
    diagnose,
    held_out,
    interval,
    measure,
    train,
    tune,
)
from hardsight.probes.samples import is_linear, samples
from hardsight.specs.catalog import build, minimal, register
from hardsight.specs.syntax import Call, show
from hardsight.tasks.base import System, Task, seeded
from hardsight.tasks.classify import LinearHead

TUNED = "encoder/"
"""Prefix of a fine-tuned encoder's weights, stored together with the head's."""
LEAST, HELD = 10, 0.2
"""Fewer training images than this are not divided; the share of them on which a linear classifier's decay is chosen."""
TRAINER = 5
"""Version of the training code; increased when a change of it changes the trained heads."""


@dataclass(frozen=True)
class Probe:
    """How a head is trained; None: the task's default, and if all are None, tuned. images: number of training images.

    seeds: how many heads are trained, the first of which is used; the others show what depends on the seed. half: whether dense
    features are kept in float16.
    """

    epochs: int | None
    lr: float | None
    weight_decay: float | None
    batch: int | None
    images: int | None
    optimizer: Literal["adamw", "adam", "sgd"] | None
    schedule: Literal["cosine", "constant", "poly"] | None
    seeds: int
    half: bool

    @property
    def tunes(self) -> bool:
        fixed = (self.epochs, self.lr, self.weight_decay, self.batch, self.optimizer, self.schedule)
        return all(value is None for value in fixed)


@register
def probe(
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch: int | None = None,
    images: int | None = None,
    optimizer: Literal["adamw", "adam", "sgd"] | None = None,
    schedule: Literal["cosine", "constant", "poly"] | None = None,
    seeds: int = 1,
    half: bool = False,
) -> Probe:
    """A head on frozen features, tuned on a held-out part of them; with an argument of the run, one run as it says.

    None in such a run is the task's default; the optimizer's is adamw (sgd has momentum 0.9), the schedule's cosine. poly:
    the rate falls with the power 0.9 of the steps that are left. seeds: as many heads are trained, each with its own held-out
    part, initialization and order. The first one is used; the scores of all are stored with it and judged by the check `trained`.
    half: dense features are kept in float16, in half the space; the head is trained on their float32.
    """
    for name, value in (("epochs", epochs), ("batch", batch), ("images", images), ("lr", lr), ("seeds", seeds)):
        if value is not None and value <= 0:
            raise SpecError(f"probe: {name} is {value:g}; it must be above 0")
    if batch == 1 or images == 1:
        raise SpecError("probe: batch and images must be at least 2, as batch norm needs 2 images at once")
    if weight_decay is not None and weight_decay < 0:
        raise SpecError(f"probe: weight_decay is {weight_decay:g}; it must be at least 0")
    return Probe(epochs, lr, weight_decay, batch, images, optimizer, schedule, seeds, half)


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
        bank = Bank(
            encoder, images, choose(images, how.images), at.reads == "dense", device, on_error, layers=layers, half=how.half
        )
    elif at.reads == "dense" and tuple(bank.layers) != (layers := tuple(getattr(head, "layers", ()))):
        raise DataError(
            f"the bank has the layers {bank.layers}, and the {at.name} head uses {layers}; give Bank(layers=...)"
        )
    if len(bank) < 2:
        first = f"; the first unreadable one: {bank.skipped[0]}" if bank.skipped else ""
        raise DataError(f"{data.card.name} has {len(bank)} readable training images, and a head needs at least 2{first}")
    if (fill := getattr(head.to(device), "fill", None)) is not None:
        features, target = bank.batch(torch.arange(len(bank)), dense=False)
        fill(features.pooled, target[at.target])
        return System(encoder, head.eval(), at)
    heads = [seeded(copy.deepcopy(head), seeds.generator("head", seed + place)) for place in range(how.seeds)]
    found = [_fit(one, at, bank, how, seed + place, tick) for place, one in enumerate(heads)]
    scores = {"seeds": [one["score"] for one in found]} if how.seeds > 1 and "score" in found[0] else {}
    return System(encoder, heads[0].eval().requires_grad_(False), at, found[0] | scores)


def _fit(head: nn.Module, task: Task, bank: Bank, how: Probe, seed: int, tick: Tick | None) -> Fitted:
    """Trains the head in place."""
    usual, size = task.training, batch_of(head, task, bank, how.batch)
    each = len(bank) // size
    epochs = how.epochs or max(usual.epochs, -(-usual.steps // each))
    decay = usual.weight_decay if how.weight_decay is None else how.weight_decay
    default = Setting(max(usual.epochs * each, usual.steps), size, usual.lr, usual.weight_decay)
    if how.tunes and len(bank) >= LEAST and is_linear(head, task):
        return _to_the_optimum(head, task, bank, seed)[0]
    if how.tunes and len(bank) >= LEAST:
        found, at, held = tune(head, task, bank, default, seed, tick)
        return {**found, **diagnose(head, task, bank, at, held, default, seed, seen=False)}
    setting = Setting(epochs * each, size, how.lr or usual.lr, decay, how.optimizer or "adamw", how.schedule or "cosine")
    start = copy.deepcopy(head)
    train(head, task, bank, torch.arange(len(bank)), setting, seed, tick)
    choice = {"lr": setting.lr, "weight_decay": setting.weight_decay, "epochs": epochs, "batch": size}
    found = {"how": "fixed", "choice": choice, "steps": setting.steps, "images": len(bank), "held_out": 0}
    if len(bank) < LEAST:
        return found
    if isinstance(start, LinearHead):
        return {**found, **_beside_the_optimum(start, task, bank, setting, epochs, seed)}
    at, held = held_out(len(bank), seed, HELD)
    return {**found, **diagnose(head, task, bank, at, held, default, seed, seen=True)}


def _beside_the_optimum(start: LinearHead, task: Task, bank: Bank, how: Setting, epochs: int, seed: int) -> Fitted:
    """Scores of the same run on all but the held-out images, and what the optimum on these would change."""
    at, held = held_out(len(bank), seed, HELD)
    twin, size = copy.deepcopy(start), min(how.batch, len(at))
    train(twin, task, bank, at, replace(how, steps=epochs * (len(at) // size), batch=size), seed)
    best, best_trained, best_held = _to_the_optimum(start, task, bank, seed)
    trained, before = (measure(twin, task, bank, part, len(part)) for part in (at, held))
    return {
        "held_out": len(held), "seen": False, "train": interval(1 - trained.error), "score": interval(1 - before.error),
        "curve": best["curve"],
        "more": {
            "weight_decay": best["choice"]["weight_decay"], "score": interval(before.error - best_held.error),
            "loss": interval(before.loss - best_held.loss), "before": float(before.loss.mean()),
            "over": float(trained.loss.mean()) < float(best_trained.loss.mean()),
        },
    }  # fmt: skip


def _to_the_optimum(head: nn.Module, task: Task, bank: Bank, seed: int) -> tuple[Fitted, Outcome, Outcome]:
    """What came of it, and the outcomes of the trained and of the held-out images before the last fit, on both."""
    x, y, image = samples(head, task, bank, seed)
    if not bool(x.isfinite().all()):
        raise DataError(
            f"some features of the training images are not finite, so no {task.name} head can be trained on them"
        )
    drawn = task.reads == "dense"
    norm: nn.modules.batchnorm._BatchNorm = head.norm if drawn else head.scale  # type: ignore[assignment]
    variance, mean = torch.var_mean(x, 0)
    for name, value in (("running_mean", mean), ("running_var", variance)):
        norm.get_buffer(name).copy_(value)
    head.eval()
    linear: nn.Linear | nn.Conv2d = head.linear  # type: ignore[assignment]
    at, held = held_out(len(bank), seed, HELD)
    few = at[:: -(-len(at) // MEASURED)] if drawn else at
    with torch.no_grad():
        path = fit_logistic((x - mean) / (variance + norm.eps).sqrt(), y, len(linear.weight), torch.isin(image, held), drawn)
        for solution in (path.part, path.last):
            linear.weight.copy_(solution.weight.view_as(linear.weight))
            linear.bias.copy_(solution.bias)  # type: ignore[union-attr]
            if solution is path.part:
                size = task.training.batch if drawn else len(at)
                outcomes = [measure(head, task, bank, part, size) for part in (few, held)]
    fitted = {
        "how": "tuned", "choice": {"weight_decay": path.decay}, "curve": path.points, "steps": path.last.iterations,
        "converged": path.last.converged, "gradient": path.last.gradient, "images": len(bank), "held_out": len(held),
        "seen": False, "train": interval(1 - outcomes[0].error), "score": interval(1 - outcomes[1].error),
    }  # fmt: skip
    return (fitted | {"pixels": len(x)} if drawn else fitted), outcomes[0], outcomes[1]


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
