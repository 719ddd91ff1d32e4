"""RMS: the root mean square change of a value is at most eps: an L2 norm with the same meaning at every image size.

At 1 every image is allowed, since pixels are in [0, 1]: the threat of what is measured but not bounded, such as corruptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_eps
from hardsight.attacks.threats.l2 import L2
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class Rms:
    eps: float

    @property
    def norm(self) -> str:
        return "RMS" if self.eps < 1 else "Any size"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return self._ball(x).project(x_adv, x)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._ball(x).inside(x, rng)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._ball(x).surface(x, rng)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        return _root(grad) * self._ball(grad).steepest(grad, x)

    def size(self, delta: Tensor) -> Tensor:
        return self._ball(delta).size(delta) / _root(delta)

    def dual(self, grad: Tensor) -> Tensor:
        return _root(grad) * self._ball(grad).dual(grad)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return self._ball(x).to_hyperplane(x, w, b)

    def _ball(self, x: Tensor) -> L2:
        return L2(self.eps * _root(x))


def _root(x: Tensor) -> float:
    """The L2 norm of an image of x's shape whose values are all 1."""
    return math.sqrt(math.prod(x.shape[1:]))


@register
def rms(eps: float = 1.0) -> Threat:
    """The root mean square change of a value is at most eps; at 1, every image is allowed: rms(0.05)."""
    return Rms(check_eps(eps, most=1))  # type: ignore[return-value]
