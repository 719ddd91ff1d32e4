"""Swapped assignments: predict from one view the prototypes that another view was assigned to (SwAV)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.training.criteria.gather import gather, own
from hardsight.training.criteria.pairs import across


@torch.no_grad()
def sinkhorn(scores: Tensor, eps: float = 0.05, rounds: int = 3) -> Tensor:
    """Assignments [B, K] of B images to K prototypes; each row sums to 1, and each prototype gets about B / K.

    Sinkhorn-Knopp on exp(scores / eps), in log space. Source: Caron et al., NeurIPS 2020 (SwAV), equation 5.
    """
    plan = scores / eps
    for _ in range(rounds):
        plan = plan - plan.logsumexp(0, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan.exp()


class Swapped(nn.Module):
    """The cross-entropy of each view's soft assignment with every other target view's code, mean over pairs of views.

    count: number of prototypes, of length 1. queue: how many earlier embeddings of each target view help to balance the
    codes, 0 for none; they are stored from the first step on and used once the queue is full. targets: how many views the
    target branch has.
    """

    sees = None
    queue: Tensor
    stored: Tensor

    def __init__(
        self, dim: int, count: int, temperature: float = 0.1, eps: float = 0.05, rounds: int = 3, queue: int = 0, targets: int = 2
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature, self.eps, self.rounds = temperature, eps, rounds
        self.prototypes = nn.Linear(dim, count, bias=False)
        self._normalize()
        self.register_buffer("queue", torch.zeros(targets, queue, dim))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))
        self.full = False

    def forward(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        chances = tuple((self._scores(z) / self.temperature).log_softmax(1) for z in online)
        codes = tuple(self._codes(z, place) for place, z in enumerate(target or ()))
        return torch.stack([-(code * chance).sum(1) for chance, code in across(chances, codes)]).mean(0)

    def remember(self, online: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> Tensor:
        """The target embeddings of this batch, [B, V, D], of length 1."""
        return F.normalize(torch.stack(target, 1).detach(), dim=-1)

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Normalizes the prototypes to length 1; puts all processes' embeddings at the front of the queue."""
        self._normalize()
        length = self.queue.shape[1]
        if length:
            whole = gather(kept).transpose(0, 1).to(self.queue.dtype)
            self.queue.copy_(torch.cat([whole, self.queue], 1)[:, :length])
            self.stored.copy_((self.stored + whole.shape[1]).clamp_max(length))

    def _scores(self, z: Tensor) -> Tensor:
        return self.prototypes(F.normalize(z, dim=1))

    @torch.no_grad()
    def _codes(self, z: Tensor, place: int) -> Tensor:
        scores = gather(self._scores(z))
        length = self.queue.shape[1]
        if length and place < len(self.queue) and self._is_full(length):
            scores = torch.cat([scores, self.prototypes(self.queue[place].to(scores.dtype))])
        return sinkhorn(scores, self.eps, self.rounds)[own(z)]

    def _is_full(self, length: int) -> bool:
        """Asked until it is, since the host waits for a GPU's answer."""
        self.full = self.full or int(self.stored) == length
        return self.full

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.full = False
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _normalize(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
