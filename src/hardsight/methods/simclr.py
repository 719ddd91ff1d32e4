"""SimCLR: two views of an image attract, all others of the batch repel."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.catalog import register
from hardsight.criteria.contrast import NTXent
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.methods.base import Learner, Method, mlp
from hardsight.methods.joint import Joint


@dataclass(frozen=True)
class SimCLR:
    temperature: float
    width: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, self.width, self.width // 4))
        return Joint(encoder, self.views, NTXent(self.temperature), projector)


@register
def simclr(
    temperature: float = 0.2,
    width: int = 256,
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2),
) -> Method:
    """SimCLR (Chen et al., ICML 2020); width: of the projector's hidden layer, four times its output's."""
    return SimCLR(temperature, width, views)
