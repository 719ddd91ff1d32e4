"""What a check is: one question about an attacked system, asked on a few images, and answered with a verdict and a reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack
from hardsight.attacks.threats.base import Threat, scaled
from hardsight.core import seeds, tree
from hardsight.losses.objective import still
from hardsight.tasks.base import System


class Finding(NamedTuple):
    """What a check found. verdict "none": the question has no answer here, and the reason says why."""

    verdict: Literal["pass", "warn", "fail", "none"]
    reason: str


class Ran(NamedTuple):
    """What an attack found: allowed images x_adv [B, 3, ...], and their errors [B], read anew."""

    x_adv: Tensor
    error: Tensor


class Check(Protocol):
    def __call__(self, case: Case) -> Finding: ...


@dataclass(frozen=True)
class Case:
    """An attacked system and a few images to ask about it.

    x [B, 3, ...] in [0, 1], y their targets. others: by name, what the same attack found for these images on other encoders.
    """

    system: System
    attack: Attack
    threat: Threat
    x: Tensor
    y: Any
    seed: int = 0
    others: dict[str, Tensor] = field(default_factory=dict)

    def part(self, count: int) -> Case:
        """The same case on its first `count` images."""
        index = torch.arange(min(count, len(self.x)), device=self.x.device)
        others = {name: points[: len(index)] for name, points in self.others.items()}
        return replace(self, x=self.x[index], y=tree.take(self.y, index), others=others)

    def rng(self, *parts: object) -> torch.Generator:
        return seeds.generator("audit", self.seed, *parts)

    def output(self, x: Tensor) -> Any:
        with torch.no_grad(), still(self.system.encoder, self.system.head):
            return self.system.output(x)

    def error(self, x: Tensor) -> Tensor:
        """[B]: how wrong the system is on these images."""
        return self.system.task.error(self.output(x), self.y)

    def run(self, attack: Attack | None = None, radius: float = 1.0) -> Ran:
        """An attack (the case's own) at `radius` times eps; its points projected, and its errors read anew."""
        threat = self.threat if radius == 1 else scaled(self.threat, radius)
        found = (attack or self.attack)(self.system, self.x, self.y, threat, self.rng("attack"))
        x_adv = threat.project(found.x_adv.to(self.x.dtype), self.x)
        return Ran(x_adv, self.error(x_adv))

    @cached_property
    def found(self) -> Ran:
        """What the case's attack finds at eps."""
        return self.run()

    @cached_property
    def clean(self) -> Tensor:
        """[B]: the errors on the clean images."""
        return self.error(self.x)

    @cached_property
    def whole(self) -> bool:
        """Whether errors are 0 or 1, as a classifier's are: then one image more is a step of 1 / B."""
        return self.system.task.target == "label"

    @property
    def slack(self) -> float:
        """By how much two mean errors may differ with nothing wrong: one image of a classifier's, or 0.02."""
        return 1.0 / len(self.x) + 1e-6 if self.whole else 0.02


def judged(value: float, warn: float, fail: float, reason: str) -> Finding:
    """Pass up to `warn`, warn up to `fail`, and fail above it."""
    return Finding("pass" if value <= warn else "warn" if value <= fail else "fail", reason)


def differ(one: Any, other: Any) -> float:
    """The greatest difference of two outputs, as a share of their greatest value; infinite where their shapes are unlike."""
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
