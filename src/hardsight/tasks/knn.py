"""Weighted nearest neighbours as a head: nothing is trained, the training images' features are its buffers.

Source: Wu et al., CVPR 2018, section 3.4, with the k = 20 and temperature 0.07 of DINO's evaluation (Caron et al., ICCV 2021):
the k most alike (cosine) of the bank vote for their class, each by exp(cosine / temperature). An image whose k neighbours are
all of one class would have a constant vote and no gradient, so an attack would find nothing to climb. Hence
differs: a class without a vote is scored by its most alike image. That one weighs no more than any voter, so the class that
wins is the same, and every class pulls at the pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import DataError
from hardsight.encoders.base import Features

GROUP = 64
"""The k most alike lie in the k groups with the greatest maxima: looking there first spares sorting the whole bank."""
AT_ONCE = 2**24
"""Cosines that are held at once where no gradient is asked for."""


class KnnHead(nn.Module):
    """Features -> logits [B, K], the logarithms of the classes' votes.

    bank [N, D]: unit features, class by class; ends [K]: where each class's end. Both empty until `fill`.
    """

    bank: Tensor
    ends: Tensor

    def __init__(self, dim: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.k, self.temperature = k, temperature
        self.register_buffer("bank", torch.zeros(0, dim))
        self.register_buffer("ends", torch.zeros(classes, dtype=torch.int64))

    def fill(self, pooled: Tensor, label: Tensor) -> None:
        """Takes these features [N, D] with labels [N] for its bank; `DataError` where they are fewer than k, or a label is no class."""
        if len(pooled) < self.k:
            raise DataError(
                f"knn asks {self.k} neighbours, and its bank has {len(pooled)} images; give more, or classify(head=knn, k=...)"
            )
        classes = len(self.ends)
        if int(label.min()) < 0 or int(label.max()) >= classes:
            raise DataError(f"a label is {int(label.max())}, but the ids of {classes} classes end at {classes - 1}")
        order = label.argsort(stable=True)
        self.bank = F.normalize(pooled.float(), dim=1)[order].to(self.bank.device)
        self.ends = torch.bincount(label, minlength=classes).cumsum(0).to(self.ends.device)

    def forward(self, features: Features) -> Tensor:
        if not len(self.bank):
            raise DataError("the bank of knn is empty; fit_probe fills it")
        x = F.normalize(features.pooled.float(), dim=1)
        rows = len(x) if x.requires_grad else max(1, AT_ONCE // len(self.bank))
        return torch.cat([self._votes(part) for part in x.split(max(rows, 1))])

    def _votes(self, x: Tensor) -> Tensor:
        alike = x @ self.bank.T
        ends = self.ends.tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        nothing = alike.new_full((len(x),), -2.0)  # below every cosine: a class that the bank has no image of
        nearest = torch.stack([alike[:, a:b].amax(1) if b > a else nothing for a, b in spans], 1) / self.temperature
        best, places = _greatest(alike, self.k)
        classes = torch.searchsorted(self.ends, places, right=True)
        best = best / self.temperature
        peak = best[:, :1].detach()
        votes = torch.zeros_like(nearest).scatter_add(1, classes, (best - peak).exp())
        logits = torch.where(votes > 0, votes.clamp_min(torch.finfo(votes.dtype).tiny).log(), nearest - peak)
        return logits - (best - peak).logsumexp(1, keepdim=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (bank := state_dict.get(f"{prefix}bank")) is not None and bank.shape[1:] == self.bank.shape[1:]:
            self.bank = self.bank.new_empty(bank.shape)  # as long as the one that is read
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _greatest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of each row [B, N], descending, and their places, as `topk` finds them."""
    count = values.shape[1]
    whole = count // GROUP
    if whole <= 2 * k:
        return values.topk(k, 1)
    with torch.no_grad():
        peaks = values[:, : whole * GROUP].unflatten(1, (whole, GROUP)).amax(2)
        groups = peaks.topk(k, 1).indices
        inner = torch.arange(GROUP, device=values.device)
        places = (groups[:, :, None] * GROUP + inner).flatten(1)
        tail = torch.arange(whole * GROUP, count, device=values.device).expand(len(values), -1)
        places = torch.cat([places, tail], 1)
    best, order = values.gather(1, places).topk(k, 1)
    return best, places.gather(1, order)
