"""Losses on logits: of images [B, K] with labels [B], and of pixels [B, K, H, W] with masks [B, H, W].

Losses whose name ends in `_to` are targeted: their target is a pair (label, target class), and they raise that target class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import IGNORE, Loss, from_clean, made_of, mean_where, only_for, signed, targeted
from hardsight.specs.catalog import register

RANKED, RANKED_TO = 3, 4
"""Minimum number of classes for `dlr` and `dlr_to`: the number of logits that they rank."""
Pair = tuple[Tensor, Tensor]
"""(label, target class): both [B], or both [B, H, W]."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """[B]: per image; for masks, the mean over the pixels that have a class."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, target, reduction="none")
    return mean_where(F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORE), target != IGNORE)


@register
def ce() -> Loss:
    """Cross-entropy of logits; for masks the mean over the pixels that have a class."""
    return only_for(lambda output, target, progress=1.0: cross_entropy(output, target), "label", "mask")


@register
def ce_to() -> Loss:
    """Targeted cross-entropy: the negative cross-entropy of the target class; for masks over pixels that have a class."""
    return targeted(only_for(lambda output, target, progress=1.0: -cross_entropy(output, target[1]), "label", "mask"))


@register
def kl() -> Loss:
    """The Kullback-Leibler divergence of the softmax from that of the clean output: label-free, aim=itself.

    sum of p log(p / q) over the classes, p the clean and q the attacked softmax; for masks the mean over all pixels.
    Source: Zhang et al., ICML 2019 (TRADES), equation 5.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        clean, now = target.log_softmax(1), output.log_softmax(1)
        divergence = F.kl_div(now, clean, reduction="none", log_target=True).sum(1)
        return divergence if divergence.dim() == 1 else divergence.flatten(1).mean(1)

    return from_clean(only_for(loss, "label", "mask"))


@register
def margin() -> Loss:
    """The largest other logit minus the right one (labels only): positive exactly where the image is misclassified.

    Source: Carlini and Wagner, S&P 2017, f6 without its clipping.
    """
    return signed(made_of(only_for(lambda output, target, progress=1.0: lead(output, target), "label"), gaps))


@register
def cw(confidence: float = 0.0) -> Loss:
    """Carlini and Wagner's: the margin, not raised further once the image is misclassified by `confidence`.

    Source: Carlini and Wagner, S&P 2017, f6; confidence is its kappa, in logits.
    """
    if confidence < 0:
        raise SpecError(f"cw: confidence is {confidence:g}; it must be at least 0, where misclassification begins")
    return only_for(lambda output, target, progress=1.0: lead(output, target).clamp_max(confidence), "label")


@register
def gap_to() -> Loss:
    """The target class's logit minus the right one's (labels only): 0 on the boundary of the two, which FAB searches for."""
    return signed(targeted(only_for(lambda output, target, progress=1.0: gap(output, target), "label")))


@register
def dlr() -> Loss:
    """The difference of logits ratio: -(z_y - max of the other z_i) / (z_1st - z_3rd), invariant to the logits' scale.

    Source: Croce and Hein, ICML 2020, equation 6. Needs 3 classes. Its sign is that of `margin`.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        need(output, RANKED, "dlr", "margin")
        ranked, order = output.sort(dim=1)
        other = torch.where(order[:, -1] == target, ranked[:, -2], ranked[:, -1])
        return (other - at(output, target)) / (ranked[:, -1] - ranked[:, -3] + 1e-12)

    return signed(only_for(loss, "label"))


@register
def dlr_to() -> Loss:
    """Targeted difference of logits ratio: -(z_y - z_other) / (z_1st - (z_3rd + z_4th) / 2).

    Source: Croce and Hein, ICML 2020, equation 7. Needs 4 classes.
    """

    def loss(output: Tensor, target: Pair, progress: float = 1.0) -> Tensor:
        need(output, RANKED_TO, "dlr_to", "gap_to (or margin with aim=label)")
        ranked = output.sort(dim=1).values
        return gap(output, target) / (ranked[:, -1] - (ranked[:, -3] + ranked[:, -4]) / 2 + 1e-12)

    return targeted(only_for(loss, "label"))


def or_else(loss: Loss, classes: int, few: Loss) -> Loss:
    """`loss` or, on outputs of fewer than `classes` classes, `few`: the substitute for dlr with too few logits to rank."""

    def chosen(output: Tensor, target: Tensor | Pair, progress: float = 1.0) -> Tensor:
        return (loss if output.shape[1] >= classes else few)(output, target, progress)

    chosen.__dict__.update(loss.__dict__)  # the marks set by `only_for` and `targeted`
    return chosen


def at(logits: Tensor, classes: Tensor) -> Tensor:
    """[B]: each image's logit of its class."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def gap(logits: Tensor, pair: Pair) -> Tensor:
    """[B]: the logit of the target class minus that of the label."""
    return at(logits, pair[1]) - at(logits, pair[0])


def lead(logits: Tensor, target: Tensor) -> Tensor:
    """[B]: the largest logit other than the label's, minus the label's."""
    return logits.scatter(1, target[:, None], -torch.inf).amax(1) - at(logits, target)


def gaps(logits: Tensor, target: Tensor) -> Tensor:
    """[B, K]: each logit minus the label's; -inf at the label."""
    return (logits - at(logits, target)[:, None]).scatter(1, target[:, None], -torch.inf)


def need(logits: Tensor, classes: int, name: str, instead: str) -> None:
    if logits.shape[1] < classes:
        raise SpecError(
            f"{name} ranks {classes} logits, but the model's output has {logits.shape[1]} classes; use {instead}"
        )
