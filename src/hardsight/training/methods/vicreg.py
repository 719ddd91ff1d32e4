"""VICReg: views agree, every feature keeps its variance, and different features are uncorrelated."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import pair, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.decorrelate import Regularized
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class VICReg:
    invariance: float
    variance: float
    covariance: float
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths))
        criterion = Regularized(self.invariance, self.variance, self.covariance)
        return Joint(encoder, self.views, criterion, projector)


@register
def vicreg(
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    widths: tuple[int, ...] = (8192, 8192, 8192),
    views: Views = pair(
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=1.0),
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=0.1, solarise=0.2),
    ),
) -> Method:
    """VICReg: invariance, variance and covariance, each with its weight (Bardes et al., ICLR 2022, equation 6).

    widths: of the projector's layers.
    differs: more than two views are accepted; the loss is the mean over their pairs.
    """
    return VICReg(invariance, variance, covariance, widths, views)
