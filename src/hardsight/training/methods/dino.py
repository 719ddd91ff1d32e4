"""DINO: every view, large or small, matches the distribution that a momentum network gives for the large views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import multicrop
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, ramp, rising
from hardsight.training.criteria.distill import Centred
from hardsight.training.methods.base import Learner, Method
from hardsight.training.methods.joint import Joint


class Directions(nn.Module):
    """Cosines [B, K] of embeddings [B, D] with K learned directions: a weight-normalized layer whose lengths stay 1."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))


def head(dim: int, widths: tuple[int, ...], count: int) -> nn.Sequential:
    """Linear layers with GELU between them, then `Directions`."""
    layers: list[nn.Module] = []
    for wide, next_wide in zip((dim, *widths), widths, strict=False):
        layer = nn.Linear(wide, next_wide)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        layers += [nn.GELU()] * bool(layers) + [layer]
    return nn.Sequential(*layers, Directions(widths[-1], count))


@dataclass(frozen=True)
class DINO:
    outputs: int
    temperature: float
    sharpness: Schedule
    centre: float
    momentum: Schedule
    targets: int
    resting: int
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = head(encoder.card.dim, self.widths, self.outputs)
        criterion = Centred(self.outputs, self.temperature, self.sharpness, self.centre)
        return Joint(
            encoder, self.views, criterion, projector, momentum=self.momentum, first=self.targets,
            late=projector[-1], resting=self.resting,
        )  # fmt: skip


@register
def dino(
    outputs: int = 65536,
    temperature: float = 0.1,
    sharpness: Schedule = ramp(0.04, 0.07, 30),
    centre: float = 0.9,
    momentum: Schedule = rising(0.996, 1.0),
    targets: int = 2,
    resting: int = 1,
    widths: tuple[int, ...] = (2048, 2048, 256),
    views: Views = multicrop(2, 8, sizes=(224, 96), scales=((0.4, 1.0), (0.05, 0.4))),
) -> Method:
    """DINO: the cross-entropy with a momentum network's centred and sharpened output (Caron et al., ICCV 2021, algorithm 1).

    temperature: of the network; sharpness: the momentum network's temperature. centre: how much of it is kept in a step.
    targets: how many views, the first ones, the momentum network gets. resting: epochs in which the last layer is frozen.
    widths: of the projector, before the last layer. differs: position embeddings are the encoder's own, and the momentum
    network keeps the encoder's dropout.
    """
    return DINO(outputs, temperature, sharpness, centre, momentum, targets, resting, widths, views)
