"""Contrast of queries with the keys of a momentum branch: from a queue (MoCo v2), or from the batch (MoCo v3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.training.criteria.gather import gather, own
from hardsight.training.criteria.pairs import across, mean


class Queued(nn.Module):
    """Each query against `length` keys of earlier batches: the cross-entropy of its own key, mean over queries and keys.

    Queries and keys are of different views. Source: He et al., CVPR 2020 (MoCo), equation 1.
    """

    sees = None
    queue: Tensor
    place: Tensor

    def __init__(self, temperature: float, length: int, dim: int) -> None:
        super().__init__()
        if length < 1:
            raise SpecError(f"moco_v2: the queue holds {length} keys; it must hold at least 1")
        self.temperature = temperature
        self.register_buffer("queue", F.normalize(torch.randn(length, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        queries, keys = ([F.normalize(z, dim=1) for z in views] for views in (online, target or ()))
        if not queries or not keys:
            raise SpecError(f"MoCo's queries and keys are of different views, and there is only {len(queries) + len(keys)}")
        first = torch.zeros(len(queries[0]), dtype=torch.long, device=queries[0].device)
        losses = []
        for query in queries:
            others = query @ self.queue.to(query.dtype).T
            for key in keys:
                alike = torch.cat([(query * key).sum(1, keepdim=True), others], 1) / self.temperature
                losses.append(F.cross_entropy(alike, first, reduction="none"))
        return mean(losses)

    def remember(self, online: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> Tensor:
        """The keys of this batch, [B, V, D]."""
        return F.normalize(torch.stack(target, 1).detach(), dim=-1)

    def keep(self, kept: Tensor) -> None:
        """Overwrites the oldest keys with all processes' keys."""
        kept = gather(kept).transpose(0, 1).flatten(0, 1)[-len(self.queue) :]
        places = (self.place + torch.arange(len(kept), device=kept.device)) % len(self.queue)
        self.queue[places] = kept.to(self.queue.dtype)
        self.place.copy_((self.place + len(kept)) % len(self.queue))


class InBatch:
    """Each query against the batch's keys: 2 T times the cross-entropy, both directions summed, mean over pairs of views.

    Source: Chen et al., ICCV 2021 (MoCo v3), algorithm 1.
    """

    sees = None

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        return 2 * mean([self._one_way(query, key) for query, key in across(online, target or ())])

    def _one_way(self, query: Tensor, key: Tensor) -> Tensor:
        alike = F.normalize(query, dim=1) @ gather(F.normalize(key, dim=1)).T / self.temperature
        return 2 * self.temperature * F.cross_entropy(alike, own(query), reduction="none")
