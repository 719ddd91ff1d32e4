"""Supervised training: cross-entropy of a linear classifier on the pooled features of random views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step
from hardsight.training.methods.joint import through


class Classifier(Learner):
    def __init__(self, encoder: Encoder, views: Views, classes: int) -> None:
        super().__init__(encoder, views)
        self.classifier = nn.Linear(encoder.card.dim, classes)

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        label = samples.target["label"]
        found = through(lambda x: self.classifier(self.encoder(x).pooled), views)
        loss = torch.stack([F.cross_entropy(logits, label, reduction="none") for logits in found]).mean(0)
        return Step(loss, {"accuracy": (found[0].argmax(1) == label).float().mean()})


@dataclass(frozen=True)
class Supervised:
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if not data.classes:
            raise SpecError(f"supervised needs labels, and {data.name} has no classes")
        return Classifier(encoder, self.views, len(data.classes))


@register
def supervised(views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0)) -> Method:
    """Cross-entropy with labels, on one random view per image or the mean over several."""
    return Supervised(views)
