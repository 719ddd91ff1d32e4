"""Linf: no value of any pixel changes by more than eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_eps, few_at_a_time, unit
from hardsight.attacks.threats.hyperplanes import step_linf
from hardsight.core import seeds
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class Linf:
    eps: float
    norm: ClassVar[str] = "Linf"

    @few_at_a_time
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return (x_adv - x).clamp_(-self.eps, self.eps).add_(x).clamp_(0, 1)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return (x + (2 * seeds.uniform(x.shape, rng, x) - 1) * self.eps).clamp(0, 1)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """A uniform sample scaled until its largest value is eps: the start of AutoAttack, number for number."""
        draw = 2 * seeds.uniform(x.shape, rng, x) - 1
        return (x + self.eps * unit(draw, torch.inf)).clamp(0, 1)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        return grad.sign()

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def dual(self, grad: Tensor) -> Tensor:
        return grad.flatten(1).abs().sum(1)

    @few_at_a_time
    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return step_linf(x, w, b)


@register
def linf(eps: float) -> Threat:
    """No value of any pixel changes by more than eps, in [0, 1]: linf(8/255)."""
    return Linf(check_eps(eps, most=1))
