"""Monocular depth: a linear head on dense and pooled features, as bins or directly.

Source of the head: DINOv2's and paper 002's linear depth probe (one 1x1 convolution to 256 bins, normalised linearly).
differs: depth is computed on the grid and upsampled after that, where theirs upsamples the features first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder, Features
from hardsight.errors import SpecError
from hardsight.losses.base import mean_where
from hardsight.losses.depth import TINY, gradient_gap, silog
from hardsight.tasks.base import Task, Training, dense_dim, needs, to_pixels


class DepthHead(nn.Module):
    """Features -> depth [B, H, W] in metres, within [low, high].

    One linear layer on dense and pooled features side by side, taken as the sum of two: the pooled part is the same at every
    place of the grid, so it is computed once.
    """

    def __init__(self, dense: int, pooled: int, bins: int, low: float, high: float) -> None:
        super().__init__()
        self.norm, self.norm_pooled = nn.BatchNorm2d(dense), nn.BatchNorm1d(pooled)
        self.linear, self.linear_pooled = nn.Conv2d(dense, bins or 1, 1), nn.Linear(pooled, bins or 1, bias=False)
        self.bins, self.low, self.high = bins, low, high
        self.register_buffer("centres", torch.linspace(low, high, max(bins, 1)).view(1, -1, 1, 1), persistent=False)

    def forward(self, features: Features) -> Tensor:
        assert features.dense is not None
        everywhere = self.linear_pooled(self.norm_pooled(features.pooled))[:, :, None, None]
        raw = self.linear(self.norm(features.dense)) + everywhere
        if self.bins:
            share = raw.relu() + 0.1
            grid = (share * self.centres).sum(1, keepdim=True) / share.sum(1, keepdim=True)
        else:
            grid = self.low + (self.high - self.low) * raw.sigmoid()
        return to_pixels(grid, features).squeeze(1)


@dataclass(frozen=True)
class Depth:
    bins: int
    low: float
    high: float | None
    name: ClassVar[str] = "depth"
    target: ClassVar[str] = "depth"
    reads: ClassVar[Literal["pooled", "dense"]] = "dense"
    attack: ClassVar[str] = "depthpgd"
    training: ClassVar[Training] = Training(epochs=10, steps=300, lr=1e-2, weight_decay=1e-2, batch=32)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "depth", "depth")
        high = self.high or data.max_depth or 10.0
        if high <= self.low:
            raise SpecError(
                f"depth: the greatest depth is {high:g} m and the least {self.low:g} m; it must be the other way"
            )
        return DepthHead(dense_dim(encoder.card, "depth"), encoder.card.dim, self.bins, self.low, high)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return silog(output, target) + 0.5 * gradient_gap(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """RMSE / (RMSE + mean depth) over the image's measured pixels, and 1 where the output is not finite.

        It rises with the image's RMSE, so that an attack keeps the point that harms the headline most.
        """
        valid = target > 0
        rmse = mean_where((output - target).square(), valid).sqrt()
        error = rmse / (rmse + mean_where(target, valid)).clamp_min(TINY)
        return torch.where(torch.isfinite(error), error, torch.ones_like(error))

    def counts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the measured pixels of an image, each [B], float64."""
        valid = target > 0
        there, truth = output.double(), torch.where(valid, target, 1.0).double()
        gap = there - truth
        ratio = _ratio(output, target)

        def total(values: Tensor) -> Tensor:
            return torch.where(valid, values.double(), 0.0).flatten(1).sum(1)

        return {
            "pixels": total(torch.ones_like(truth)),
            "squared": total(gap.square()),
            "relative": total(gap.abs() / truth),
            "log10": total((there.clamp_min(1e-6).log10() - truth.log10()).abs()),
            "delta1": total(ratio < 1.25),
            "delta2": total(ratio < 1.25**2),
            "delta3": total(ratio < 1.25**3),
        }

    def answer(self, output: Tensor) -> Tensor:
        return output


def _ratio(output: Tensor, target: Tensor) -> Tensor:
    """The greater of output / target and target / output; where nothing is measured, anything."""
    truth = torch.where(target > 0, target, 1.0)
    output = output.clamp_min(1e-6)
    return torch.maximum(output / truth, truth / output)


@register
def depth(head: Literal["bins", "direct"] = "bins", bins: int = 256, low: float = 0.1, high: float | None = None) -> Task:
    """Monocular depth in metres; head: a mixture of `bins` depths between low and high, or one value through a sigmoid.

    high: None is the greatest depth of the data.
    """
    if bins < 2 or low <= 0:
        raise SpecError(f"depth: bins is {bins} and low is {low:g}; bins is at least 2 and low above 0 m")
    return Depth(bins if head == "bins" else 0, low, high)
