"""L0: a limited number of pixels may change, each by any amount; a pixel counts once, however many channels change.

Or a limited number of values, where each channel of a pixel counts by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_count, no_hyperplane
from hardsight.attacks.threats.places import chosen, gain, stride
from hardsight.core import seeds
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class L0:
    eps: float
    norm: ClassVar[str] = "L0"
    hyperplanes: ClassVar[bool] = False
    sparse: ClassVar[bool] = True

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The closest point: the pixels that gain most take the values of x_adv, clipped to the pixel range.

        Source: Croce and Hein, ICCV 2019, section 3.
        """
        return self._put(x_adv.clamp(0, 1), x, self.together(gain(x_adv, x)).flatten(1))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """eps random pixels with random values."""
        return self._put(seeds.uniform(x.shape, rng, x), x, self._random_rank(x, rng))

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """eps random pixels, each at a random corner of the pixel range."""
        return self._put((seeds.uniform(x.shape, rng, x) >= 0.5).to(x.dtype), x, self._random_rank(x, rng))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        many = grad[0].numel() // self.together(grad[:1]).numel()
        return stride(grad, self._most(grad).mean(1) / many, self.eps)

    def size(self, delta: Tensor) -> Tensor:
        return (self.together(delta.abs(), torch.amax) != 0).flatten(1).sum(1).to(delta.dtype)

    def dual(self, grad: Tensor) -> Tensor:
        """For steps that move a value by at most 1: the sum over the eps strongest pixels, divided by eps."""
        return self._most(grad).mean(1)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise no_hyperplane(self.norm)

    def together(self, values: Tensor, over: Callable[..., Tensor] = torch.sum) -> Tensor:
        """What counts once, one value each, in the shape of the images: their channels' sum, or another reduction `over`."""
        return over(values, dim=1, keepdim=True)

    def _put(self, new: Tensor, x: Tensor, rank: Tensor) -> Tensor:
        """x with the eps places that rank highest [B, N] taken from `new`."""
        kept = chosen(rank, int(self.eps)).view(self.together(x).shape)
        return torch.where(kept, new, x)

    def _random_rank(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        return seeds.uniform((len(x), self.together(x[:1]).numel()), rng, x)

    def _most(self, grad: Tensor) -> Tensor:
        """[B, eps]: the largest sums of a place's absolute gradients."""
        strength = self.together(grad.abs()).flatten(1)
        return strength.topk(min(max(int(self.eps), 1), strength.shape[1]), dim=1).values


@dataclass(frozen=True)
class L0Values(L0):
    norm: ClassVar[str] = "L0 of values"

    def together(self, values: Tensor, over: Callable[..., Tensor] = torch.sum) -> Tensor:
        return values


@register
def l0(eps: int) -> Threat:
    """At most eps pixels change, all channels of each, to any value in [0, 1]: l0(10). In a clip, pixels of all frames.

    A step of length eps moves the strongest pixels by three times the pixel range (`places.REACH`).

    Source: Croce and Hein, "Sparse and imperceivable adversarial attacks", ICCV 2019 (PGD_0). differs: their step is 117
    times the gradient over its absolute sum, for any number of pixels, and their start is dense before its projection.
    """
    return L0(check_count(eps, "l0", "pixels"))


@register
def l0_values(eps: int) -> Threat:
    """At most eps values change, each channel of a pixel by itself, to any value in [0, 1]: l0_values(30).

    What sigma-zero and other searches for minimal perturbations count as their L0 norm; three values are at least one pixel.
    """
    return L0Values(check_count(eps, "l0_values", "values"))
