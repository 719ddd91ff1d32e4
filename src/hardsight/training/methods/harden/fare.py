"""FARE: an attacked image is embedded where the frozen encoder embeds the clean one; no label, no text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.embed import distance, far_l2
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary


class FareLearner(HardeningLearner):
    """clean: weight of the clean images' distance."""

    def __init__(self, encoder: Encoder, views: Views, adversary: Adversary, clean: float) -> None:
        super().__init__(encoder, views, adversary)
        self.clean = clean

    def forward(self, samples: Samples, when: When) -> Step:
        (x,) = self.draw(samples, when)
        wanted = self.teacher_features(x)
        x_adv = self.attack(x, far_l2(), wanted, when)
        if not self.clean:
            moved = distance(self.encoder(x_adv).pooled, wanted).mean()
            return Step(moved, {"moved": moved.detach()})
        calm, firm = self.encoder(torch.cat([x, x_adv])).pooled.chunk(2)
        near, moved = distance(calm, wanted).mean(), distance(firm, wanted).mean()
        return Step(moved + self.clean * near, {"moved": moved.detach(), "near": near.detach()})


@dataclass(frozen=True)
class Fare:
    adversary: Adversary
    clean: float
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        return FareLearner(encoder, self.views, self.adversary, self.clean)


@register
def fare(
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(4 / 255)),
    clean: float = 0.0,
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """FARE (Schlarmann et al., ICML 2024): |S(x') - T(x)|^2, where x' moves S(x') away from T(x); equation 3.

    clean: weight of an additional term |S(x) - T(x)|^2, which the paper does not have. differs: the released search has a
    momentum of 0.9, over the signs of gradients; this one has none.
    """
    if clean < 0:
        raise SpecError(f"fare: clean is {clean:g}; it must be at least 0")
    return Fare(adversary, clean, views)
