"""What a threat is: the set of images an attacker may use in place of x, as a geometry for searches.

No search depends on a norm. Everything is per image and includes the pixel range [0, 1]; eps is at the image's own
resolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.specs.syntax import eps_of

NOTHING = 1e-5
"""A change below this, 1/400 of a grey level, is no change: rounding in a search leaves it where nothing should change."""


FEW = 65_536
"""Number of pixels that fit into a core's cache, with their intermediate results: 64 images of side 32, one of side 224."""


def few_at_a_time(verb: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A threat's method, (self, tensors [B, ...] each) -> [B, ...], applied on a CPU to a few images at a time.

    The temporaries of a large batch would pass through memory again and again: this is faster, and needs less memory. If one
    image is combined with many (as for a universal perturbation), the batch stays whole.
    """

    @functools.wraps(verb)
    def wrapped(self: Any, *tensors: Tensor) -> Tensor:
        x = tensors[0]
        count = max(1, FEW * len(x) // max(1, x[:, :1].numel()))
        if x.device.type != "cpu" or len(x) <= count or any(len(one) != len(x) for one in tensors):
            return verb(self, *tensors)
        found: Tensor | None = None
        for place, part in enumerate(zip(*(one.split(count) for one in tensors), strict=True)):
            some = verb(self, *part)
            found = some.new_empty((len(x), *some.shape[1:])) if found is None else found
            found[place * count : place * count + len(some)] = some
        assert found is not None
        return found

    return wrapped


class Threat(Protocol):
    """A set of allowed images around x, images [B, 3, H, W] or clips [B, 3, T, H, W]; tables name it by norm and eps.

    Some threats have more attributes. sparse: only a limited number of places may change (`places`). spatial: depends on the
    position of a pixel in the image. parts: the threats of a union, which are attacked one by one. hyperplanes: False if it
    has no `to_hyperplane`. threat: the inner threat of one that restricts another. An L1 threat has `largest` and `values`,
    used by APGD.
    """

    norm: ClassVar[str]

    @property
    def eps(self) -> float: ...

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """An allowed point near x_adv: x_adv itself if it is allowed."""
        ...

    def inside(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """A random allowed point."""
        ...

    def surface(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """A random allowed point at distance eps (closer where the pixel range clips it)."""
        ...

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The step of size 1 that raises a linear loss most; 0 where grad is 0.

        x: where the step starts; a threat whose steps the pixel range can cancel completely (L1) leaves out values that
        cannot move. A sparse threat steps everywhere and lets `project` choose the places, so that size 1 has no meaning
        there.
        """
        ...

    def size(self, delta: Tensor) -> Tensor:
        """The smallest eps that would allow each perturbation, [B]: its norm; infinite if none would."""
        ...

    def dual(self, grad: Tensor) -> Tensor:
        """The dual norm of each gradient, [B]: the largest increase of a linear loss by a step of size 1."""
        ...

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The smallest step from x to the hyperplane {z: w.z = b} in the pixel range; to the closest corner if out of reach.

        w like x, b [B]. It does not depend on eps.
        """
        ...


def check_eps(eps: float, most: float | None = None) -> float:
    """eps unchanged; raises `SpecError` if it is negative, not a number, or larger than any possible change of an image."""
    if not eps >= 0:
        raise SpecError(f"eps is {eps:g}, but it must be at least 0; write it as '8/255'")
    if most is not None and eps > most:
        raise SpecError(f"eps is {eps:g}, but pixels are in [0, 1]; did you mean '{eps_of(eps / 255)!r}'?")
    return eps


def check_count(eps: float, name: str, what: str) -> int:
    """eps as a whole number; raises `SpecError` if it is not one. what: what it counts."""
    if isinstance(eps, bool) or eps < 0 or eps != int(eps):
        raise SpecError(f"{name}: eps is {eps!r}, but it counts {what}; write a whole number, such as {name}(10)")
    return int(eps)


def within(threat: Any) -> Any:
    """The threat itself, or the innermost threat of one that restricts another (to a region, frame by frame)."""
    inner = getattr(threat, "threat", None)
    return threat if inner is None else within(inner)


def scaled(threat: Any, radius: float) -> Any:
    """The same threat with `radius` times its eps; of one that is made of others, each of those."""
    if (parts := getattr(threat, "parts", None)) is not None:
        return replace(threat, parts=tuple(scaled(part, radius) for part in parts))
    if (inner := getattr(threat, "threat", None)) is not None:
        return replace(threat, threat=scaled(inner, radius))
    return replace(threat, eps=radius * threat.eps)


def no_hyperplane(name: str) -> SpecError:
    """The error of a threat that has no smallest step to a hyperplane."""
    return SpecError(f"{name} has no smallest step to a hyperplane, which FAB needs; use pgd or apgd, or linf, l2 or l1")


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] reshaped so that it multiplies images [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def unit(tensor: Tensor, order: float) -> Tensor:
    """Each image divided by its norm; zero images stay zero."""
    norms = tensor.flatten(1).norm(p=order, dim=1)
    return tensor / per_image(norms.clamp_min(torch.finfo(tensor.dtype).tiny), tensor)
