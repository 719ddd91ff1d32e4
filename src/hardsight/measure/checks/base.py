"""The interface of a check: it tests one property of an attacked system on a few images; result: verdict and reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack
from hardsight.attacks.official import Run, as_run
from hardsight.attacks.threats.base import Threat, scaled
from hardsight.core import seeds, tree
from hardsight.data.base import IGNORE
from hardsight.losses.objective import still
from hardsight.tasks.base import System, Task


class Finding(NamedTuple):
    """The result of a check. verdict "none": the check does not apply here; the reason says why."""

    verdict: Literal["pass", "warn", "fail", "none"]
    reason: str


class Ran(NamedTuple):
    """The result of an attack: projected images x_adv [B, 3, ...], and their errors [B], evaluated again."""

    x_adv: Tensor
    error: Tensor


class Check(Protocol):
    def __call__(self, case: Case) -> Finding: ...


@dataclass(frozen=True)
class Case:
    """An attacked system and a few images to check it on.

    x [B, 3, ...] in [0, 1], y their targets. others: by encoder name, x_adv of the same attack on other encoders. Images
    where nothing is labelled are left out, as no loss can depend on their pixels. kept: the places, among the images given,
    of those that remain. unlabelled: the number left out.
    """

    system: System
    attack: Attack
    threat: Threat
    x: Tensor
    y: Any
    seed: int = 0
    others: dict[str, Tensor] = field(default_factory=dict)
    unlabelled: int = 0
    kept: Tensor = field(init=False)

    def __post_init__(self) -> None:
        some = labelled(self.system.task, self.y)
        object.__setattr__(self, "kept", some.nonzero().flatten())
        if not bool(some.all()):
            others = {name: points[some] for name, points in self.others.items()}
            changed = {"x": self.x[some], "y": tree.take(self.y, some), "others": others}
            for name, value in {**changed, "unlabelled": self.unlabelled + int((~some).sum())}.items():
                object.__setattr__(self, name, value)

    def part(self, count: int) -> Case:
        """The same case on its first `count` images."""
        index = torch.arange(min(count, len(self.x)), device=self.x.device)
        others = {name: points[: len(index)] for name, points in self.others.items()}
        return replace(self, x=self.x[index], y=tree.take(self.y, index), others=others)

    def rng(self, *parts: object) -> torch.Generator:
        return seeds.generator("audit", self.seed, *parts)

    @cached_property
    def really(self) -> Run:
        """The attack and the system as they are run; others than `attack` and `system` only for a task with `official=...`."""
        return as_run(self.attack, self.system)

    def output(self, x: Tensor) -> Any:
        """What the attack sees of these images."""
        return _output(self.really.under, x)

    def error(self, x: Tensor, system: System | None = None) -> Tensor:
        """[B]: the task error of the system on these images."""
        system = system or self.system
        return system.task.error(_output(system, x), self.y)

    def run(self, attack: Attack | None = None, radius: float = 1.0) -> Ran:
        """Runs an attack (default: the case's own) at `radius` times eps; x_adv is projected and evaluated again."""
        threat = self.threat if radius == 1 else scaled(self.threat, radius)
        run = as_run(attack or self.attack, self.system)
        found = run.attack(run.under, self.x, self.y, threat, self.rng("attack"))
        x_adv = threat.project(found.x_adv.to(self.x.dtype), self.x)
        return Ran(x_adv, self.error(x_adv, run.judge))

    @cached_property
    def found(self) -> Ran:
        """The result of the case's attack at eps."""
        return self.run()

    @cached_property
    def clean(self) -> Tensor:
        """[B]: the task errors on the clean images."""
        return self.error(self.x)

    @cached_property
    def whole(self) -> bool:
        """Whether errors are 0 or 1, as in classification: then one image changes the mean error by 1 / B."""
        return self.system.task.target == "label"

    @property
    def slack(self) -> float:
        """The tolerated difference of two mean errors: one image in classification, else 0.02."""
        return 1.0 / len(self.x) + 1e-6 if self.whole else 0.02


def _output(system: System, x: Tensor) -> Any:
    with torch.no_grad(), still(system.encoder, system.head):
        return system.output(x)


def labelled(task: Task, y: Any) -> Tensor:
    """[B]: whether anything of an image is labelled: a pixel of its mask or depth map that counts, or a box; else True."""
    if task.target == "boxes":
        return torch.tensor([len(one["labels"]) > 0 for one in y])
    if task.target not in ("mask", "depth"):
        return torch.ones(len(y), dtype=torch.bool, device=y.device)
    y = getattr(task, "measured", lambda target: target)(y)
    return (y > 0 if task.target == "depth" else y != IGNORE).flatten(1).any(1)


def by_threshold(value: float, warn: float, fail: float, reason: str) -> Finding:
    """Pass up to `warn`, warn up to `fail`, fail above it."""
    return Finding("pass" if value <= warn else "warn" if value <= fail else "fail", reason)


def differ(one: Any, other: Any) -> float:
    """The maximal difference of two outputs, relative to the first one's largest value; infinite if their shapes differ."""
    ones, others = tensors(one), tensors(other)
    if [t.shape for t in ones] != [t.shape for t in others]:
        return float("inf")
    worst = 0.0
    for a, b in zip(ones, others, strict=True):
        if a.numel():
            gap = (a.float() - b.float()).abs().max() / a.float().abs().max().clamp_min(1e-12)
            worst = max(worst, float(torch.nan_to_num(gap, nan=float("inf"))))
    return worst


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of an output."""
    found: list[Tensor] = []
    tree.each(output, lambda tensor: found.append(tensor) or tensor)
    return found
