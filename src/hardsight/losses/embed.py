"""Label-free losses: how far an image's embedding is from where it was; pooled [B, D] or dense [B, D, h, w]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardsight.catalog import register
from hardsight.losses.base import Loss


@register
def far_l2() -> Loss:
    """The squared Euclidean distance of embeddings; for dense ones the mean over the grid.

    Source: paper 002 (EmbedAttack), whose code takes the mean over all elements of a batch: the same direction for every
    image, another scale.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return (
            (output - target).square().sum(1).flatten(1).mean(1) if output.dim() > 2 else (output - target).square().sum(1)
        )

    return loss


@register
def far_cosine() -> Loss:
    """One less the cosine of embeddings; for dense ones the mean over the grid."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        away = 1 - F.cosine_similarity(output, target, dim=1)
        return away if away.dim() == 1 else away.flatten(1).mean(1)

    return loss
