"""A weighted k-nearest-neighbour head: nothing is trained, the features of the training images are its buffers.

Source: Wu et al., CVPR 2018, section 3.4, with k = 20 and temperature 0.07 of DINO's evaluation (Caron et al., ICCV 2021):
the k images of the bank with the highest cosine similarity vote for their class with weight exp(cosine / temperature).
If all k neighbours are of one class, the vote is constant and its gradient zero, so an attack could not make progress.
differs: a class without a vote is scored by its most similar image. Its weight is at most that of any voter, so the
predicted class is the same, and the score of every class has a gradient to the pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import DataError
from hardsight.encoders.base import Features

GROUP = 64
"""Group size: the k most similar images are in the k groups with the greatest maxima, so only those need to be searched."""
AT_ONCE = 2**24
"""Number of cosine similarities held in memory at once if no gradient is needed."""


class KnnHead(nn.Module):
    """Features -> logits [B, K], the logarithms of the classes' votes.

    bank [N, D]: features of unit norm, sorted by class; ends [K]: end index of each class. Both are empty until `fill`.
    """

    bank: Tensor
    ends: Tensor

    def __init__(self, dim: int, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.k, self.temperature = k, temperature
        self.register_buffer("bank", torch.zeros(0, dim))
        self.register_buffer("ends", torch.zeros(classes, dtype=torch.int64))

    def fill(self, pooled: Tensor, label: Tensor) -> None:
        """Stores features [N, D] with labels [N] as the bank; `DataError` if N < k or a label is not the id of a class."""
        if len(pooled) < self.k:
            raise DataError(
                f"knn needs {self.k} neighbours, its bank has {len(pooled)} images; use more, or classify(head=knn, k=...)"
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
        similarity = x @ self.bank.T
        ends = self.ends.tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        nothing = similarity.new_full((len(x),), -2.0)  # below every cosine, for a class without images in the bank
        nearest = torch.stack([similarity[:, a:b].amax(1) if b > a else nothing for a, b in spans], 1) / self.temperature
        best, places = _greatest(similarity, self.k)
        classes = torch.searchsorted(self.ends, places, right=True)
        best = best / self.temperature
        peak = best[:, :1].detach()
        votes = torch.zeros_like(nearest).scatter_add(1, classes, (best - peak).exp())
        logits = torch.where(votes > 0, votes.clamp_min(torch.finfo(votes.dtype).tiny).log(), nearest - peak)
        return logits - (best - peak).logsumexp(1, keepdim=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (bank := state_dict.get(f"{prefix}bank")) is not None and bank.shape[1:] == self.bank.shape[1:]:
            self.bank = self.bank.new_empty(bank.shape)  # of the length of the loaded bank
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _greatest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest values of each row [B, N], descending, and their indices: the result of `topk`, faster."""
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
