"""Several threats at once: what any of them allows is allowed. Robust to the union means robust to each.

An attack runs its search in each of `parts` and keeps the worst result per image (`compose.in_each`), which is how such
numbers are defined. The methods here check the result. A search can run in the union itself too, but may never leave the
part where it began: the set is not convex, and the closest allowed point is in that part again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.specs.syntax import eps_of

ROUNDING = 1e-7
"""Rounding error of a perturbation (x + delta) - x in float32; compared with a tiny eps it is no longer small."""


@dataclass(frozen=True)
class Union:
    """Sizes are relative: 1 is what at least one of the parts just allows, so eps is 1."""

    parts: tuple[Threat, ...]

    @property
    def eps(self) -> float:
        return 1.0

    @property
    def norm(self) -> str:
        """The radii are part of the name, since eps does not contain them."""
        return " or ".join(f"{part.norm} {_text(part.eps)}" for part in self.parts)

    @property
    def sparse(self) -> bool:
        return any(getattr(part, "sparse", False) for part in self.parts)

    @property
    def spatial(self) -> bool:
        return any(getattr(part, "spatial", False) for part in self.parts)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The closest, in L2, of the parts' projections."""
        found = self._each(lambda part: part.project(x_adv, x))
        return _take(found, (found - x_adv).flatten(2).norm(dim=2).argmin(0))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Inside a random part."""
        found = self._each(lambda part: part.inside(x, rng))
        return _take(found, seeds.uniform(found.shape[:2], rng, x).argmax(0))

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """On the surface of a random part, if possible of one whose point is not inside any other part."""
        found = self._each(lambda part: part.surface(x, rng))
        outermost = torch.stack([self.size(there - x) for there in found]) > 1 - 1e-3
        return _take(found, (outermost + seeds.uniform(found.shape[:2], rng, x)).argmax(0))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The whole step of the part whose step raises a linear loss most.

        Source: Maini, Wong and Kolter, ICML 2020, algorithm 1 (MSD), to first order. differs: theirs projects each part's
        step and evaluates the loss at all of them, which needs an objective.
        """
        found = self._each(lambda part: part.eps * part.steepest(grad, x))
        most = self._each(lambda part: part.eps * part.dual(grad))
        return _take(found, torch.minimum((found * grad).flatten(2).sum(2), most).argmax(0))

    def size(self, delta: Tensor) -> Tensor:
        """[B]: the smallest size / eps over the parts; 0 for no change, with any eps."""
        return self._each(lambda part: _relative(part.size(delta), part.eps)).amin(0)

    def dual(self, grad: Tensor) -> Tensor:
        return self._each(lambda part: part.eps * part.dual(grad)).amax(0)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The step of the part in which it is smallest, relative to eps."""
        found = self._each(lambda part: part.to_hyperplane(x, w, b))
        sizes = [_relative(part.size(step), part.eps) for part, step in zip(self.parts, found, strict=True)]
        return _take(found, torch.stack(sizes).argmin(0))

    def _each(self, verb: Callable[[Threat], Tensor]) -> Tensor:
        return torch.stack([verb(part) for part in self.parts])


def _take(found: Tensor, which: Tensor) -> Tensor:
    """[K, B, ...] -> [B, ...]: for each image, the entry `which`."""
    return found[which, torch.arange(found.shape[1], device=found.device)]


def _relative(size: Tensor, eps: float) -> Tensor:
    return (size - ROUNDING).clamp_min(0) / max(eps, 1e-12)


def _text(eps: float) -> str:
    ratio = eps_of(float(eps))
    return repr(ratio) if "/" in repr(ratio) else f"{eps:g}"


@register
def union(threats: tuple[Threat, ...]) -> Threat:
    """What any of several threats allows, the worst case per image: union([linf(8/255), l2(0.5), l1(12)]).

    Source: Tramer and Boneh, NeurIPS 2019, section 2 ("max" over perturbation types).
    """
    parts = tuple(inner for threat in threats for inner in (threat.parts if isinstance(threat, Union) else (threat,)))
    if not parts:
        raise SpecError("union needs at least one threat: union([linf(8/255), l2(0.5)])")
    return Union(parts)  # type: ignore[return-value]
