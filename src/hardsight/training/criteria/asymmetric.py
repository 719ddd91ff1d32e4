"""InfoNCE over any number of views; the first may be adversarial: a positive that pulls less, a negative that repels
more.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.training.criteria.gather import gather, own
from hardsight.training.criteria.pairs import among


class InfoNCE:
    """Each view of an image against all other views of the batch, mean over the positives; V of [B, D] -> [B].

    pull: the share of the attraction between the adversarial view and a clean one that moves the clean one; 1 - pull moves
    the adversarial one, each with the other's gradient stopped (0.5 is symmetric, 0 leaves clean views alone); None: all
    views are equal. weight: of those pairs. hard: how much more weight a negative gets the more similar it is. debias: the
    assumed share of negatives that are of the anchor's own class.

    Source: Yu et al., ECCV 2022 (A-InfoNCE), equations 5 to 8, with Robinson et al., ICLR 2021 for hard negatives; with its
    defaults it is the unlabelled loss of Khosla et al., NeurIPS 2020. differs: the released code of A-InfoNCE divides
    exponentials by the largest one in their row and then compares them with a floor that is meant for undivided ones, and it
    takes the mean weight over all columns, including the positives and the anchor.
    """

    sees = None

    def __init__(
        self, temperature: float, pull: float | None = None, weight: float = 1.0, hard: float = 0.0, debias: float = 0.0
    ) -> None:
        self.temperature = temperature
        self.pull = pull
        self.weight = weight
        self.hard = hard
        self.debias = debias

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        among(online)
        count, views = len(online[0]), len(online)
        z = F.normalize(torch.cat(online), dim=1)
        both = self._chance(z, gather(z), count, views)
        if self.pull is not None:
            one = self._chance(z, gather(z.detach()), count, views)
            mixed = self.weight * (self.pull * one[1:, 0] + (1 - self.pull) * one[0, 1:])
            total = both[1:, 1:].sum((0, 1)) + 2 * mixed.sum(0)
        else:
            total = both.sum((0, 1))
        return -total / (views * (views - 1))

    def _chance(self, z: Tensor, keys: Tensor, count: int, views: int) -> Tensor:
        """[V, V, B]: the log-probability that view a of an image is matched to its view b; 0 where a is b."""
        rows = own(z)
        logits = z @ keys.T / self.temperature
        image = torch.arange(len(keys), device=z.device)
        image = image // len(z) * count + image % count
        same = image[rows][:, None] == image
        itself = torch.zeros_like(same).scatter(1, rows[:, None], True)
        if self.hard or self.debias:
            chance = logits - self._total(logits, same & ~itself, ~same).log()[:, None]
        else:
            chance = logits.masked_fill(itself, -torch.inf).log_softmax(1)
        chance = chance.masked_fill(itself, 0.0)[:, rows]
        return chance.view(views, count, views, count).diagonal(dim1=1, dim2=3)

    def _total(self, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """[V B]: the mean positive plus the weighted, debiased sum of the negatives, as exponentials."""
        exp = logits.exp()
        pos = (exp * positive).sum(1) / positive.sum(1)
        many = negative.sum(1)
        heavy = (self.hard * logits).exp() * negative
        weighted = (heavy * exp).sum(1) / (heavy.sum(1) / many)
        others = (weighted - self.debias * many * pos) / (1 - self.debias)
        return pos + torch.maximum(others, many * math.exp(-1 / self.temperature))
