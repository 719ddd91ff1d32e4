"""Barlow Twins: the cross-correlation matrix of two views' features is driven towards the identity."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import pair, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.decorrelate import CrossCorrelation
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class Barlow:
    weight: float
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), bias=False)
        return Joint(encoder, self.views, CrossCorrelation(self.weight), projector)


@register
def barlow(
    weight: float = 0.0051,
    widths: tuple[int, ...] = (8192, 8192, 8192),
    views: Views = pair(
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=1.0),
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=0.1, solarise=0.2),
    ),
) -> Method:
    """Barlow Twins: drives two views' cross-correlation matrix to the identity (Zbontar et al., ICML 2021, equation 1).

    weight: of the matrix's off-diagonal terms. widths: of the projector's layers.
    differs: more than two views are accepted; the loss is the mean over their pairs.
    """
    return Barlow(weight, widths, views)
