"""AIR: ACL, with an image's similarity to the others in the batch made invariant to augmentation and attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views, whole
from hardsight.data.views.plans import fading
from hardsight.encoders.base import Encoder
from hardsight.encoders.norms import Norms, norm_as
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, constant, stairs
from hardsight.training.criteria.contrast import NTXent
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step, mlp
from hardsight.training.methods.joint import Joint, embedded, single
from hardsight.training.methods.robust.adversary import Adversary, adversary
from hardsight.training.methods.robust.base import WrappedLearner

Mode = Literal["corrected", "official"]


class AIRLearner(WrappedLearner):
    """The original image uses the clean batch norms, as the clean views do."""

    inner: Joint

    def __init__(
        self, inner: Joint, adversary: Adversary, share: Schedule, standard: float, robust: float, mode: Mode
    ) -> None:
        super().__init__(inner)
        self.adversary = adversary
        self.share = share
        self.standard = standard
        self.robust = robust
        self.mode: Mode = mode
        self.norms = Norms(inner)

    def forward(self, samples: Samples, when: When) -> Step:
        views = self.draw(samples, when)
        with norm_as(self.norms, "adversarial"):
            moved = self.adversary(self, views, lambda v: self.inner.read(v, samples, when).loss, when)
            hard = self._embed(moved)
        with norm_as(self.norms, "clean"):
            calm = self._embed(views)
            (original,) = self._embed((whole(samples.x),))
        share = self.share(when)
        style = [self._alike(z, original) for z in calm]
        attack = [self._alike(z, original) * self._alike(z, clean) for z, clean in zip(hard, calm, strict=True)]
        losses = {
            "clean": self.inner.criterion(calm, None, None, samples.places).mean(),
            "adversarial": self.inner.criterion(hard, None, None, samples.places).mean(),
            "standard": kl_sum(style[0], style[1], self.mode),
            "robust": kl_sum(attack[0], attack[1], self.mode),
        }
        loss = 2 * ((1 - share) * losses["clean"] + share * losses["adversarial"])
        loss = loss + self.standard * losses["standard"] + self.robust * losses["robust"]
        return Step(loss, {name: one.detach() for name, one in losses.items()})

    def _alike(self, z: Tensor, other: Tensor) -> Tensor:
        return alike(z, other, self.inner.criterion.temperature)

    def _embed(self, views: Drawn) -> Drawn:
        return tuple(single(z) for z in embedded(self.inner.encoder, self.inner.projector, views))


def alike(z: Tensor, other: Tensor, temperature: float) -> Tensor:
    """[B]: the softmax, over the images of the batch, of each one's cosine with its own other embedding."""
    return (F.cosine_similarity(z, other, dim=1) / temperature).softmax(0)


def kl_sum(one: Tensor, two: Tensor, mode: Mode) -> Tensor:
    """The divergence sum of two (log two - log one); official: `one` without its logarithm."""
    return (two * (two.log() - (one.log() if mode == "corrected" else one))).sum()


@dataclass(frozen=True)
class AIR:
    temperature: float
    widths: tuple[int, ...]
    share: Schedule
    standard: float
    robust: float
    mode: Mode
    adversary: Adversary
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), last_norm=True)
        inner = Joint(encoder, self.views, NTXent(self.temperature), projector)
        return AIRLearner(inner, self.adversary, self.share, self.standard, self.robust, self.mode)


@register
def air(
    standard: float = 0.5,
    robust: float = 0.5,
    mode: Literal["corrected", "official"] = "corrected",
    temperature: float = 0.5,
    share: Schedule | float = stairs(0.5, 5 / 6, 20),
    widths: tuple[int, ...] = (512, 512, 512),
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = fading(views(2, scale=(0.1, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8), stairs(1.0, 0.0, 20)),
) -> Method:
    """DynACL with AIR (Xu et al., NeurIPS 2023): clean views, and attacked ones, are made invariant to style and attack.

    standard, robust: weights of the two invariance terms. share: of the adversarial contrast, as in `dynacl`.
    mode="official": the divergence's first argument is a probability where its logarithm is needed, so that it is not zero
    for equal distributions. The paper's run: as ACL's, batch 512, 1000 epochs.

    Source: GodXuxilie/Enhancing_ACL_via_AIR, AIR.py and pretraining.py.
    """
    drawn = constant(share) if isinstance(share, int | float) else share
    return AIR(temperature, widths, drawn, standard, robust, mode, adversary, views)
