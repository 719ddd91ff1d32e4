"""Losses on features: how far an embedding is from its clean one, or how close to another image's; [B, D] or [B, D, h, w].

No label is needed. Always in float32: at small radii two embeddings are nearly equal, and in half precision their difference
would be lost. For dense features each loss is the mean over the grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardsight.losses.base import EMBEDDING, Loss, only_for, targeted
from hardsight.specs.catalog import register

Pair = tuple[Tensor, Tensor]
"""(the image's own clean embedding, the target embedding)."""


@register
def far_l2() -> Loss:
    """The squared Euclidean distance of embeddings; for dense ones the mean over the grid.

    Source: paper 002 (EmbedAttack), whose code takes the mean over all elements of a batch: the same direction for every
    image, at another scale.
    """
    return only_for(lambda output, target, progress=1.0: distance(output, target), EMBEDDING)


@register
def far_cosine() -> Loss:
    """One minus the cosine similarity of embeddings; for dense ones the mean over the grid."""
    return only_for(lambda output, target, progress=1.0: angle(output, target), EMBEDDING)


@register
def near_l2() -> Loss:
    """Towards another image's embedding: the negative squared Euclidean distance to it; aim=partner."""

    def loss(output: Tensor, target: Pair, progress: float = 1.0) -> Tensor:
        return -distance(output, target[1])

    return targeted(only_for(loss, EMBEDDING))


@register
def near_cosine() -> Loss:
    """Towards another image's embedding: the cosine similarity to it, minus one; aim=partner."""

    def loss(output: Tensor, target: Pair, progress: float = 1.0) -> Tensor:
        return -angle(output, target[1])

    return targeted(only_for(loss, EMBEDDING))


def distance(one: Tensor, other: Tensor) -> Tensor:
    """[B]: the squared Euclidean distance."""
    return _per_image((one.float() - other.float()).square().sum(1))


def angle(one: Tensor, other: Tensor) -> Tensor:
    """[B]: one minus the cosine similarity, from 0 to 2."""
    return _per_image(1 - F.cosine_similarity(one.float(), other.float(), dim=1))


def _per_image(away: Tensor) -> Tensor:
    return away if away.dim() == 1 else away.flatten(1).mean(1)
