"""SupCon: all views of one class attract, all others of the batch repel; SimCLR with labels."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.core.errors import SpecError
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.contrast import SupCon as Criterion
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class SupCon:
    temperature: float
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if not data.classes:
            raise SpecError(f"supcon needs labels, and {data.name} has no classes")
        projector = mlp((encoder.card.dim, *self.widths), norm=False)
        return Joint(encoder, self.views, Criterion(self.temperature), projector)


@register
def supcon(
    temperature: float = 0.1,
    widths: tuple[int, ...] = (2048, 128),
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8),
) -> Method:
    """SupCon: supervised contrastive learning (Khosla et al., NeurIPS 2020, equation 2), of any number of views.

    widths: of the projector's layers. differs: the authors' code multiplies the loss by temperature / 0.07.
    """
    return SupCon(temperature, widths, views)
