"""Losses on features: how far an image's embedding is from where it was, or how near to another's; [B, D] or [B, D, h, w].

No label is needed. Always in float32: at small radii two embeddings are nearly equal, and a difference of halves loses
what there is. For dense ones each is the mean over the grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardsight.losses.base import EMBEDDING, Loss, aimed, only_for
from hardsight.specs.catalog import register

Pair = tuple[Tensor, Tensor]
"""(the image's own clean embedding, the one it is pulled to)."""


@register
def far_l2() -> Loss:
    """The squared Euclidean distance of embeddings; for dense ones the mean over the grid.

    Source: paper 002 (EmbedAttack), whose code takes the mean over all elements of a batch: the same direction for every
    image, another scale.
    """
    return only_for(lambda output, target, progress=1.0: distance(output, target), EMBEDDING)


@register
def far_cosine() -> Loss:
    """One less the cosine of embeddings; for dense ones the mean over the grid."""
    return only_for(lambda output, target, progress=1.0: angle(output, target), EMBEDDING)


@register
def near_l2() -> Loss:
    """Towards another image's embedding: the squared Euclidean distance to it, with its sign turned; aim=partner."""

    def loss(output: Tensor, target: Pair, progress: float = 1.0) -> Tensor:
        return -distance(output, target[1])

    return aimed(only_for(loss, EMBEDDING))


@register
def near_cosine() -> Loss:
    """Towards another image's embedding: the cosine to it, less one; aim=partner."""

    def loss(output: Tensor, target: Pair, progress: float = 1.0) -> Tensor:
        return -angle(output, target[1])

    return aimed(only_for(loss, EMBEDDING))


def distance(one: Tensor, other: Tensor) -> Tensor:
    """[B]: squared and Euclidean."""
    return _per_image((one.float() - other.float()).square().sum(1))


def angle(one: Tensor, other: Tensor) -> Tensor:
    """[B]: one less the cosine, from 0 to 2."""
    return _per_image(1 - F.cosine_similarity(one.float(), other.float(), dim=1))


def _per_image(away: Tensor) -> Tensor:
    return away if away.dim() == 1 else away.flatten(1).mean(1)
