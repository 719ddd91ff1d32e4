"""Runs of a gradient method on cached features, and what shows whether a head is trained: scores on a held-out part.

A score is 1 minus the task's error, its mean over images. `Fitted`, what is stored with a head, says how it was trained and what
came of it: the choice, every point that was tried, the scores on trained and on held-out images, and whether it has converged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import DataError
from hardsight.losses.objective import still
from hardsight.probes.bank import Bank, Tick
from hardsight.tasks.base import Task

Fitted = dict[str, Any]
"""{"how", "choice", "curve", "images", "held_out", "train": [low, mean, high], "score": ..., "converged", "gradient", ...}."""
OUTPUTS = 2**27
"""Maximum number of values in a head's output for one batch: 150 classes at 512x512 use batches of 3 images, not 32."""
RATES = (1 / 3, 1.0, 3.0, 10.0)
"""The grid, as multiples of the task's learning rate. Of weight decay short runs show nothing (100 times as much changes the
held-out loss of a segmentation head by less than 0.1%), so the decay is the task's, and the early stop limits over-fitting."""
FEW, LONGER = 8, 2
"""A tuned run takes batches of at most so many images, and so many times the task's steps: on synthetic scenes a depth head's
RMSE is 1.49 m instead of 1.52 m, in 0.6 of the time that batches of 32 take."""
SHORT, LOOKS, PATIENCE = 15, 10, 4
"""A point of the grid is tried for 1 / 15 of the run; a run looks ten times at the held-out part, and ends if four don't help."""
MORE, MEASURED = 30, 256
"""Steps that a finished head is trained further, to see whether that helps; maximal number of trained images in a score."""


@dataclass(frozen=True)
class Setting:
    """One gradient run. steps: per epoch there are as many as whole batches; the last epoch may be cut."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant", "poly"] = "cosine"


class Outcome(NamedTuple):
    """Per image [n]: the task's error, and the training loss."""

    error: Tensor
    loss: Tensor


def held_out(count: int, seed: int, share: float) -> tuple[Tensor, Tensor]:
    """(indices to train on, indices held out, at least 2 of each) of a bank of `count` images, drawn from the seed."""
    order = torch.randperm(count, generator=seeds.generator("held out", seed))
    cut = min(max(2, round(share * count)), count - 2)
    return order[cut:].sort().values, order[:cut].sort().values


def train(
    head: nn.Module,
    task: Task,
    bank: Bank,
    at: Tensor,
    how: Setting,
    seed: int,
    tick: Tick | None = None,
    look: Callable[[int], bool] | None = None,
) -> int:
    """Trains the head on the bank's images `at`; returns the number of steps. look(step) is asked after each; True ends the run."""
    for part in head.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not getattr(head, "moving", False):
            part.momentum = None  # a plain average over the run, as the features do not change
    optimizer = OPTIMIZERS[how.optimizer](head.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    own = getattr(task, "schedule", None)
    schedule = (own and own(optimizer, how.steps)) or SCHEDULES[how.schedule](optimizer, how.steps)
    rng, each = seeds.generator("batches", seed), len(at) // how.batch
    head.train()
    for step in range(how.steps):
        if step % each == 0:
            order = torch.randperm(len(at), generator=rng)
        index = order[step % each * how.batch :][: how.batch]
        features, target = bank.batch(at[index], task.reads == "dense")
        loss = task.loss(head(features), target[task.target]).mean()
        if not torch.isfinite(loss):
            raise DataError(
                f"the {task.name} head's loss became {float(loss.detach())} in epoch {step // each + 1}; try a smaller lr: "
                "probe(lr=1e-3)"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if tick and (step + 1) % each == 0:
            tick((step + 1) // each * len(at), -(-how.steps // each) * len(at))
        if look and look(step + 1):
            return step + 1
    return how.steps


def measure(head: nn.Module, task: Task, bank: Bank, at: Tensor, batch: int) -> Outcome:
    """The outcome of the bank's images `at`, in eval mode."""
    errors, losses = [], []
    with torch.no_grad(), still(head):
        head.eval()
        for part in at.split(batch):
            features, target = bank.batch(part, task.reads == "dense")
            output = head(features)
            errors.append(task.error(output, target[task.target]).double().cpu())
            losses.append(task.loss(output, target[task.target]).double().cpu())
    return Outcome(torch.cat(errors), torch.cat(losses))


def interval(values: Tensor) -> list[float]:
    """[low, mean, high]: the mean of [n] values and its 95% interval by the normal approximation, up to one value in n."""
    middle, wide = float(values.mean()), 1.96 * float(values.std(correction=0)) / math.sqrt(len(values))
    return [middle - max(wide, 1 / len(values)), middle, middle + max(wide, 1 / len(values))]


def tune(
    head: nn.Module, task: Task, bank: Bank, usual: Setting, seed: int, tick: Tick | None
) -> tuple[Fitted, Tensor, Tensor]:
    """Trains with the point of the grid whose short run has the smallest held-out loss; keeps the best of the looks.

    Returns what came of it, the indices trained on, and those held out.
    """
    at, held = held_out(len(bank), seed, 0.1)
    usual = replace(usual, batch=min(FEW, usual.batch, len(at)), steps=LONGER * usual.steps)
    start, curve = copy.deepcopy(head.state_dict()), []
    for rate in RATES:
        how = replace(usual, steps=max(1, usual.steps // SHORT), lr=rate * usual.lr)
        head.load_state_dict(start)
        try:
            train(head, task, bank, at, how, seed)
            found = measure(head, task, bank, held, usual.batch)
            loss, score = float(found.loss.mean()), 1 - float(found.error.mean())
        except DataError:  # a rate at which the loss is not finite
            loss, score = math.inf, 0.0
        curve.append({"lr": how.lr, "steps": how.steps, "held_out": score, "loss": loss})
    best = min(curve, key=lambda point: point["loss"] if math.isfinite(point["loss"]) else math.inf)
    head.load_state_dict(start)
    kept, looks, each = (math.inf, start), [], max(1, usual.steps // LOOKS)

    def look(step: int) -> bool:
        nonlocal kept
        if step % each and step != usual.steps:
            return False
        found = measure(head, task, bank, held, usual.batch)
        head.train()
        loss = float(found.loss.mean())
        looks.append({"step": step, "held_out": 1 - float(found.error.mean()), "loss": loss})
        if loss < kept[0]:
            kept = (loss, copy.deepcopy(head.state_dict()))
        return min(range(len(looks)), key=lambda place: looks[place]["loss"]) < len(looks) - PATIENCE

    how = replace(usual, lr=best["lr"])
    steps = train(head, task, bank, at, how, seed, tick, look)
    head.load_state_dict(kept[1])
    choice = {"lr": how.lr, "weight_decay": how.weight_decay}
    curve = [{**point, "loss": point["loss"] if math.isfinite(point["loss"]) else None} for point in curve]
    return {"how": "tuned", "choice": choice, "curve": curve, "looks": looks, "steps": steps}, at, held


def diagnose(
    head: nn.Module, task: Task, bank: Bank, at: Tensor, held: Tensor, usual: Setting, seed: int, seen: bool
) -> Fitted:
    """Scores of a trained head on images it was trained on and on held-out ones, and what `MORE` steps would change.

    seen: whether the head was trained on the held-out ones too; then they show whether more steps help, but not over-fitting.
    """
    few = at[:: -(-len(at) // MEASURED)]
    before, trained = (measure(head, task, bank, part, usual.batch) for part in (held, few))
    copied, size = copy.deepcopy(head).requires_grad_(True), min(usual.batch, len(at))
    further = replace(usual, steps=MORE, batch=size, optimizer="adamw", schedule="cosine")
    train(copied, task, bank, at, further, seed + 1)
    after = measure(copied, task, bank, held, usual.batch)
    return {
        "images": len(at) + (len(held) if seen else 0), "held_out": len(held), "seen": seen,
        "train": interval(1 - trained.error), "score": interval(1 - before.error),
        "gradient": _gradient(head, task, bank, few, usual.batch),
        "more": {
            "steps": MORE, "score": interval(before.error - after.error), "loss": interval(before.loss - after.loss),
            "before": float(before.loss.mean()),
        },
    }  # fmt: skip


def batch_of(head: nn.Module, task: Task, bank: Bank, given: int | None) -> int:
    """The batch that is given, or the task's, smaller where the head's outputs are many; at most all images."""
    size = min(given or task.training.batch, len(bank))
    if given:
        return size
    with torch.no_grad(), still(head):
        values = head(bank.batch(torch.zeros(1, dtype=torch.int64), task.reads == "dense")[0]).numel()
    return max(2, min(size, OUTPUTS // values))


def _gradient(head: nn.Module, task: Task, bank: Bank, at: Tensor, batch: int) -> float:
    """The norm of the mean training loss's gradient over these images, in eval mode."""
    copied = copy.deepcopy(head).eval().requires_grad_(True)
    weights = list(copied.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    for part in at.split(batch):
        features, target = bank.batch(part, task.reads == "dense")
        loss = task.loss(copied(features), target[task.target]).sum() / len(at)
        for one, slope in zip(total, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            one += 0 if slope is None else slope
    return math.sqrt(sum(float(one.square().sum()) for one in total))


def _poly(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda weights, **more: torch.optim.SGD(weights, momentum=0.9, **more),
}
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]] = {
    "cosine": lambda optimizer, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps),
    "constant": lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0),
    "poly": _poly,
}
