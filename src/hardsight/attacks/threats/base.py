"""What a threat is: the set of images an attacker may show in place of x, as a geometry that searches can walk in.

No search knows a norm. Everything is per image and includes the pixel box [0, 1]; eps is at the image's own resolution.
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
"""A change too small to be one, 1/400 of a grey level: what the arithmetic of a search leaves where nothing should move."""


FEW = 65_536
"""Pixels that a core's cache takes, with what is worked out about them: 64 images of 32, or one of 224."""


def few_at_a_time(verb: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A threat's verb, (self, tensors [B, ...] each) -> [B, ...], of images by themselves: on a CPU a few of them at a time.

    A large batch's temporaries would go through memory again and again: this is faster, and holds less. One image that stands
    beside many (a universal perturbation's) leaves the batch whole.
    """

    @functools.wraps(verb)
    def told(self: Any, *tensors: Tensor) -> Tensor:
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

    return told


class Threat(Protocol):
    """A set of allowed images around x, images [B, 3, H, W] or clips [B, 3, T, H, W]; norm and eps name it in tables.

    Some have more. sparse: only so many places may change (`places`). spatial: it minds where in the image a pixel lies.
    parts: the threats that a union is made of, which are attacked one by one. planes: False where it knows no `to_plane`.
    threat: the one within, of a threat that confines another. An L1 one has `largest` and `values`, which APGD walks by.
    """

    norm: ClassVar[str]

    @property
    def eps(self) -> float: ...

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """An allowed point near x_adv: x_adv itself where that is allowed."""
        ...

    def inside(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """A random allowed point."""
        ...

    def surface(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """A random allowed point at distance eps (nearer where the pixel box cuts it off)."""
        ...

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """The step of size 1 that raises a linear loss most; 0 where grad is 0.

        x: where it starts; a threat whose steps the pixel box can swallow whole (L1) leaves out values that cannot move.
        A sparse threat steps everywhere and lets `project` choose the places, so that size 1 means nothing there.
        """
        ...

    def size(self, delta: Tensor) -> Tensor:
        """The least eps that would allow each perturbation, [B]: its norm; infinite where none would."""
        ...

    def dual(self, grad: Tensor) -> Tensor:
        """The dual norm of each gradient, [B]: how much a step of size 1 can raise a linear loss."""
        ...

    def to_plane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The least step from x to the plane {z: w.z = b} within the pixel box; to the nearest corner if that is out of reach.

        w like x, b [B]. eps has no part in it.
        """
        ...


def check_eps(eps: float, most: float | None = None) -> float:
    """eps as it is, or `SpecError` where it is negative, not a number, or greater than any image can be moved."""
    if not eps >= 0:
        raise SpecError(f"eps is {eps:g}, but a radius is at least 0; write it as '8/255'")
    if most is not None and eps > most:
        raise SpecError(f"eps is {eps:g}, but pixels lie in [0, 1]; did you mean '{eps_of(eps / 255)!r}'?")
    return eps


def check_count(eps: float, name: str, what: str) -> int:
    """eps as a whole number, or `SpecError` where it is none; what: it counts."""
    if isinstance(eps, bool) or eps < 0 or eps != int(eps):
        raise SpecError(f"{name}: eps is {eps!r}, but it counts {what}; write a whole number, such as {name}(10)")
    return int(eps)


def within(threat: Any) -> Any:
    """The threat itself, or the innermost of one that confines another (in a region, frame by frame)."""
    inner = getattr(threat, "threat", None)
    return threat if inner is None else within(inner)


def scaled(threat: Any, radius: float) -> Any:
    """The same threat, `radius` times as far; of one that is made of others, each of those."""
    if (parts := getattr(threat, "parts", None)) is not None:
        return replace(threat, parts=tuple(scaled(part, radius) for part in parts))
    if (inner := getattr(threat, "threat", None)) is not None:
        return replace(threat, threat=scaled(inner, radius))
    return replace(threat, eps=radius * threat.eps)


def planeless(name: str) -> SpecError:
    """What a threat raises that knows no least step to a plane."""
    return SpecError(f"{name} knows no least step to a plane, which FAB walks by; use pgd or apgd, or linf, l2 or l1")


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] shaped so that it multiplies images [B, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def unit(tensor: Tensor, order: float) -> Tensor:
    """Each image divided by its norm; zero where it is zero."""
    norms = tensor.flatten(1).norm(p=order, dim=1)
    return tensor / per_image(norms.clamp_min(torch.finfo(tensor.dtype).tiny), tensor)
