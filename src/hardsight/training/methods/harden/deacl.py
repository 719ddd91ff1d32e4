"""DeACL: hardens a pretrained encoder by distilling it into a copy whose features stay the same under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.embed import far_cosine
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary


class DeACLLearner(HardeningLearner):
    """weight: of the `firm` term, the cosine of attacked and clean features."""

    def __init__(self, encoder: Encoder, views: Views, adversary: Adversary, weight: float) -> None:
        super().__init__(encoder, views, adversary)
        self.weight = weight

    def forward(self, samples: Samples, when: When) -> Step:
        (x,) = self.draw(samples, when)
        wanted = self.teacher_features(x)
        x_adv = self.attack(x, far_cosine(), wanted, when)
        clean, moved = self.encoder(torch.cat([x, x_adv])).pooled.float().chunk(2)
        near = F.cosine_similarity(clean, wanted).mean()
        firm = F.cosine_similarity(moved, clean).mean()
        return Step(-near - self.weight * firm, {"near": near.detach(), "firm": firm.detach()})


@dataclass(frozen=True)
class DeACL:
    adversary: Adversary
    weight: float
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        return DeACLLearner(encoder, self.views, self.adversary, self.weight)


@register
def deacl(
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    weight: float = 2.0,
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """DeACL (Zhang et al., ECCV 2022): -cos(S(x), T(x)) - weight cos(S(x'), S(x)), where x' moves S(x') away from T(x).

    The student starts as the pretrained encoder, and the teacher is that encoder, frozen. differs: the inner attack runs in
    eval mode with frozen batch norm, and changes no weight's gradient.
    """
    return DeACL(adversary, weight, views)
