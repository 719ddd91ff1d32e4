"""What an attack costs on this machine, as a ratio to the floor: the bare forward and input-gradient passes it cannot do without.

The floor is eager float32, weights as they come, the same batch, the attack's own number of gradient steps, and nothing else.
All contestants run in turn, round after round, in one process: on a shared machine only ratios within a run mean something.
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
from hardsight.metrics import of
from hardsight.specs.catalog import build
from hardsight.specs.syntax import override
from hardsight.tasks.base import System


@dataclass(frozen=True)
class Pace:
    """One contestant: median seconds, ratio to the floor, peak memory and its ratio, the task's figure, readings an image."""

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
    """Times the floor, the attack alone with every image staying to its end, and evaluations with it, in float32 and in bf16.

    An evaluation reads the verdict anew, in float32; images that have fallen leave it where the attack has early exit.

    x [B, 3, H, W] in [0, 1], y its targets. ratio: the median over rounds of seconds over the same round's floor; spread its
    least and greatest. clock: `time.process_time` counts this process's own seconds, where others keep the machine busy. Memory is the allocator's peak above what was held before, measured in a round of its own.
    """
    attack = on(attack, system.task.target)
    steps = gradient_steps(attack, system.task.target)
    if steps < 1 or rounds < 1:
        raise SpecError("speed compares an attack that takes gradients with its floor; this one takes none, or rounds is 0")
    runs: dict[str, Callable[[], Any]] = {"floor": lambda: _floor(system, attack, x, y, steps)}

    def contestant(attack: Attack, precision: Precision) -> Callable[[], Any]:
        return lambda: evaluate(system, attack, threat, x, y, ["?"] * len(x), seeds.generator("speed", seed), precision)[0]

    def alone() -> None:
        whole(system, x, y, threat, seeds.generator("speed", seed))

    whole = staying(attack)
    runs["attack alone, float32, every image stays"] = alone
    if whole is not attack:
        runs["float32, every image stays"] = contestant(whole, "float32")
    runs["float32"] = contestant(attack, "float32")
    if whole is not attack:
        runs["bf16, every image stays"] = contestant(whole, "bf16")
    runs["bf16"] = contestant(attack, "bf16")

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
    """How many gradients an image needs at most, of an attack on that target."""
    return sum(search.gradients * times for search, times in searches(attack, target))


def staying(attack: Attack) -> Attack:
    """The attack with early exit and patience switched off, or itself where it has neither."""
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
    """(greatest number of bytes held beyond those held before, what the run returns)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before, found
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        found = run()
    held = greatest = 0
    for event in told.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()  # type: ignore[attr-defined]
            greatest = max(greatest, held)
    return greatest, found


def _floor(system: System, attack: Attack, x: Tensor, y: Any, steps: int) -> None:
    """The passes alone: of the task's own loss at its output, or of features where the attack reads no more than those."""
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
    counts = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith("counts.")}
    return replace(pace, score=metric.summary(counts)[metric.headline], queries=float(rows["queries"].mean()))


def _wait(device: torch.device) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if device.type == "cuda":
            torch.cuda.synchronize()
