"""Contrastive criteria."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(one: Tensor, two: Tensor, temperature: float = 0.2) -> Tensor:
    """The normalized-temperature cross-entropy of 2B views, each told from 2B - 1 others; one and two [B, D] -> [B].

    Source: Chen et al., ICML 2020 (SimCLR), equation 1, averaged over both directions of each pair.
    """
    z = F.normalize(torch.cat([one, two]), dim=1)
    alike = (z @ z.T / temperature).float()
    alike.fill_diagonal_(-torch.inf)
    count = len(one)
    partner = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(alike, partner, reduction="none").view(2, count).mean(0)


class NTXent:
    """`nt_xent` as a criterion, image by image: each entry is the mean over both directions of its pair."""

    sees = 2

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        one, two = online
        return nt_xent(one, two, self.temperature)
