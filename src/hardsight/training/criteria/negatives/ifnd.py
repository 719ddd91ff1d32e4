"""IFND's detector: pseudo-labels from k-means over the whole training split, trusted more and more during training."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.training.criteria.gather import gather, own
from hardsight.training.criteria.negatives.base import Mode, Negatives, Pairs, Treated, without

ROUNDS = 20
"""Iterations of k-means; each clustering starts where the one before ended."""


class PseudoLabels(nn.Module):
    """A cluster for each image of the training split, -1 where it is not trusted yet; renewed once an epoch.

    memory [images, D]: each image's unit embedding, of the views of the last step that showed it; zero before. visits: how
    many images all steps have shown. centre [clusters, D]: of the last k-means.
    """

    memory: Tensor
    label: Tensor
    centre: Tensor
    visits: Tensor

    def __init__(self, images: int, dim: int, clusters: int, ramp: int, sharpness: float, mode: Mode) -> None:
        super().__init__()
        self.clusters, self.ramp, self.sharpness = clusters, ramp, sharpness
        self.mode: Mode = mode
        self.register_buffer("memory", torch.zeros(images, dim))
        self.register_buffer("label", torch.full((images,), -1))
        self.register_buffer("centre", torch.zeros(clusters, dim))
        self.register_buffer("visits", torch.zeros((), dtype=torch.long))
        self.count: int | None = None

    def forward(self, pairs: Pairs) -> Treated:
        """Suspects are negatives with the trusted pseudo-label of the row's image."""
        rows, columns = pairs.places
        row, column = self.label[rows].repeat(2)[:, None], self.label[columns]
        return without(pairs, pairs.other & (row == column) & (row >= 0), self.mode)

    @torch.no_grad()
    def notice(self, pairs: Pairs) -> Tensor:
        """[D, B]: the sum of each image's two unit embeddings."""
        return pairs.columns[own(pairs.partner)].unflatten(0, (2, -1)).sum(0).T

    @torch.no_grad()
    def keep(self, places: Tensor, noticed: Tensor) -> None:
        """Stores the embeddings; clusters them each time that as many images as the split has were shown."""
        at, z = gather(places), gather(noticed.T.contiguous())
        self.memory[at] = F.normalize(z.to(self.memory), dim=1)
        before = int(self.visits) if self.count is None else self.count  # on a GPU the host would wait for it
        self.visits += len(at)
        self.count = before + len(at)
        if (now := self.count // len(self.memory)) > before // len(self.memory):
            self._cluster(now)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.count = None
        super()._load_from_state_dict(*args, **kwargs)

    def _cluster(self, epochs: int) -> None:
        """k-means on the sphere over the images shown so far; the most confident share of them keeps its label."""
        known = self.memory.any(1).nonzero()[:, 0]
        z = self.memory[known]
        if not self.centre.any():
            self.centre.copy_(far_apart(z, self.clusters))
        for _ in range(ROUNDS):
            nearest = (z @ self.centre.T).argmax(1)
            sums = torch.zeros_like(self.centre).index_add_(0, nearest, z)
            self.centre.copy_(torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), self.centre))
        confidence, nearest = (self.sharpness * z @ self.centre.T).softmax(1).max(1)
        trusted = confidence.topk(round(len(known) * min(1.0, epochs / self.ramp))).indices
        self.label.fill_(-1)
        self.label[known[trusted]] = nearest[trusted]


def far_apart(z: Tensor, clusters: int) -> Tensor:
    """[clusters, D]: rows of z as first centres: each drawn with a probability that grows with the squared distance to the
    nearest before it (k-means++); from a fixed seed, so that all processes draw the same.
    """
    rng = seeds.generator("k-means", len(z))
    chosen = [int(torch.randint(len(z), (1,), generator=rng))]
    while len(chosen) < clusters:
        away = (1 - (z @ z[chosen].T).amax(1)).clamp_min(1e-9).cpu()
        chosen.append(int(torch.multinomial(away, 1, generator=rng)))
    return z[chosen]


@register
def ifnd(
    clusters: int = 10, ramp: int = 100, sharpness: float = 10.0, mode: Literal["eliminate", "attract"] = "eliminate"
) -> Negatives:
    """IFND: negatives with the anchor's own pseudo-label, by k-means, are false; labels are trusted bit by bit.

    clusters: of k-means, about the number of classes. ramp: after this many epochs all pseudo-labels are trusted; before,
    the most confident share, which grows evenly from 0. sharpness: of the softmax over the centres' cosines that is the
    confidence. Source: Chen et al., "Incremental false negative detection for contrastive learning", ICLR 2022. differs: one
    clustering, not a hierarchy of several; it clusters the embeddings of the views that the epoch showed, from a memory,
    not those of a further pass over all images; k-means starts from the centres of the epoch before.
    """
    if clusters < 2 or ramp < 1 or sharpness <= 0:
        raise SpecError(f"ifnd: clusters {clusters}, ramp {ramp}, sharpness {sharpness}; at least 2, at least 1, above 0")
    return Negatives(lambda images, dim: PseudoLabels(images, dim, clusters, ramp, sharpness, mode))
