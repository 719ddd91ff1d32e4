"""L2: the Euclidean norm of the whole perturbation is at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_eps, few_at_a_time, per_image, unit
from hardsight.attacks.threats.hyperplanes import step_l2
from hardsight.core import seeds
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class L2:
    eps: float
    norm: ClassVar[str] = "L2"

    @few_at_a_time
    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Scaled back onto the ball, then clipped to the pixel range, as is usual for PGD-L2.

        differs: where it clips, this is not the closest point of ball and pixel range together; it is allowed all the same,
        since clipping only shortens a perturbation of an image that is in the pixel range.
        """
        delta = x_adv - x
        length = delta.flatten(1).norm(dim=1)
        factor = (self.eps / length.clamp_min(1e-12)).clamp_max(1)
        return (x + delta * per_image(factor, delta)).clamp(0, 1)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        radius = seeds.uniform((len(x),), rng, x) ** (1 / x[0].numel())
        return (x + unit(seeds.normal(x.shape, rng, x), 2) * per_image(radius * self.eps, x)).clamp(0, 1)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return (x + unit(seeds.normal(x.shape, rng, x), 2) * self.eps).clamp(0, 1)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        return unit(grad, 2)

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def dual(self, grad: Tensor) -> Tensor:
        return grad.flatten(1).norm(dim=1)

    @few_at_a_time
    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return step_l2(x, w, b)


@register
def l2(eps: float) -> Threat:
    """The Euclidean norm of the whole perturbation is at most eps, pixels in [0, 1]: l2(0.5)."""
    return L2(check_eps(eps))
