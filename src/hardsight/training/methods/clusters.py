"""Pseudo-labels: which of k clusters of an encoder's features each training image belongs to."""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.core.errors import DataError
from hardsight.data.base import Images
from hardsight.data.feed import load, pixels
from hardsight.encoders.base import Encoder
from hardsight.losses.objective import still


@torch.no_grad()
def features(encoder: Encoder, images: Images, batch: int = 256) -> Tensor:
    """[N, D] pooled features of all the images, without augmentation, in eval mode, on the encoder's device."""
    device = encoder.mean.device
    found = []
    with still(encoder):
        for start in range(0, len(images), batch):
            places = list(range(start, min(start + batch, len(images))))
            found.append(encoder(pixels(load(images, places).images, device)).pooled.float())
    return torch.cat(found)


@torch.no_grad()
def kmeans(x: Tensor, count: int, rng: torch.Generator, rounds: int = 50) -> Tensor:
    """[N]: the cluster of each row of x [N, D], by Lloyd's algorithm until none changes; initialized by k-means++.

    An empty cluster restarts at the row that is farthest from its own centre. `DataError` where there are fewer rows than
    clusters.
    """
    if not 1 <= count <= len(x):
        raise DataError(f"kmeans: {count} clusters of {len(x)} images; give at least 1, and at most one per image")
    centres = _spread(x, count, rng)
    label = torch.full((len(x),), -1, device=x.device)
    for _ in range(rounds):
        away = torch.cdist(x, centres)
        near, new = away.min(1)
        if torch.equal(new, label):
            break
        label = new
        sizes = torch.bincount(label, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, label, x)
        centres = sums / sizes.clamp_min(1)[:, None]
        empty = (sizes == 0).nonzero().flatten()
        centres[empty] = x[near.topk(len(empty)).indices]
    return label


def _spread(x: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Rows far from each other, each drawn by its squared distance to those before (Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(x), (1,), generator=rng))]
    away = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        edge = away.double().cumsum(0).cpu()
        draw = torch.rand(1, generator=rng, dtype=torch.float64) * edge[-1]
        chosen.append(min(int(torch.searchsorted(edge, draw, right=True)), len(x) - 1))
        away = torch.minimum(away, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()
