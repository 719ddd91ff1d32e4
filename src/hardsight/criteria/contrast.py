"""Contrastive criteria."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(one: Tensor, two: Tensor, temperature: float = 0.2) -> Tensor:
    """The normalized-temperature cross-entropy of 2B views, each told from 2B - 1 others; one and two [B, D] -> scalar.

    Source: Chen et al., ICML 2020 (SimCLR), equation 1, averaged over both directions of each pair.
    """
    z = F.normalize(torch.cat([one, two]), dim=1)
    alike = (z @ z.T / temperature).float()
    alike.fill_diagonal_(-torch.inf)
    count = len(one)
    partner = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(alike, partner)
