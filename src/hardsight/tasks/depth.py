"""Monocular depth: a linear head on dense and pooled features, which predicts bins or the depth directly.

Pixels that don't count (not measured, outside the crop, or beyond the maximum depth) are removed in one place, `measured`:
for training, for the attack's loss, for its evaluation and for the metrics, clean and attacked alike (quirk B3).

Source of the head: DINOv2's and paper 002's linear depth probe (one 1x1 convolution to 256 bins, normalised linearly).
differs: depth is computed on the grid and then upsampled; theirs upsamples the features first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder, Features
from hardsight.losses.base import mean_where
from hardsight.losses.depth import TINY, gradient_gap, silog
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, needs, to_pixels
from hardsight.tasks.heads import channels, on_grid, spread_four
from hardsight.tasks.official import official as released_as

CROPS = {
    "eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
"""Top, bottom, left, right as fractions of the image: Eigen et al. on NYU (480x640); Garg et al., ECCV 2016, on KITTI."""


class DepthHead(nn.Module):
    """Features -> depth [B, H, W] in metres, within [low, high].

    One linear layer on concatenated dense and pooled features, computed as the sum of two: the pooled part is the same at
    every grid cell, so it is computed once.
    """

    def __init__(self, dense: int, pooled: int, bins: int, low: float, high: float, layers: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.norm, self.norm_pooled = nn.BatchNorm2d(dense), nn.BatchNorm1d(pooled)
        self.linear, self.linear_pooled = nn.Conv2d(dense, bins or 1, 1), nn.Linear(pooled, bins or 1, bias=False)
        self.bins, self.low, self.high, self.layers = bins, low, high, layers
        self.register_buffer("centres", torch.linspace(low, high, max(bins, 1)).view(1, -1, 1, 1), persistent=False)

    def forward(self, features: Features) -> Tensor:
        everywhere = self.linear_pooled(self.norm_pooled(features.pooled))[:, :, None, None]
        at = on_grid(features, self.layers)
        raw = self.linear(self.norm(at.dense)) + everywhere
        if self.bins:
            share = raw.relu() + 0.1
            grid = (share * self.centres).sum(1, keepdim=True) / share.sum(1, keepdim=True)
        else:
            grid = self.low + (self.high - self.low) * raw.sigmoid()
        return to_pixels(grid, at).squeeze(1)


@dataclass(frozen=True)
class Depth:
    bins: int
    low: float
    high: float | None
    four: bool = False
    align: str | None = None
    crop: str | None = None
    name: ClassVar[str] = "depth"
    target: ClassVar[str] = "depth"
    reads: ClassVar[Literal["pooled", "dense"]] = "dense"
    attack: ClassVar[str] = "depthpgd"
    scale_free: ClassVar[str] = "depth_rmse"
    training: ClassVar[Training] = Training(epochs=10, steps=300, lr=1e-2, weight_decay=1e-2, batch=32)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "depth", "depth")
        high = self.high or data.max_depth or 10.0
        if high <= self.low:
            raise SpecError(
                f"depth: the maximum depth is {high:g} m and the minimum {self.low:g} m; the maximum must be the larger one"
            )
        layers = spread_four(encoder) if self.four else ()
        dense = channels(encoder, layers, "depth")
        return DepthHead(dense, encoder.card.dim, self.bins, self.low, high, layers)

    def measured(self, target: Tensor) -> Tensor:
        """The target with 0 (not measured) at pixels outside the crop and, if `high` is given, beyond it."""
        if self.high is not None:
            target = torch.where(target <= self.high, target, 0.0)
        if self.crop is None:
            return target
        height, width = target.shape[-2:]
        top, bottom, left, right = (
            int(side * share + 1e-6) for side, share in zip((height, height, width, width), CROPS[self.crop], strict=True)
        )
        inner = torch.zeros_like(target)
        inner[..., top:bottom, left:right] = target[..., top:bottom, left:right]
        return inner

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        target = self.measured(target)
        return silog(output, target) + 0.5 * gradient_gap(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """RMSE / (RMSE + mean depth) over the image's measured pixels, and 1 where the output is not finite.

        It increases with the image's RMSE, so that an attack keeps the point that is worst for the main metric.
        """
        output, target = self._compared(output, target)
        valid = target > 0
        rmse = mean_where((output - target).square(), valid).sqrt()
        error = rmse / (rmse + mean_where(target, valid)).clamp_min(TINY)
        return torch.where(torch.isfinite(error), error, torch.ones_like(error))

    def counts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the measured pixels of an image, each [B], float64.

        images: 1 if any pixel is measured; image_rmse, image_silog: the image's own RMSE, and its
        sqrt(mean g^2 - (mean g)^2), g the difference of the logarithms.
        """
        output, target = self._compared(output, target)
        valid = target > 0
        predicted, truth = output.double(), torch.where(valid, target, 1.0).double()
        gap, log_gap = predicted - truth, predicted.clamp_min(TINY).log() - truth.log()
        ratio = _ratio(output, target)

        def total(values: Tensor) -> Tensor:
            return torch.where(valid, values.double(), 0.0).flatten(1).sum(1)

        pixels, squared = total(torch.ones_like(truth)), total(gap.square())
        count = pixels.clamp_min(1)
        variance = total(log_gap.square()) / count - (total(log_gap) / count).square()
        return {
            "pixels": pixels,
            "squared": squared,
            "relative": total(gap.abs() / truth),
            "log10": total((predicted.clamp_min(1e-6).log10() - truth.log10()).abs()),
            "delta1": total(ratio < 1.25),
            "delta2": total(ratio < 1.25**2),
            "delta3": total(ratio < 1.25**3),
            "images": (pixels > 0).double(),
            "image_rmse": (squared / count).sqrt(),
            "image_silog": variance.clamp_min(0).sqrt(),
        }

    def _compared(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Output and target as the error and the metrics compare them: masked and, if asked for, aligned."""
        target = self.measured(target)
        return (median_scaled(output, target) if self.align == "median" else output), target

    def answer(self, output: Tensor) -> Tensor:
        return output


def median_scaled(output: Tensor, target: Tensor) -> Tensor:
    """Each image's output times the ratio of the medians of target and output over its measured pixels.

    Source: Zhou et al., CVPR 2017, section 4.1. The median of an even count is the mean of the middle two, as in numpy.
    differs: the output is not clipped afterwards.
    """
    valid = target > 0
    truth, depth = (_median(values, valid) for values in (target, output))
    factors = torch.where(valid.flatten(1).any(1), truth / depth.clamp_min(TINY), 1.0)
    return output * factors[:, None, None]


def _median(values: Tensor, valid: Tensor) -> Tensor:
    """[B]: of the valid values of each image; NaN of none."""
    ordered = torch.where(valid, values, torch.nan).flatten(1).sort(1).values  # NaN is the last
    last = valid.flatten(1).sum(1, keepdim=True) - 1
    middle = (last.clamp_min(0) // 2, (last + 1).clamp_min(0) // 2)
    low, high = (ordered.gather(1, place) for place in middle)
    return ((low + high) / 2).squeeze(1)


def _ratio(output: Tensor, target: Tensor) -> Tensor:
    """The greater of output / target and target / output; undefined at pixels that are not measured."""
    truth = torch.where(target > 0, target, 1.0)
    output = output.clamp_min(1e-6)
    return torch.maximum(output / truth, truth / output)


@register
def depth(
    head: Literal["bins", "direct", "linear4"] = "bins",
    bins: int = 256,
    low: float = 0.1,
    high: float | None = None,
    align: Literal["median"] | None = None,
    crop: Literal["eigen", "garg"] | None = None,
    official: str | tuple[str, ...] = (),
) -> Task:
    """Monocular depth in metres; head: a mixture of `bins` depths between low and high, or one value through a sigmoid.

    head=linear4: that mixture on four layers spread over the encoder, with the last one's pooled features. high: None means
    the maximum depth of the data; if it is given, pixels beyond it don't count. align=median: each image's depth, clean or
    attacked, is scaled to the median of its ground truth before evaluation. crop: Eigen's (NYU) or Garg's (KITTI), scaled to
    the image's size; pixels outside don't count. official: quirks of paper 002's released evaluation, by the names that
    `hardsight list quirks` shows, or all.
    """
    if bins < 2 or low <= 0:
        raise SpecError(f"depth: bins is {bins} and low is {low:g}; bins must be at least 2 and low above 0 m")
    return released_as(Depth(0 if head == "direct" else bins, low, high, head == "linear4", align, crop), official)
