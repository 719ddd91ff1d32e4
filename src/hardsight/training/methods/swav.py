"""SwAV: from every view, large or small, predict the prototypes that the large views were assigned to."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import multicrop
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.cluster import Swapped
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class SwAV:
    prototypes: int
    temperature: float
    eps: float
    rounds: int
    queue: int
    targets: int
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths))
        criterion = Swapped(
            self.widths[-1], self.prototypes, self.temperature, self.eps, self.rounds, self.queue, self.targets
        )
        return Joint(encoder, self.views, criterion, projector, stop=True, first=self.targets, late=criterion.prototypes)


@register
def swav(
    prototypes: int = 3000,
    temperature: float = 0.1,
    eps: float = 0.05,
    rounds: int = 3,
    queue: int = 0,
    targets: int = 2,
    widths: tuple[int, ...] = (2048, 128),
    views: Views = multicrop(
        2,
        6,
        sizes=(224, 96),
        scales=((0.14, 1.0), (0.05, 0.14)),
        jitter=0.8,
        hue=0.2,
        grey=0.2,
        prob=0.8,
        blur=(0.5, 0.5, 0.5),
        solarise=(0.0, 0.0, 0.0),
    ),
) -> Method:
    """SwAV: swapped prediction of codes that are balanced by Sinkhorn (Caron et al., NeurIPS 2020, equations 1 to 5).

    targets: from how many views, the first ones, codes are computed. eps, rounds: Sinkhorn's. queue: earlier embeddings per
    target view that help to balance the codes of a small batch (3840 in the paper). widths: of the projector. The prototypes
    are frozen in the first epoch. differs: a queue is filled from the first step and used once full, where the authors'
    starts at epoch 15.
    """
    return SwAV(prototypes, temperature, eps, rounds, queue, targets, widths, views)
