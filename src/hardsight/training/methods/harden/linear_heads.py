"""Linear heads for typical downstream tasks, fitted once to the frozen teacher's features, before the first step.

A place is one of the encoder's outputs: the pooled features, the dense ones, or a layer's map. The spread of its channels
over the training images defines a distance in which no channel dominates by its scale alone. Linear heads on it are fitted
in closed form: by least squares to the data's labels or, without labels, to clusters and the direction of largest variance.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.data.base import IGNORE
from hardsight.training.methods.clusters import kmeans

Kind = Literal["classify", "segment", "depth"]
SHARPNESS = 8.0
"""Least squares outputs are between 0 and 1; as logits they must be scaled to separate classes."""
RIDGE = 0.03


class FeatureScale(nn.Module):
    """Scales one place's features [B, D] or [B, D, h, w]: each channel is divided by its own spread.

    shrink: of the channels' variances towards their mean: near 0 all channels count equally, as for a probe behind batch
    norm; far above 1 channels of large variance dominate, as in a plain distance.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, shrink: float) -> None:
        super().__init__()
        self.shrink = shrink
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def measure(self, rows: Tensor) -> None:
        """Estimates the scale from features rows [N, D]; scaled, they have variance 1, the mean over channels."""
        self.mean.copy_(rows.mean(0))
        variance = rows.var(0, correction=0)
        scale = (variance + self.shrink * variance.mean()).clamp_min(1e-12).rsqrt()
        self.scale.copy_(scale / (scale.square() * variance).mean().clamp_min(1e-12).sqrt())

    def forward(self, features: Tensor) -> Tensor:
        """The features, centred and scaled, in float32."""
        return (features.float() - _along(self.mean, features)) * _along(self.scale, features)

    def gap(self, one: Tensor, other: Tensor) -> Tensor:
        """[B]: the mean squared scaled difference, also over the grid: 2 for features of unrelated images."""
        apart = (one.float() - other.float()).square()
        by_channel = apart.flatten(2).mean(2) if apart.dim() > 2 else apart
        return (by_channel * self.scale.square()).mean(1)


class LinearHead(nn.Module):
    """A linear head of one kind on a place's features: logits [B, K] or [B, K, h, w], or for depth one number per cell.

    classify uses the pooled features, segment and depth the dense ones.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, kind: Kind, dim: int, outputs: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.register_buffer("weight", torch.zeros(dim, outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def solve(self, rows: Tensor, truth: Tensor) -> None:
        """Ridge regression of truth [N, outputs] on rows [N, D]; rows of truth that are not finite are ignored."""
        known = truth.isfinite().all(1)
        rows, truth = rows[known].double(), truth[known].double()
        mean, level = rows.mean(0), truth.mean(0)
        centred = rows - mean
        inner = centred.T @ centred
        inner += RIDGE * inner.diagonal().mean() * torch.eye(len(inner), device=inner.device)
        weight = torch.linalg.solve(inner, centred.T @ (truth - level))
        scale = 1.0 if self.kind == "depth" else SHARPNESS
        self.weight.copy_(scale * weight)
        self.bias.copy_(scale * (level - mean @ weight))

    def guess(self, rows: Tensor, scaled: Tensor) -> None:
        """Without labels: clusters of the scaled rows are classes, the rows' direction of largest variance is depth."""
        if self.kind == "depth":
            centred = (rows - rows.mean(0)).double()
            direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1:]
            self.solve(rows, (centred @ direction / (centred @ direction).std().clamp_min(1e-12)).float())
            return
        outputs = self.weight.shape[1]
        label = kmeans(scaled, outputs, seeds.generator("answers", self.kind))
        self.solve(rows, F.one_hot(label, outputs).float())

    def forward(self, features: Tensor) -> Tensor:
        if features.dim() == 4:
            found = F.conv2d(features, self.weight.T[:, :, None, None].to(features.dtype)).float() + _along(
                self.bias, features
            )
        else:
            found = torch.einsum("bd...,dk->bk...", features.float(), self.weight) + _along(self.bias, features)
        return found.squeeze(1) if self.kind == "depth" else found

    def wrong(self, output: Tensor, right: Tensor) -> Tensor:
        """[B], raised by an attack: cross-entropy against the teacher's own prediction, or squared difference of depths."""
        if self.kind == "depth":
            return _mean((output - right).square())
        return _mean(F.cross_entropy(output, right.argmax(1), reduction="none"))

    def shift(self, output: Tensor, right: Tensor) -> Tensor:
        """[B], minimized in training: KL(teacher's softmax, student's softmax), or squared difference of depths."""
        if self.kind == "depth":
            return _mean((output - right).square())
        now, then = output.log_softmax(1), right.log_softmax(1)
        return _mean(F.kl_div(now, then, reduction="none", log_target=True).sum(1))


def truth_of(kind: Kind, target: Tensor, outputs: int, grid: tuple[int, int]) -> Tensor:
    """Targets for least squares: [B, K] for labels; a row per cell for masks, [B h w, K], and depths, [B h w, 1], as
    logarithms.

    A cell's target is the mean over its labelled pixels; a cell without any is NaN throughout.
    """
    if kind == "classify":
        return F.one_hot(target, outputs).float()
    if kind == "segment":
        labelled = (target != IGNORE)[:, None].float()
        values = F.one_hot(torch.where(target == IGNORE, 0, target), outputs).movedim(-1, 1).float()
    else:
        labelled = (target > 0)[:, None].float()
        values = target.clamp_min(1e-6).log()[:, None]
    share = F.adaptive_avg_pool2d(labelled, grid)
    return rows_of(F.adaptive_avg_pool2d(values * labelled, grid) / torch.where(share > 0, share, torch.nan))


def rows_of(features: Tensor) -> Tensor:
    """[B, D] unchanged, [B, D, h, w] as one row per cell."""
    return features if features.dim() == 2 else features.movedim(1, -1).flatten(0, -2)


def _along(values: Tensor, features: Tensor) -> Tensor:
    """values [D] in the shape that broadcasts over the channels of features [B, D, ...]."""
    return values.view(-1, *[1] * (features.dim() - 2))


def _mean(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.flatten(1).mean(1)
