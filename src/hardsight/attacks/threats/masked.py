"""Any threat in a part of the image: the region is cut out, the threat applies to it, and the rest does not change.

Cutting it out, instead of setting the rest to zero afterwards, keeps every method exact: a start on the surface has its full
length within the region, and a threat that uses the mean of the pixels uses the mean of the region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.threats.base import NOTHING, Threat
from hardsight.attacks.threats.union import Union
from hardsight.core.errors import ShapeError, SpecError
from hardsight.specs.catalog import register


@dataclass(frozen=True, eq=False)
class Masked:
    """box: (top, left, bottom, right), shares of height and width; outside: its complement; mask: bool [H, W] instead."""

    threat: Threat
    box: tuple[float, float, float, float] | None = None
    outside: bool = False
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if getattr(self.threat, "spatial", False) and (self.outside or self.box is None):
            raise SpecError(f"{self.threat.norm} needs a region with rows and columns: a box, not its inverse")

    @property
    def spatial(self) -> bool:
        return True

    @property
    def sparse(self) -> bool:
        return getattr(self.threat, "sparse", False)

    @property
    def eps(self) -> float:
        return self.threat.eps

    @property
    def norm(self) -> str:
        if self.mask is not None:
            return f"{self.threat.norm} in a mask of {int(self.mask.sum())} pixels"
        box = ", ".join(f"{share:g}" for share in self.box or ())
        return f"{self.threat.norm} {'outside' if self.outside else 'in'} ({box})"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return self._paste(self.threat.project(self._cut(x_adv), self._cut(x)), x)

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._paste(self.threat.inside(self._cut(x), rng), x)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._paste(self.threat.surface(self._cut(x), rng), x)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        step = self.threat.steepest(self._cut(grad), None if x is None else self._cut(x))
        return self._paste(step, torch.zeros_like(grad))

    def largest(self, grad: Tensor, share: Tensor) -> Tensor:
        """The L1 step on a share [B] of the region's values, shaped like grad."""
        return self._paste(self.threat.largest(self._cut(grad), share), torch.zeros_like(grad))  # type: ignore[attr-defined]

    def values(self, x: Tensor) -> int:
        """Number of values of an image that are in the region and may move."""
        return self.threat.values(self._cut(x))  # type: ignore[attr-defined]

    def size(self, delta: Tensor) -> Tensor:
        within = self._cut(delta)
        leak = self._paste(torch.zeros_like(within), delta).flatten(1).abs().amax(1)
        return torch.where(leak > NOTHING, torch.inf, self.threat.size(within))

    def dual(self, grad: Tensor) -> Tensor:
        return self.threat.dual(self._cut(grad))

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        here, slope = self._cut(x), self._cut(w)
        fixed = (w * x).flatten(1).sum(1) - (slope * here).flatten(1).sum(1)
        return self._paste(self.threat.to_hyperplane(here, slope, b - fixed), torch.zeros_like(x))

    def _cut(self, x: Tensor) -> Tensor:
        """The region only: [B, 3, ..., h, w] of a box, and [B, 3, ..., N, 1] of any other region of N pixels."""
        places, shape = self._places(x)
        return x.flatten(-2)[..., places].unflatten(-1, shape)

    def _paste(self, part: Tensor, x: Tensor) -> Tensor:
        """x with its region replaced."""
        places, _ = self._places(x)
        whole = x.flatten(-2).clone()
        whole[..., places] = part.flatten(-2).to(whole.dtype)
        return whole.view_as(x)

    def _places(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Indices of the region's pixels among all H W of them, and the height and width of the part that is cut out."""
        height, width = x.shape[-2:]
        if self.mask is not None:
            if self.mask.shape != x.shape[-2:]:
                raise ShapeError(f"the mask is {list(self.mask.shape)}, but the images are [{height}, {width}]")
            region, shape = self.mask.cpu(), None
        else:
            top, left, bottom, right = self.box or (0.0, 0.0, 1.0, 1.0)
            rows = slice(_edge(top, height), _edge(bottom, height))
            columns = slice(_edge(left, width), _edge(right, width))
            region = torch.zeros(height, width, dtype=torch.bool)
            region[rows, columns] = True
            shape = None if self.outside else (rows.stop - rows.start, columns.stop - columns.start)
            region = region ^ self.outside
        places = region.flatten().nonzero().flatten()
        if not len(places):
            raise SpecError(f"{self.norm}: no pixel of images [{height}, {width}] is in the region")
        return places.to(x.device, non_blocking=True), shape or (len(places), 1)


def _edge(share: float, length: int) -> int:
    return math.floor(share * length + 0.5)


def _each(threat: Threat, **region: Any) -> Threat:
    """The threat in the region; of a union, the union of its parts there, so that an attack still finds the parts."""
    if isinstance(threat, Union):
        return Union(tuple(_each(part, **region) for part in threat.parts))  # type: ignore[return-value]
    return Masked(threat, **region)  # type: ignore[return-value]


@register
def masked(threat: Threat, region: tuple[float, float, float, float], inverse: bool = False) -> Threat:
    """Any threat in a box of the image, the rest unchanged: masked(linf(8/255), (0, 0, 0.5, 1)) is in the upper half.

    region: top, left, bottom, right, as shares of height and width. inverse: outside the box instead.
    """
    top, left, bottom, right = region
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise SpecError(
            f"masked: region is {list(region)}; it must be top, left, bottom, right as shares, such as [0, 0, 0.5, 1]"
        )
    return _each(threat, box=(top, left, bottom, right), outside=inverse)


def masked_by(threat: Threat, mask: Tensor) -> Threat:
    """Any threat where `mask` [H, W] is True, the same for all images of a data set; Python only, a mask has no text form.

    One mask per image is not possible: a threat has no state, and does not know which images a search is still processing.
    """
    if mask.dim() != 2 or not mask.any():
        raise ShapeError(f"a region's mask must be [H, W] with at least one True pixel; this one is {list(mask.shape)}")
    return _each(threat, mask=mask.bool())
