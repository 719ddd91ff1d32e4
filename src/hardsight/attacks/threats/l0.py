"""L0: so many pixels may change, each as far as it likes; a pixel counts once, however many of its channels change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat, check_count, planeless
from hardsight.attacks.threats.places import chosen, gain, stride
from hardsight.core import seeds
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class L0:
    eps: float
    norm: ClassVar[str] = "L0"
    planes: ClassVar[bool] = False
    sparse: ClassVar[bool] = True

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point: the pixels that gain most go where x_adv has them, as far as the pixel box lets them.

        Source: Croce and Hein, ICCV 2019, section 3.
        """
        return self._put(x_adv.clamp(0, 1), x, gain(x_adv, x).flatten(2).sum(1))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Random pixels, eps of them, of random values."""
        return self._put(seeds.uniform(x.shape, rng, x), x, self._lots(x, rng))

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Random pixels, eps of them, each at a random corner of the pixel box."""
        return self._put((seeds.uniform(x.shape, rng, x) >= 0.5).to(x.dtype), x, self._lots(x, rng))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        return stride(grad, self._most(grad).mean(1) / grad.shape[1], self.eps)

    def size(self, delta: Tensor) -> Tensor:
        return (delta != 0).flatten(2).any(1).sum(1).to(delta.dtype)

    def dual(self, grad: Tensor) -> Tensor:
        """Of steps that move a value by at most 1: the sum over the eps strongest pixels, divided by eps."""
        return self._most(grad).mean(1)

    def to_plane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise planeless("l0")

    def _put(self, new: Tensor, x: Tensor, rank: Tensor) -> Tensor:
        """x with the eps pixels that rank highest [B, N] taken from `new`."""
        kept = chosen(rank, int(self.eps)).view(len(x), 1, *x.shape[2:])
        return torch.where(kept, new, x)

    def _lots(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        return seeds.uniform((len(x), x[0, 0].numel()), rng, x)

    def _most(self, grad: Tensor) -> Tensor:
        """[B, eps]: the greatest sums of a pixel's absolute gradients."""
        strength = grad.abs().flatten(2).sum(1)
        return strength.topk(min(max(int(self.eps), 1), strength.shape[1]), dim=1).values


@register
def l0(eps: int) -> Threat:
    """At most eps pixels change, all channels of each, to anything in [0, 1]: l0(10). Of a clip, pixels of all frames.

    A step of length eps takes the strongest pixels three times across the pixel range (`places.REACH`).

    Source: Croce and Hein, "Sparse and imperceivable adversarial attacks", ICCV 2019 (PGD_0). differs: their step is 117
    times the gradient over its absolute sum, whatever the count of pixels, and their start is dense before its projection.
    """
    return L0(check_count(eps, "l0", "pixels"))
