"""SimCLR: two views of an image attract; all others of the batch repel, or only those that seem to be of other classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.contrast import NTXent
from hardsight.training.criteria.negatives.base import Negatives
from hardsight.training.criteria.negatives.detect import all_negatives
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step, mlp
from hardsight.training.methods.joint import Joint, embedded, single


class SupportLearner(Learner):
    """A joint learner whose criterion also gets, once per step, the embeddings of `count` further views of the images.

    They are drawn as the other views are, and embedded at once without a gradient: an adversary does not perturb them, and
    its steps do not embed them again.
    """

    def __init__(self, inner: Joint, count: int) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.views = inner.views
        self.count = count
        self.__dict__["encoder"] = inner.encoder  # not registered as a submodule: it is saved once, as the inner learner's

    def draw(self, samples: Samples, when: When) -> Drawn:
        drawn = self.inner.draw(samples, when)
        more: list[torch.Tensor] = []
        while len(more) < self.count:
            more += [view for view in self.views(samples.x, when) if view.shape == drawn[0].shape]
        with torch.no_grad():
            found = embedded(self.encoder, self.inner.projector, tuple(more[: self.count]))
        self.inner.criterion.support = tuple(single(z) for z in found)
        return drawn

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        return self.inner.read(views, samples, when)

    def after_backward(self, when: When) -> None:
        self.inner.after_backward(when)

    def after_step(self, keep: Any, when: When) -> None:
        self.inner.after_step(keep, when)


@dataclass(frozen=True)
class SimCLR:
    temperature: float
    width: int
    views: Views
    negatives: Negatives

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if self.negatives.needs_labels and not data.classes:
            raise SpecError(f"simclr: these negatives need labels, and {data.name} has no classes")
        projector = mlp((encoder.card.dim, self.width, self.width // 4))
        inner = Joint(
            encoder, self.views, NTXent(self.temperature, self.negatives.begin(images, self.width // 4)), projector
        )
        return SupportLearner(inner, self.negatives.support) if self.negatives.support else inner


@register
def simclr(
    temperature: float = 0.2,
    width: int = 256,
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2),
    negatives: Negatives = all_negatives(),
) -> Method:
    """SimCLR (Chen et al., ICML 2020); width: of the projector's hidden layer, four times its output's.

    negatives: how those that may be false are treated: oracle, fnc, ifnd, glofnd, debiased, hard.
    """
    return SimCLR(temperature, width, views, negatives)
