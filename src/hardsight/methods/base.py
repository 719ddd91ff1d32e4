"""What a training method is: the modules it trains beside the encoder, and the loss of one batch."""

from __future__ import annotations

import itertools
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder


class Step(NamedTuple):
    """One batch's loss, a scalar with a graph, and numbers worth logging."""

    loss: Tensor
    logs: dict[str, float]


class Method(Protocol):
    def parts(self, encoder: Encoder, data: DataCard) -> nn.Module:
        """What trains beside the encoder: a projector, a classifier; its weights are for the caller to seed."""
        ...

    def step(self, encoder: Encoder, parts: nn.Module, x: Tensor, label: Tensor, rng: torch.Generator) -> Step:
        """The loss of images x [B, 3, H, W] in [0, 1]; label [B] is for methods that use labels."""
        ...


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for place, (wide, next_wide) in enumerate(itertools.pairwise(widths)):
        if place:
            layers += [nn.BatchNorm1d(wide), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(wide, next_wide))
    return nn.Sequential(*layers)
