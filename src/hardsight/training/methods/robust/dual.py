"""Dual: clean and adversarial views, each with its own batch norms; ACL's dual stream, for any method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.encoders.norms import Norms, norm_as
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, constant
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.joint import Joint, follow
from hardsight.training.methods.robust.adversary import Adversary, adversary
from hardsight.training.methods.robust.base import WrappedLearner, begin


class DualLearner(WrappedLearner):
    """Every batch norm exists twice, also in projectors and momentum networks; `norm` is the set in the exported encoder."""

    def __init__(self, inner: Learner, adversary: Adversary, share: Schedule, norm: Literal["adversarial", "clean"]) -> None:
        super().__init__(inner)
        self.adversary = adversary
        self.share = share
        self.norms = Norms(inner, norm, ("clean" if norm == "adversarial" else "adversarial",))

    def forward(self, samples: Samples, when: When) -> Step:
        views = self.draw(samples, when)
        with norm_as(self.norms, "adversarial"):
            moved = self.adversary(self, views, lambda v: self.inner.read(v, samples, when).loss, when)
            hard = self.inner.read(moved, samples, when)
        with norm_as(self.norms, "clean"):
            calm = self.inner.read(views, samples, when)
        share = self.share(when)
        loss = (1 - share) * calm.loss.mean() + share * hard.loss.mean()
        losses = {"clean": calm.loss, "adversarial": hard.loss}
        return Step(loss, {**calm.logs, **{name: one.detach().mean() for name, one in losses.items()}}, calm.keep)

    def after_step(self, keep: Any, when: When) -> None:
        super().after_step(keep, when)
        if isinstance(self.inner, Joint) and self.inner.slow is not None and self.inner.momentum is not None:
            share = self.inner.momentum(when)
            for slow, fast in (("slow.0", "encoder"), ("slow.1", "projector")):
                for one, other in zip(self.norms.under(slow), self.norms.under(fast), strict=True):
                    follow(one, other, share)


@dataclass(frozen=True)
class Dual:
    method: Method
    adversary: Adversary
    share: Schedule
    norm: Literal["adversarial", "clean"]

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        return DualLearner(begin("dual", self.method, encoder, data, images), self.adversary, self.share, self.norm)


@register
def dual(
    method: Method,
    adversary: Adversary = adversary(),
    share: Schedule | float = 0.5,
    norm: Literal["adversarial", "clean"] = "adversarial",
) -> Method:
    """Two streams: (1 - share) of the method's loss on clean views plus share of that on attacked ones, two batch norms.

    The attack and the loss on attacked views use the adversarial set. norm: the set that the exported encoder has, as an
    ordinary encoder; the other set stays in the checkpoint. What a method stores (keys, centres) is the clean stream's.

    Source: Jiang et al., NeurIPS 2020 (ACL, dual stream), whose released code takes half of each loss, finetunes the
    adversarial set for robustness (bnNameCnt 1) and the clean one for pseudo-labels (bnNameCnt 0).
    """
    return Dual(method, adversary, constant(share) if isinstance(share, int | float) else share, norm)
