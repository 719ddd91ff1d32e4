"""What an attack's loss compares with: the label, the model's own clean reading, another class, another image's embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.data.base import IGNORE
from hardsight.specs.catalog import register

Read = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Aim:
    """Makes the target of a loss from (read, images x [B, ...], labels y).

    passes: how many forward passes that takes. label: whether it needs y. pair: whether the target is (what is, what is
    wanted), which targeted losses read. clean: whether it is what the model itself makes of clean images. reach: whether the
    attack is to arrive at what is wanted, and not only away from what is: a search then keeps the point that is nearest to it.
    """

    make: Callable[[Read, Tensor, Any], Any]
    passes: int = 0
    label: bool = True
    pair: bool = False
    clean: bool = False
    reach: bool = False

    def __call__(self, read: Read, x: Tensor, y: Any) -> Any:
        if self.label and y is None:
            raise SpecError("this attack needs the images' labels; without them use one with aim=itself, such as embed")
        with torch.no_grad():
            return tree.each(self.make(read, x, y), Tensor.detach)


@register
def label() -> Aim:
    """Away from the right label, mask or depth."""
    return Aim(lambda read, x, y: y)


@register
def itself() -> Aim:
    """Away from what the model itself makes of the clean image, its embedding or its output: no label is needed."""
    return Aim(lambda read, x, y: read(x), passes=1, label=False, clean=True)


@register
def partner(shift: int = 1) -> Aim:
    """Towards the clean embedding of another image: of the one `shift` places on in the batch, so the batch is part of it."""

    def make(read: Read, x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
        if shift % len(x) == 0:
            raise SpecError(f"partner(shift={shift}) in a batch of {len(x)} makes each image its own partner")
        own = read(x)
        return own, own.roll(-shift, 0)

    return Aim(make, passes=1, label=False, pair=True, clean=True)


@register
def rival(k: int = 1) -> Aim:
    """The k-th likeliest class of the clean output that is not the right one, image by image or pixel by pixel.

    Source: Croce and Hein, ICML 2020 (the targets of APGD-T and FAB-T). differs: theirs takes place k + 1 of all classes,
    which is the same wherever the clean output is right; they attack no other image.
    """
    if k < 1:
        raise SpecError(f"rival: k is {k}; the first rival is rival(1)")

    def make(read: Read, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = read(x)
        if logits.shape[1] <= k:
            raise SpecError(f"rival({k}) needs more than {k} classes, and the model's output has {logits.shape[1]}")
        right = torch.where(y == IGNORE, 0, y) if logits.dim() > 2 else y
        others = logits.scatter(1, right[:, None], -torch.inf)
        order = others.sort(dim=1).indices  # ascending, so that ties fall as in autoattack
        chosen = order[:, -k]
        return y, torch.where(y == IGNORE, IGNORE, chosen) if logits.dim() > 2 else chosen

    return Aim(make, passes=1, pair=True)


@register
def towards(wanted: int) -> Aim:
    """Towards one class, everywhere: images labelled so, or every pixel that has a class; done when it is there."""
    return given(wanted)


def given(wanted: Any) -> Aim:
    """Towards a target of your own: a class, labels [B], or a map [H, W] or [B, H, W]; done when the output is that."""

    def make(read: Read, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        other = torch.as_tensor(wanted, device=y.device, dtype=y.dtype).expand_as(y)
        return y, torch.where(y == IGNORE, IGNORE, other) if y.dim() > 1 and not y.is_floating_point() else other

    return Aim(make, pair=True, reach=True)
