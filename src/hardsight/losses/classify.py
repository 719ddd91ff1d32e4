"""Losses on logits: of images [B, K] with labels [B], and of pixels [B, K, H, W] with masks [B, H, W]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.catalog import register
from hardsight.losses.base import IGNORE, Loss, mean_where, only_for


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """[B]: of each image; of pixels, the mean over those with a class."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, target, reduction="none")
    return mean_where(F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORE), target != IGNORE)


@register
def ce() -> Loss:
    """Cross-entropy of logits; for masks the mean over the pixels that have a class."""
    return only_for(lambda output, target, progress=1.0: cross_entropy(output, target), "label", "mask")


@register
def margin() -> Loss:
    """The greatest other logit less the right one (labels only): positive exactly where the image is misclassified.

    Source: Carlini and Wagner, S&P 2017, f6 without its clipping.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        right = output.gather(1, target[:, None]).squeeze(1)
        others = output.scatter(1, target[:, None], -torch.inf)
        return others.amax(1) - right

    return only_for(loss, "label")
