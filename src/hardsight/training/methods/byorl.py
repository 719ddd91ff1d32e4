"""BYORL: BYOL whose online network gets attacked views, while its target network gets the clean ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step
from hardsight.training.methods.byol import byol
from hardsight.training.methods.joint import Joint, embedded, single, through
from hardsight.training.methods.robust.adversary import Adversary, adversary
from hardsight.training.methods.robust.base import WrappedLearner, begin, name_of


class BYORLLearner(WrappedLearner):
    """The target, the momentum network's output for clean views, is fixed; the attack raises the distance to it."""

    inner: Joint

    def __init__(self, inner: Joint, adversary: Adversary) -> None:
        super().__init__(inner)
        self.adversary = adversary

    def forward(self, samples: Samples, when: When) -> Step:
        assert self.inner.slow is not None
        views = self.draw(samples, when)
        with torch.no_grad():
            found = embedded(self.inner.slow[0], self.inner.slow[1], views[: self.inner.first])
            target = tuple(single(z) for z in found)
        moved = self.adversary(self.inner, views, lambda v: self._read(v, target, samples).loss, when)
        step = self._read(moved, target, samples)
        return step._replace(loss=step.loss.mean())

    def _read(self, views: Drawn, target: Drawn, samples: Samples) -> Step:
        online = embedded(self.inner.encoder, self.inner.projector, views)
        if self.inner.predictor is not None:
            online = through(self.inner.predictor, online)
        online = tuple(single(z) for z in online)
        return Step(self.inner.criterion(online, target, samples.target.get("label"), samples.places), {})


@dataclass(frozen=True)
class BYORL:
    method: Method
    adversary: Adversary

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        inner = begin("byorl", self.method, encoder, data, images)
        if not isinstance(inner, Joint) or inner.slow is None:
            raise SpecError(
                f"byorl needs a method with a momentum network, such as byol, and {name_of(self.method)} has none"
            )
        return BYORLLearner(inner, self.adversary)


@register
def byorl(
    method: Method = byol(),
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(8 / 255)),
) -> Method:
    """BYORL (Gowal et al., ICLR 2021): BYOL's loss, online network on attacked views, momentum network on clean views.

    The attack raises that loss. The paper has Linf at 8/255 and L2 at 128/255; no code was released, and the number of steps
    is our choice.
    """
    return BYORL(method, adversary)
