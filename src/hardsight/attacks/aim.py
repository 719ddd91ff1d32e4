"""What an attack's loss compares with: the label, the model's own clean output, another class, another image's embedding."""

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
    """Makes the target of a loss from (read, images x [B, ...], labels y); `read` computes what the loss reads.

    passes: number of forward passes needed. label: whether y is needed. pair: whether the target is a pair (current,
    wanted), as targeted losses expect. clean: whether the target is the model's own output or embedding of the clean images.
    wanted: makes the wanted target of labels y, if the attack succeeds only when it reaches that, not as soon as it leaves
    the true one; the search then keeps the point closest to that target. shift: how many positions later the image is whose embedding is the
    target, so that images are attacked in batches that it does not divide; 0: no other image matters.
    """

    make: Callable[[Read, Tensor, Any], Any]
    passes: int = 0
    label: bool = True
    pair: bool = False
    clean: bool = False
    wanted: Callable[[Tensor], Tensor] | None = None
    shift: int = 0

    def __call__(self, read: Read, x: Tensor, y: Any) -> Any:
        if self.label and y is None:
            raise SpecError("this attack needs labels; without labels, use an attack with aim=itself, such as embed")
        with torch.no_grad():
            return tree.each(self.make(read, x, y), Tensor.detach)


@register
def label() -> Aim:
    """Away from the true label, mask or depth map (untargeted)."""
    return Aim(lambda read, x, y: y)


@register
def itself() -> Aim:
    """Away from the model's own clean embedding or output (untargeted; no label is needed)."""
    return Aim(lambda read, x, y: read(x), passes=1, label=False, clean=True)


@register
def partner(shift: int = 1) -> Aim:
    """Towards the clean embedding of another image: the one `shift` positions later, so the batch affects the result."""
    if shift == 0:
        raise SpecError("partner: shift is 0, which makes each image its own partner; partner(1) is the next image")

    def make(read: Read, x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
        if shift % len(x) == 0:
            raise SpecError(
                f"partner(shift={shift}) in a batch of {len(x)} makes each image its own partner; choose another shift"
            )
        own = read(x)
        return own, own.roll(-shift, 0)

    return Aim(make, passes=1, label=False, pair=True, clean=True, shift=shift)


@register
def rival(k: int = 1) -> Aim:
    """The k-th most likely wrong class of the clean output, per image or per pixel.

    Source: Croce and Hein, ICML 2020 (the target classes of APGD-T and FAB-T). differs: theirs takes the class of rank k + 1
    among all classes, which is the same class wherever the clean output is correct; they attack no other images.
    """
    if k < 1:
        raise SpecError(f"rival: k is {k}, but it must be at least 1; rival(1) is the most likely wrong class")

    def make(read: Read, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = read(x)
        if logits.shape[1] <= k:
            raise SpecError(f"rival({k}) needs more than {k} classes, but the model's output has {logits.shape[1]}")
        right = torch.where(y == IGNORE, 0, y) if logits.dim() > 2 else y
        others = logits.scatter(1, right[:, None], -torch.inf)
        order = others.sort(dim=1).indices  # ascending, so that ties are broken as in AutoAttack
        chosen = order[:, -k]
        return y, torch.where(y == IGNORE, IGNORE, chosen) if logits.dim() > 2 else chosen

    return Aim(make, passes=1, pair=True)


@register
def towards(wanted: int) -> Aim:
    """Towards one class, for all images or for every pixel that has a class; succeeds when the output is that class."""
    if wanted < 0:
        raise SpecError(f"towards: the class is {wanted}, but classes are numbered from 0")
    return given(wanted)


def given(wanted: Any) -> Aim:
    """Towards a target given in Python: a class, labels [B] or a map [H, W] or [B, H, W]; succeeds if the output is that.

    An image whose label already is the target is not attacked, and counts in no figure.
    """

    def other(y: Tensor) -> Tensor:
        found = torch.as_tensor(wanted, device=y.device, dtype=y.dtype).expand_as(y)
        return torch.where(y == IGNORE, IGNORE, found) if y.dim() > 1 and not y.is_floating_point() else found

    return Aim(lambda read, x, y: (y, other(y)), passes=1, pair=True, wanted=other)
