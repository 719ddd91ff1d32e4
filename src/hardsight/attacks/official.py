"""An attack as paper 002's released code runs and evaluates it, for a task with `official=...` (specs/quirks).

`as_run` returns what actually happens: the attack, the system that it sees, and the system that its images are evaluated on.
For every other task these are the attack and the system, unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Single, on
from hardsight.attacks.search.base import Search, counted
from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.losses import released
from hardsight.losses.base import Loss
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import build
from hardsight.specs.syntax import override, read
from hardsight.tasks.base import System
from hardsight.tasks.official import Official


class Run(NamedTuple):
    """under: the system under attack. judge: the system that the found images are evaluated on."""

    attack: Attack
    under: System
    judge: System


def as_run(attack: Attack, system: System) -> Run:
    """What the released code runs if the task has quirks; else the attack and, twice, the system."""
    task = system.task
    if not isinstance(task, Official):
        return Run(attack, system, system)
    part = on(attack, task.target)
    if not isinstance(part, Single) or not part.search.gradients:  # clean images, and attacks that are not the paper's
        return Run(attack, system, system)
    bare = part.where == "output" and bool(task.bugs & {"A5", "B1"})
    judge = replace(task, role="judged", bare=(system.encoder.mean, system.encoder.std) if bare else None)
    if "B3" in task.bugs:
        judge = replace(judge, task=replace(task.task, high=None, crop=None), unmasked=True)  # type: ignore[type-var]
    under = replace(task, role="attacked")
    return Run(_attack(part, task), replace(system, task=under), replace(system, task=judge))


def mirrored(task: Any, x: Tensor, y: Any, ids: list[str], attack: Attack) -> tuple[Tensor, Any]:
    """Images and depth maps as the released evaluation draws them, anew for each attack: half of them mirrored (quirk F5)."""
    if "F5" not in getattr(task, "bugs", ()):
        return x, y
    flips = [bool(seeds.seed_of("mirrored", name, str(getattr(attack, "spec", ""))) & 1) for name in ids]
    at = torch.tensor(flips, device=x.device)
    return torch.where(at[:, None, None, None], x.flip(-1), x), torch.where(at[:, None, None], y.flip(-1), y)


def _attack(part: Single, task: Official) -> Attack:
    search, loss, bugs = part.search, part.loss, task.bugs
    spec = getattr(search, "spec", None)
    if "A6" in bugs and spec is not None and spec.name == "pgd":
        for name, value in (("keep", "last"), ("early_exit", False), ("patience", 0)):
            spec = override(spec, name, value)
        search = build(spec, "Search")
    if "E3" in bugs and (part.where != "output" or task.target == "label"):
        search = _unclamped(search)
    own = getattr(getattr(part, "spec", None), "name", None) == read(task.attack).name
    return replace(part, search=search, loss=_loss(task) or loss) if own else replace(part, search=search)


def _loss(task: Official) -> Loss | None:
    """The released loss of the task's own attack; None: the loss that it has here."""
    if task.target == "label":
        return released.downstream if "E2" in task.bugs else None
    if task.target == "mask":
        return released.segpgd(task.bugs) if task.bugs & {"A1", "A2", "A7"} else None
    return released.depthpgd(task.bugs) if task.bugs & {"B2", "B5", "C"} else None


def _unclamped(search: Search) -> Search:
    """The search with a random start that may leave [0, 1], up to its first step (quirk E3)."""

    def run(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        return search(objective, x, _Loose(threat) if threat.norm == "Linf" else threat, rng, start)  # type: ignore[arg-type]

    return counted(run, search.passes, search, gradients=search.gradients)


class _Loose:
    """A threat whose random points are not clamped to [0, 1]."""

    def __init__(self, threat: Threat) -> None:
        self.threat = threat

    def __getattr__(self, name: str) -> Any:
        return getattr(self.threat, name)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return x + (2 * seeds.uniform(x.shape, rng, x) - 1) * self.threat.eps
