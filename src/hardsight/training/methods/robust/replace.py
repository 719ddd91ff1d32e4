"""Replace: adversarial views replace the clean ones; Madry et al.'s training, for any method."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.adversary import Adversary, adversary
from hardsight.training.methods.robust.base import WrappedLearner, begin


class ReplaceLearner(WrappedLearner):
    def __init__(self, inner: Learner, adversary: Adversary) -> None:
        super().__init__(inner)
        self.adversary = adversary

    def forward(self, samples: Samples, when: When) -> Step:
        views = self.draw(samples, when)
        moved = self.adversary(self.inner, views, lambda v: self.inner.read(v, samples, when).loss, when)
        step = self.inner.read(moved, samples, when)
        return step._replace(loss=step.loss.mean())


@dataclass(frozen=True)
class Replace:
    method: Method
    adversary: Adversary

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        return ReplaceLearner(begin("replace", self.method, encoder, data, images), self.adversary)


@register
def replace(method: Method, adversary: Adversary = adversary()) -> Method:
    """Adversarial training of a method: it trains only on attacked views, which are attacked to raise its own loss."""
    return Replace(method, adversary)
