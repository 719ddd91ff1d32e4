"""Contrastive criteria: views of one image, or of one class, against all others in the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.training.criteria.base import need_labels
from hardsight.training.criteria.gather import gather, own
from hardsight.training.criteria.negatives.base import Treatment, loss_of, pair_up, shares, tally
from hardsight.training.criteria.negatives.detect import all_negatives
from hardsight.training.criteria.pairs import among, mean


def nt_xent(one: Tensor, two: Tensor, temperature: float = 0.2) -> Tensor:
    """The normalized temperature-scaled cross-entropy of 2B views, each against 2B - 1 others; one and two [B, D] -> [B].

    Source: Chen et al., ICML 2020 (SimCLR), equation 1, averaged over both directions of each pair.
    """
    z = F.normalize(torch.cat([one, two]), dim=1)
    rows = own(z)
    alike = (z @ gather(z).T / temperature).scatter(1, rows[:, None], -torch.inf)
    return F.cross_entropy(alike, rows.roll(len(one)), reduction="none").view(2, len(one)).mean(0)


class NTXent(nn.Module):
    """`nt_xent` as a criterion, one value per image: the mean over both directions of a pair, and over all pairs of views.

    treatment: of negatives that may be false (`criteria/negatives`). support: embeddings of further views of the images,
    each [B, D], set by the learner that draws them, for a treatment that uses them. `logs` and `remember` refer to the last
    call.
    """

    sees = None

    def __init__(self, temperature: float, treatment: Treatment | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.treatment: Any = treatment or all_negatives().begin(0, 0)
        self.support: tuple[Tensor, ...] = ()
        self.counts: Tensor | None = None
        self.noticed: tuple[Tensor, Tensor] | None = None

    def forward(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        support = torch.stack([F.normalize(z.detach(), dim=1) for z in self.support]) if self.support else None
        losses, counts, noticed = [], [], []
        for one, two in among(tuple(F.normalize(z, dim=1) for z in online)):
            pairs = pair_up(one, two, self.temperature, label, places, support)
            treated = self.treatment(pairs)
            losses.append(loss_of(pairs, treated))
            counts.append(tally(pairs, treated))
            if hasattr(self.treatment, "notice"):
                noticed.append(self.treatment.notice(pairs))
        self.counts = None if label is None else torch.stack(counts).sum(0)
        self.noticed = (places.to(losses[0].device), mean(noticed)) if noticed else None
        return mean(losses)

    def logs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The rate of false negatives, and how well they were detected; empty where there are no labels."""
        return {} if self.counts is None else shares(self.counts)

    def remember(self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor] | None:
        return self.noticed

    def keep(self, kept: tuple[Tensor, Tensor]) -> None:
        self.treatment.keep(*kept)


def sup_con(views: tuple[Tensor, ...], label: Tensor, temperature: float = 0.1) -> Tensor:
    """Each view's mean cross-entropy over all other views of its class, each against all other views; V of [B, D] -> [B].

    Source: Khosla et al., NeurIPS 2020, equation 2 (the sum outside of the logarithm). With labels that all differ and two
    views it equals `nt_xent`. differs: HobbitLong/SupContrast multiplies it by temperature / 0.07.
    """
    z = F.normalize(torch.cat(views), dim=1)
    labels = label.repeat(len(views))
    itself = own(z)[:, None]
    chance = (z @ gather(z).T / temperature).scatter(1, itself, -torch.inf).log_softmax(1)
    same = (labels[:, None] == gather(labels)).scatter(1, itself, False)
    loss = -chance.where(same, 0).sum(1) / same.sum(1)
    return loss.view(len(views), -1).mean(0)


class SupCon:
    """`sup_con` as a criterion for labelled images, with any number of views."""

    sees = None

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        among(online)
        return sup_con(online, need_labels(label, "SupCon"), self.temperature)
