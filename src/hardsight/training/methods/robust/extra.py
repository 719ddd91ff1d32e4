"""Extra: an adversarial view is added to the clean ones as one more positive; RoCL's training, for any method."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch

from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step
from hardsight.training.methods.robust.adversary import Adversary, adversary, attacked
from hardsight.training.methods.robust.base import WrappedLearner, begin, refuse


class ExtraLearner(WrappedLearner):
    def __init__(self, inner: Learner, adversary: Adversary, by: Literal["together", "pairs"], again: float) -> None:
        super().__init__(inner)
        self.adversary = adversary
        self.by = by
        self.again = again

    def forward(self, samples: Samples, when: When) -> Step:
        views = self.draw(samples, when)
        part = attacked(views, self.adversary.which)
        moved = self.adversary(self.inner, views, lambda v: self.inner.read(v, samples, when).loss, when)
        large = attacked(views, "all").stop
        step = self._read((*views[:large], *moved[part], *views[large:]), samples, when)
        loss = step.loss.mean()
        if self.again:
            loss = loss + self.again * self.inner.read(moved, samples, when).loss.mean()
        return step._replace(loss=loss)

    def _read(self, views: Drawn, samples: Samples, when: When) -> Step:
        if self.by == "together":
            return self.inner.read(views, samples, when)
        steps = [self.inner.read(pair, samples, when) for pair in itertools.combinations(views, 2)]
        return steps[0]._replace(loss=torch.stack([step.loss for step in steps]).mean(0))


@dataclass(frozen=True)
class Extra:
    method: Method
    adversary: Adversary
    by: Literal["together", "pairs"]
    again: float

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        inner = begin("extra", self.method, encoder, data, images)
        if self.by == "together":
            more = inner.views.count if self.adversary.which == "all" else 1
            hint = "; by=pairs gives them two by two" if inner.sees == 2 else ""
            refuse("extra", self.method, inner.views.count + more, inner, hint)
        else:
            refuse("extra", self.method, 2, inner)
        return ExtraLearner(inner, self.adversary, self.by, self.again)


@register
def extra(
    method: Method,
    adversary: Adversary = adversary(which="first"),
    by: Literal["together", "pairs"] = "together",
    again: float = 0.0,
) -> Method:
    """An adversarial view in addition to the clean ones: an attacked copy, moved away from the others, is one more positive.

    by: the method gets all views together or, if it takes two, the mean over all of their pairs is taken. again: weight of
    an additional loss of the attacked view and those it was attacked against.

    Source: Kim et al., NeurIPS 2020 (RoCL), equations 5 to 7. What a method stores after a step (keys, centres) is from its
    first loss.
    """
    return Extra(method, adversary, by, again)
