"""Detection losses: of the classes, the boxes and the centre-ness that an FCOS head tells (`Places`), image by image.

Those that read the truth (`detection`, `dag`, `mislabel`) take it as a list of dicts, one an image; `vanish` and `fabricate`
need none. Every sum over an image's places is divided by that image's own number of places that answer for a box, and not,
as in torchvision, by the batch's: no image minds its neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import ShapeError, SpecError
from hardsight.losses.base import Loss, only_for
from hardsight.losses.places import Duty, Places, Truth, duties, extents, reach
from hardsight.specs.catalog import register

FOCUS, SHARE = 2.0, 0.25
"""The focal loss's exponent, and its weight of what is there against what is not (Lin et al., ICCV 2017)."""


def focal(places: Places, duty: Duty) -> Tensor:
    """[B]: the focal loss of every class at every place, summed, over the number of places with a box (at least 1)."""
    classes = torch.arange(places.classes.shape[-1], device=duty.labels.device)
    there = duty.labels[..., None] == classes
    right = torch.where(there, places.classes, -places.classes)
    weight = torch.where(there, SHARE, 1 - SHARE)
    values = -weight * (1 - right.sigmoid()) ** FOCUS * F.logsigmoid(right)
    return values.flatten(1).sum(1) / _count(duty)


def box_gap(places: Places, duty: Duty) -> Tensor:
    """[B]: 1 - generalized IoU of what the places with a box tell and that box, their mean (Rezatofighi et al., CVPR 2019)."""
    told, true = places.boxes, duty.boxes
    both = (torch.minimum(told[..., 2:], true[..., 2:]) - torch.maximum(told[..., :2], true[..., :2])).clamp_min(0).prod(-1)
    hull = (torch.maximum(told[..., 2:], true[..., 2:]) - torch.minimum(told[..., :2], true[..., :2])).prod(-1)
    union = extents(told).prod(-1) + extents(true).prod(-1) - both
    values = 1 - both / union.clamp_min(1e-7) + (hull - union) / hull.clamp_min(1e-7)
    return _mean(values, duty)


def centre_gap(places: Places, duty: Duty) -> Tensor:
    """[B]: cross-entropy of the centre-ness at the places with a box, their mean; FCOS, equation 3."""
    sides = torch.where((duty.labels >= 0)[..., None], reach(places, duty.boxes), 1.0)
    across, down = sides[..., 0::2], sides[..., 1::2]
    wanted = (across.amin(-1) / across.amax(-1) * down.amin(-1) / down.amax(-1)).sqrt()
    return _mean(F.binary_cross_entropy_with_logits(places.centre, wanted, reduction="none"), duty)


def fcos(places: Places, target: Truth, classes: float = 1.0, boxes: float = 1.0, centre: float = 1.0) -> Tensor:
    """[B]: what detection heads train on, each part by its weight."""
    duty = duties(places, target)
    parts = ((classes, focal), (boxes, box_gap), (centre, centre_gap))
    return torch.stack([weight * part(places, duty) for weight, part in parts if weight]).sum(0)


@register
def detection(classes: float = 1.0, boxes: float = 1.0, centre: float = 1.0) -> Loss:
    """FCOS's training loss: focal of classes, generalized IoU of boxes, cross-entropy of centre-ness, each by its weight.

    detection(boxes=0, centre=0) attacks what things are, detection(classes=0, centre=0) where they are.
    Source: Tian et al., ICCV 2019; as attacks: Zhang and Wang, ICCV 2019 (classes or boxes alone).
    """
    if not any((classes, boxes, centre)):
        raise SpecError("detection: all three weights are 0; at least one part must count")
    return only_for(lambda output, target, progress=1.0: fcos(output, target, classes, boxes, centre), "boxes")


@register
def vanish() -> Loss:
    """Suppresses every detection, without the truth: cross-entropy against "nothing anywhere", with its sign turned.

    Source: Chow et al., TPS 2020 (TOG), object-vanishing. differs: theirs reads YOLO's objectness, of which FCOS has none;
    here it is every class's logit, and the cross-entropy is plain, as a focal one would fade at what remains.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        return -F.softplus(output.classes).flatten(1).mean(1)

    return only_for(loss, "boxes")


@register
def fabricate() -> Loss:
    """Raises a detection at every place, without the truth: of the class that is likeliest there, with its centre-ness.

    Source: Chow et al., TPS 2020 (TOG), object-fabrication. differs: as for `vanish`.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        return F.logsigmoid(output.classes.amax(-1)).mean(1) + F.logsigmoid(output.centre).mean(1)

    return only_for(loss, "boxes")


@register
def mislabel(shift: int = 1) -> Loss:
    """Towards the same boxes with other labels, each `shift` classes on: the training loss against those, its sign turned.

    Source: Chow et al., TPS 2020 (TOG), object-mislabeling. differs: theirs takes the likeliest or the least likely other
    class; here it is one that doesn't depend on the model, so that two models are attacked alike.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        count = _classes(output, shift, "mislabel")
        return -fcos(output, [{**one, "labels": (one["labels"] + shift) % count} for one in target])

    return only_for(loss, "boxes")


@register
def dag(shift: int = 1) -> Loss:
    """Dense adversary generation: the other class's logit less the right one's, over places that are still right.

    The other class is `shift` classes on. Source: Xie et al., ICCV 2017, equations 1 and 2. differs: their targets are
    region proposals; here they are the places that answer for a box, and their sum is divided by how many there are.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        count = _classes(output, shift, "dag")
        duty = duties(output, target)
        right = duty.labels.clamp_min(0)[..., None]
        gap = (output.classes.gather(-1, (right + shift) % count) - output.classes.gather(-1, right)).squeeze(-1)
        stands = (duty.labels >= 0) & (output.classes.argmax(-1) == right.squeeze(-1))
        return torch.where(stands, gap, 0.0).sum(1) / _count(duty)

    return only_for(loss, "boxes")


def _classes(output: Places, shift: int, name: str) -> int:
    count = output.classes.shape[-1]
    if shift % count == 0:
        raise ShapeError(f"{name}(shift={shift}) of {count} classes makes each class its own target")
    return count


def _count(duty: Duty) -> Tensor:
    """[B]: the places that answer for a box, at least 1."""
    return (duty.labels >= 0).sum(1).clamp_min(1)


def _mean(values: Tensor, duty: Duty) -> Tensor:
    """[B]: over the places that answer for a box; 0 where none does."""
    return torch.where(duty.labels >= 0, values, 0.0).sum(1) / _count(duty)
