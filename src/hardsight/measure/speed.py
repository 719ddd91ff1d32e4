"""The cost of an attack on this machine, relative to a floor: its bare forward and input-gradient passes.

The floor is eager float32 on the same batch, with unmodified weights, the attack's number of gradient steps, and nothing
else. All variants run in turn, round after round, in one process: on a shared machine only ratios within a run are
meaningful.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Cascade, Single, on, searches
from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.measure.evaluate import Precision, evaluate
from hardsight.metrics import counts_in, of
from hardsight.specs.catalog import build
from hardsight.specs.syntax import override
from hardsight.tasks.base import System


@dataclass(frozen=True)
class Pace:
    """One variant: median seconds and their ratio to the floor (with minimum and maximum), peak memory and its ratio,
    the task's headline figure, forward passes per image.
    """

    name: str
    seconds: float
    ratio: float
    spread: tuple[float, float]
    megabytes: float
    memory_ratio: float
    score: float | None = None
    queries: float | None = None


def speed(
    system: System,
    attack: Attack,
    threat: Threat,
    x: Tensor,
    y: Any,
    rounds: int = 3,
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Pace]:
    """Times the floor, the attack alone without early exit, and whole evaluations in float32 and bf16.

    An evaluation includes the final float32 forward pass; with early exit, misclassified images leave the batch.

    x [B, 3, H, W] in [0, 1], y its targets. ratio: the median over rounds of seconds divided by the same round's floor;
    spread: its minimum and maximum. clock: `time.process_time` counts only this process's seconds, for a busy machine.
    Memory is the allocator's peak above what was allocated before, measured in an extra round. Raises `SpecError` for an
    attack without gradient steps.
    """
    attack = on(attack, system.task.target)
    steps = gradient_steps(attack, system.task.target)
    if steps < 1 or rounds < 1:
        raise SpecError("speed needs an attack that takes gradients, to compare it with its floor, and at least 1 round")
    runs: dict[str, Callable[[], Any]] = {"floor": lambda: _floor(system, attack, x, y, steps)}

    def evaluation(attack: Attack, precision: Precision) -> Callable[[], Any]:
        return lambda: evaluate(system, attack, threat, x, y, ["?"] * len(x), seeds.generator("speed", seed), precision)[0]

    def alone() -> None:
        whole(system, x, y, threat, seeds.generator("speed", seed))

    whole = staying(attack)
    runs["attack alone, float32, every image stays"] = alone
    if whole is not attack:
        runs["float32, every image stays"] = evaluation(whole, "float32")
    runs["float32"] = evaluation(attack, "float32")
    if whole is not attack:
        runs["bf16, every image stays"] = evaluation(whole, "bf16")
    runs["bf16"] = evaluation(attack, "bf16")

    memory, rows = {}, {}
    total = (rounds + 1) * len(runs)
    for place, (name, run) in enumerate(runs.items()):
        memory[name], rows[name] = peak(run, x.device)
        if tick:
            tick(place + 1, total)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for place, (name, run) in enumerate(runs.items()):
            started = clock()
            run()
            _wait(x.device)
            seconds[name].append(clock() - started)
            if tick:
                tick((turn + 1) * len(runs) + place + 1, total)
    return [_pace(name, seconds, memory, rows[name], system) for name in runs]


def gradient_steps(attack: Attack, target: str) -> int:
    """The maximal number of gradient steps per image of an attack on that target."""
    return sum(search.gradients * times for search, times in searches(attack, target))


def staying(attack: Attack) -> Attack:
    """The attack with early exit and patience switched off; the same object if it has neither."""
    if isinstance(attack, Cascade):
        members = tuple(staying(member) for member in attack.members)
        changed = any(one is not other for one, other in zip(members, attack.members, strict=True))
        return replace(attack, members=members) if changed else attack
    spec = getattr(getattr(attack, "search", None), "spec", None)
    if not isinstance(attack, Single) or spec is None:
        return attack
    for name, off in (("early_exit", False), ("patience", 0)):
        if spec.get(name):
            attack, spec = replace(attack, search=build(override(spec, name, off), "Search")), override(spec, name, off)
    return attack


def peak(run: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """(peak of bytes allocated during the run, beyond those allocated before; the run's return value)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before, found
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        found = run()
    held = greatest = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()  # type: ignore[attr-defined]
            greatest = max(greatest, held)
    return greatest, found


def _floor(system: System, attack: Attack, x: Tensor, y: Any, steps: int) -> None:
    """The bare passes: of the task's loss through encoder and head, or of the features if the attack needs only those."""
    features = attack.reading(system, y) if isinstance(attack, Single) and attack.where != "output" else None
    for _ in range(steps):
        here = x.detach().requires_grad_(True)
        loss = features(here).square() if features else system.task.loss(system.output(here), y)
        torch.autograd.grad(loss.sum(), here)


def _pace(
    name: str, seconds: dict[str, list[float]], memory: dict[str, int], rows: dict[str, Any] | None, system: System
) -> Pace:
    ratios = [mine / floor for mine, floor in zip(seconds[name], seconds["floor"], strict=True)]
    pace = Pace(
        name,
        statistics.median(seconds[name]),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        memory[name] / 1e6,
        memory[name] / max(1, memory["floor"]),
    )
    if rows is None:
        return pace
    metric = of(system.task.name)
    return replace(pace, score=metric.summary(counts_in(rows))[metric.headline], queries=float(rows["queries"].mean()))


def _wait(device: torch.device) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if device.type == "cuda":
            torch.cuda.synchronize()
