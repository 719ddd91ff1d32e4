"""BYOL: a predictor predicts the output of a momentum network for the other view."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import pair, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, rising
from hardsight.training.criteria.predict import Regressed
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class BYOL:
    widths: tuple[int, ...]
    predictor: int
    momentum: Schedule
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths))
        predictor = mlp((self.widths[-1], self.predictor, self.widths[-1]))
        return Joint(encoder, self.views, Regressed(), projector, predictor, self.momentum)


@register
def byol(
    widths: tuple[int, ...] = (4096, 256),
    predictor: int = 4096,
    momentum: Schedule = rising(0.996, 1.0),
    views: Views = pair(
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=1.0),
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=0.1, solarise=0.2),
    ),
) -> Method:
    """BYOL: 2 - 2 cos(predictor(z), momentum z') in both directions (Grill et al., NeurIPS 2020, equation 2).

    widths, predictor: of the projector's layers and the predictor's hidden layer.
    """
    return BYOL(widths, predictor, momentum, views)
