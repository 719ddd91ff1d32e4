"""Supervised training: cross-entropy of a linear classifier on the pooled features of one random view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.methods.base import Method, Step


@dataclass(frozen=True)
class Supervised:
    views: Views

    def parts(self, encoder: Encoder, data: DataCard) -> nn.Module:
        return nn.Linear(encoder.card.dim, len(data.classes))

    def step(self, encoder: Encoder, parts: nn.Module, x: Tensor, label: Tensor, rng: torch.Generator) -> Step:
        logits = parts(encoder(self.views(x, rng)).pooled)
        return Step(F.cross_entropy(logits, label), {"accuracy": float((logits.argmax(1) == label).float().mean())})


@register
def supervised(least: float = 0.5, jitter: float = 0.2, flip: bool = True) -> Method:
    """Cross-entropy with labels; least: the least share of the area in a crop, jitter: the greatest change of colour.

    flip: whether views are mirrored at random; not where left and right are classes.
    """
    return Supervised(Views(scale=(least, 1.0), jitter=jitter, grey=0.0, flip=flip))
