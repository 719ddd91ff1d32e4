"""TeCoA without text: attacked images are classified by the frozen encoder's class means of the clean training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.feed import choose, load, pixels
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.classify import ce
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step, need
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary

BATCH = 256


class Prototypes(nn.Module):
    """Features [B, D] -> logits [B, K]: the cosine with each class's mean, over a temperature, both minus the mean of all.

    The mean of all is subtracted because features that are never negative are all similar otherwise.
    """

    means: Tensor
    centre: Tensor
    found: Tensor

    def __init__(self, dim: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("means", torch.zeros(classes, dim))
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("found", torch.zeros(classes))

    def find(self, pooled: Tensor, label: Tensor) -> None:
        """Sets the means to those of features pooled [N, D] with labels [N]."""
        self.centre.copy_(pooled.mean(0))
        self.found.copy_(torch.bincount(label, minlength=len(self.means)))
        sums = torch.zeros_like(self.means).index_add_(0, label, pooled - self.centre)
        self.means.copy_(sums / self.found.clamp_min(1)[:, None])

    def forward(self, pooled: Tensor) -> Tensor:
        need(self, self.found.any, "tecoa: there are no prototypes yet; call the learner's `prepare` before the first step")
        return F.normalize(pooled - self.centre, dim=1) @ F.normalize(self.means, dim=1).T / self.temperature


class TeCoALearner(HardeningLearner):
    """images: how many the prototypes are computed from."""

    def __init__(self, encoder: Encoder, views: Views, adversary: Adversary, prototypes: Prototypes, images: int) -> None:
        super().__init__(encoder, views, adversary)
        self.prototypes = prototypes
        self.images = images

    @torch.no_grad()
    def prepare(self, images: Images) -> None:
        device, places = self.encoder.mean.device, choose(images, self.images)
        pooled, labels = [], []
        for start in range(0, len(places), BATCH):
            batch = load(images, places[start : start + BATCH])
            pooled.append(self.teacher_features(pixels(batch.images, device)))
            labels.append(batch.target["label"].to(device))
        self.prototypes.find(torch.cat(pooled), torch.cat(labels))

    def forward(self, samples: Samples, when: When) -> Step:
        (x,) = self.draw(samples, when)
        label = samples.target["label"]
        x_adv = self.attack(x, ce(), label, when, self.prototypes)
        logits = self.prototypes(self.encoder(x_adv).pooled.float())
        return Step(F.cross_entropy(logits, label), {"accuracy": (logits.argmax(1) == label).float().mean()})


@dataclass(frozen=True)
class TeCoA:
    adversary: Adversary
    temperature: float
    images: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if not data.classes:
            raise SpecError(f"tecoa needs labels, and {data.name} has no classes; fare and multitask need none")
        prototypes = Prototypes(encoder.card.dim, len(data.classes), self.temperature)
        return TeCoALearner(encoder, self.views, self.adversary, prototypes, self.images)


@register
def tecoa(
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(4 / 255)),
    temperature: float = 0.1,
    images: int = 10000,
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """Like TeCoA (Mao et al., ICLR 2023): cross-entropy of attacked images against fixed class embeddings.

    images: maximum number of training images for the class embeddings. differs: a class embedding is the mean of the frozen
    encoder's features of its images, where theirs is the text encoder's output for its name, at a temperature of 0.01.
    """
    if temperature <= 0 or images < 1:
        raise SpecError(f"tecoa: temperature is {temperature:g} and images {images}; both must be above 0")
    return TeCoA(adversary, temperature, images, views)
