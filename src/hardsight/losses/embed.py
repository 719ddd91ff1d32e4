"""Label-free losses: how far an image's embedding is from where it was; pooled [B, D] or dense [B, D, h, w].

Always in float32: at small radii two embeddings are nearly equal, and a difference of halves loses what there is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardsight.catalog import register
from hardsight.losses.base import EMBEDDING, Loss, only_for


@register
def far_l2() -> Loss:
    """The squared Euclidean distance of embeddings; for dense ones the mean over the grid.

    Source: paper 002 (EmbedAttack), whose code takes the mean over all elements of a batch: the same direction for every
    image, another scale.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return _per_image((output.float() - target.float()).square().sum(1))

    return only_for(loss, EMBEDDING)


@register
def far_cosine() -> Loss:
    """One less the cosine of embeddings; for dense ones the mean over the grid."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return _per_image(1 - F.cosine_similarity(output.float(), target.float(), dim=1))

    return only_for(loss, EMBEDDING)


def _per_image(away: Tensor) -> Tensor:
    return away if away.dim() == 1 else away.flatten(1).mean(1)
