"""SimCLR: two views of an image attract, all others of the batch repel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.criteria.contrast import nt_xent
from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.methods.base import Method, Step, mlp


@dataclass(frozen=True)
class SimCLR:
    temperature: float
    width: int
    views: Views

    def parts(self, encoder: Encoder, data: DataCard) -> nn.Module:
        return mlp((encoder.card.dim, self.width, self.width // 4))

    def step(self, encoder: Encoder, parts: nn.Module, x: Tensor, label: Tensor, rng: torch.Generator) -> Step:
        both = torch.cat([self.views(x, rng), self.views(x, rng)])
        one, two = parts(encoder(both).pooled).chunk(2)
        return Step(nt_xent(one, two, self.temperature), {})


@register
def simclr(
    temperature: float = 0.2,
    width: int = 256,
    least: float = 0.2,
    jitter: float = 0.4,
    hue: float = 0.1,
    grey: float = 0.2,
) -> Method:
    """SimCLR (Chen et al., ICML 2020).

    least: the least share of the area in a crop. jitter: the greatest change of brightness, contrast and saturation; hue: of
    the colours' angle, as a share of the circle. grey: the share of views without colour. differs: no blur.
    """
    return SimCLR(temperature, width, Views(scale=(least, 1.0), jitter=jitter, hue=hue, grey=grey))
