"""Detection losses: on the classes, boxes and centre-ness that an FCOS head predicts (`Places`), image by image.

Those that read the ground truth (`detection`, `dag`, `mislabel`) take it as a list of dicts, one per image; `vanish` and
`fabricate` do not need it. Every sum over an image's places is divided by the number of that image's places with a box, and
not, as in torchvision, by the number in the batch: images do not affect each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import ShapeError, SpecError
from hardsight.losses.base import Loss, only_for
from hardsight.losses.places import Assignment, Places, Truth, assign, extents, reach
from hardsight.specs.catalog import register

FOCUS, SHARE = 2.0, 0.25
"""The focal loss's exponent, and its weight of present against absent classes (Lin et al., ICCV 2017)."""


def focal(places: Places, assigned: Assignment) -> Tensor:
    """[B]: the focal loss of every class at every place, summed, over the number of places with a box (at least 1)."""
    classes = torch.arange(places.classes.shape[-1], device=assigned.labels.device)
    present = assigned.labels[..., None] == classes
    right = torch.where(present, places.classes, -places.classes)
    weight = torch.where(present, SHARE, 1 - SHARE)
    values = -weight * (1 - right.sigmoid()) ** FOCUS * F.logsigmoid(right)
    return values.flatten(1).sum(1) / _count(assigned)


def box_gap(places: Places, assigned: Assignment) -> Tensor:
    """[B]: mean of 1 - generalized IoU of predicted and true box, over places with a box (Rezatofighi et al., CVPR 2019)."""
    found, true = places.boxes, assigned.boxes
    both = (
        (torch.minimum(found[..., 2:], true[..., 2:]) - torch.maximum(found[..., :2], true[..., :2])).clamp_min(0).prod(-1)
    )
    hull = (torch.maximum(found[..., 2:], true[..., 2:]) - torch.minimum(found[..., :2], true[..., :2])).prod(-1)
    union = extents(found).prod(-1) + extents(true).prod(-1) - both
    values = 1 - both / union.clamp_min(1e-7) + (hull - union) / hull.clamp_min(1e-7)
    return _mean(values, assigned)


def centre_gap(places: Places, assigned: Assignment) -> Tensor:
    """[B]: mean cross-entropy of the centre-ness over the places with a box; FCOS, equation 3."""
    sides = torch.where((assigned.labels >= 0)[..., None], reach(places, assigned.boxes), 1.0)
    across, down = sides[..., 0::2], sides[..., 1::2]
    wanted = (across.amin(-1) / across.amax(-1) * down.amin(-1) / down.amax(-1)).sqrt()
    return _mean(F.binary_cross_entropy_with_logits(places.centre, wanted, reduction="none"), assigned)


def fcos(places: Places, target: Truth, classes: float = 1.0, boxes: float = 1.0, centre: float = 1.0) -> Tensor:
    """[B]: the training loss of detection heads, a weighted sum of its parts."""
    assigned = assign(places, target)
    parts = ((classes, focal), (boxes, box_gap), (centre, centre_gap))
    return torch.stack([weight * part(places, assigned) for weight, part in parts if weight]).sum(0)


@register
def detection(classes: float = 1.0, boxes: float = 1.0, centre: float = 1.0) -> Loss:
    """FCOS's training loss: focal loss of classes, generalized IoU of boxes, cross-entropy of centre-ness, weighted.

    detection(boxes=0, centre=0) attacks the classes, detection(classes=0, centre=0) the positions of the boxes. Source: Tian
    et al., ICCV 2019; as attacks: Zhang and Wang, ICCV 2019 (classes or boxes alone).
    """
    if not any((classes, boxes, centre)):
        raise SpecError("detection: all three weights are 0; at least one part must have a weight")
    return only_for(lambda output, target, progress=1.0: fcos(output, target, classes, boxes, centre), "boxes")


@register
def vanish() -> Loss:
    """Suppresses every detection, without the ground truth: negative cross-entropy against "no object anywhere".

    Source: Chow et al., TPS 2020 (TOG), object-vanishing. differs: theirs reads YOLO's objectness, which FCOS does not have;
    here it is every class's logit, and plain cross-entropy, since a focal one would fade for the remaining detections.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        return -F.softplus(output.classes).flatten(1).mean(1)

    return only_for(loss, "boxes")


@register
def fabricate() -> Loss:
    """Raises a detection at every place, without the ground truth: of its most likely class, with its centre-ness.

    Source: Chow et al., TPS 2020 (TOG), object-fabrication. differs: as for `vanish`.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        return F.logsigmoid(output.classes.amax(-1)).mean(1) + F.logsigmoid(output.centre).mean(1)

    return only_for(loss, "boxes")


@register
def mislabel(shift: int = 1) -> Loss:
    """Towards the same boxes with other labels, shifted by `shift` classes: the negative training loss for those labels.

    Source: Chow et al., TPS 2020 (TOG), object-mislabeling. differs: theirs takes the most or the least likely other class;
    here it is one that does not depend on the model, so that two models get the same attack.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        count = _classes(output, shift, "mislabel")
        return -fcos(output, [{**one, "labels": (one["labels"] + shift) % count} for one in target])

    return only_for(loss, "boxes")


@register
def dag(shift: int = 1) -> Loss:
    """Dense adversary generation: the other class's logit minus the right one's, over places that are still right.

    The other class is `shift` classes later. Source: Xie et al., ICCV 2017, equations 1 and 2. differs: their targets are
    region proposals; here they are the places with a box, and the sum is divided by their number.
    """

    def loss(output: Places, target: Truth, progress: float = 1.0) -> Tensor:
        count = _classes(output, shift, "dag")
        assigned = assign(output, target)
        right = assigned.labels.clamp_min(0)[..., None]
        gap = (output.classes.gather(-1, (right + shift) % count) - output.classes.gather(-1, right)).squeeze(-1)
        correct = (assigned.labels >= 0) & (output.classes.argmax(-1) == right.squeeze(-1))
        return torch.where(correct, gap, 0.0).sum(1) / _count(assigned)

    return only_for(loss, "boxes")


def _classes(output: Places, shift: int, name: str) -> int:
    count = output.classes.shape[-1]
    if shift % count == 0:
        raise ShapeError(f"{name}(shift={shift}) of {count} classes makes each class its own target; choose another shift")
    return count


def _count(assigned: Assignment) -> Tensor:
    """[B]: the number of places with a box, at least 1."""
    return (assigned.labels >= 0).sum(1).clamp_min(1)


def _mean(values: Tensor, assigned: Assignment) -> Tensor:
    """[B]: the mean over the places with a box; 0 if no place has one."""
    return torch.where(assigned.labels >= 0, values, 0.0).sum(1) / _count(assigned)
