"""Adversarial fine-tuning with labels: Madry's, fast and free are wrappers of the classifier; TRADES has its own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.classify import ce, kl
from hardsight.losses.objective import against, still
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.adversary import Adversary
from hardsight.training.methods.robust.base import WrappedLearner
from hardsight.training.methods.robust.free import FreeLearner
from hardsight.training.methods.robust.replace import ReplaceLearner
from hardsight.training.methods.supervised import Classifier, Supervised


class TRADESLearner(WrappedLearner):
    """Clean cross-entropy plus `beta` times the KL divergence that an attack raises; inner: a `Classifier`."""

    def __init__(self, inner: Classifier, adversary: Adversary, beta: float) -> None:
        super().__init__(inner)
        self.inner: Classifier = inner
        self.adversary = adversary
        self.beta = beta

    def forward(self, samples: Samples, when: When) -> Step:
        (x,) = self.draw(samples, when)
        net, label = self.inner, samples.target["label"]

        def logits(x: Tensor) -> Tensor:
            return net.classifier(net.encoder(x).pooled).float()

        with torch.no_grad(), still(net):
            clean = logits(x)
        x_adv = self.adversary.on(net, x, against(logits, kl(), target=clean), when)
        calm, moved = logits(torch.cat([x, x_adv])).chunk(2)
        right, firm = ce()(calm, label).mean(), kl()(moved, calm).mean()
        accuracy = (calm.argmax(1) == label).float().mean()
        return Step(right + self.beta * firm, {"accuracy": accuracy, "firm": firm.detach()})


@dataclass(frozen=True)
class Finetuned:
    mode: Literal["madry", "trades", "free", "fast"]
    adversary: Adversary
    beta: float
    replays: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if not data.classes:
            raise SpecError(f"adv_finetune needs labels, and {data.name} has no classes")
        inner = Supervised(self.views).begin(encoder, data, images)
        assert isinstance(inner, Classifier)
        if self.mode == "trades":
            return TRADESLearner(inner, self.adversary, self.beta)
        if self.mode == "free":
            return FreeLearner(inner, self.adversary.threat, 1.0, self.replays, "all", "clamped")
        return ReplaceLearner(inner, self.adversary)


@register
def adv_finetune(
    mode: Literal["madry", "trades", "free", "fast"] = "madry",
    threat: Threat = linf(4 / 255),
    steps: int = 10,
    step: float = 0.25,
    beta: float = 6.0,
    replays: int = 4,
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """Adversarial training with labels of the whole encoder and a linear classifier, from the encoder's own weights.

    madry: cross-entropy of attacked images (Madry et al., ICLR 2018). trades: clean cross-entropy + beta KL(clean,
    attacked), attacked to raise that KL (Zhang et al., ICML 2019). fast: like madry, with one step of 1.25 eps from a random
    start (Wong et al., ICLR 2020). free: each batch `replays` times, each pass updates weights and perturbation, with steps
    of eps (Shafahi et al., NeurIPS 2019). steps, step: of the search of madry and trades, step as a share of eps. differs:
    TRADES starts at a random point of the ball, not at Gaussian noise of 0.001.
    """
    if views.count != 1:
        raise SpecError(f"adv_finetune takes one view per image, and these views are {views.count}; give views(1)")
    if beta < 0 or replays < 1:
        raise SpecError(f"adv_finetune: beta is {beta:g} and replays {replays}; they must be at least 0 and at least 1")
    search = pgd(1, 1.25, keep="last") if mode == "fast" else pgd(steps, step, keep="last")
    return Finetuned(mode, Adversary(search, threat), beta, replays, views)
