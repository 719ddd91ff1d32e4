"""SimSiam: a predictor predicts the network's own output for the other view, with the gradient of that side stopped."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.predict import Aligned
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class SimSiam:
    widths: tuple[int, ...]
    predictor: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), last_norm=True, bias=False)
        predictor = mlp((self.widths[-1], self.predictor, self.widths[-1]))
        return Joint(encoder, self.views, Aligned(), projector, predictor, stop=True)


@register
def simsiam(
    widths: tuple[int, ...] = (2048, 2048, 2048),
    predictor: int = 512,
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8, blur=0.5),
) -> Method:
    """SimSiam: -cos(predictor(z), stopped z') in both directions (Chen and He, CVPR 2021, equation 2).

    widths, predictor: of the projector's layers and the predictor's hidden layer. differs: the learning rate of the
    predictor follows the run's schedule, where the authors' is constant.
    """
    return SimSiam(widths, predictor, views)
