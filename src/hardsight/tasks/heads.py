"""Heads on dense features, as the papers train them: linear on one layer or on four, FCN and DeepLab.

A head with non-empty `layers` takes those encoder layers, in `Features.layers`, instead of `dense`. In one with `moving`,
batch norm follows trained layers, so its statistics are a moving average; a plain average over the training would lag.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.encoders.base import Encoder, Features
from hardsight.encoders.extents import join
from hardsight.losses.objective import still
from hardsight.tasks.base import dense_dim, to_pixels

FOUR = 4


def on_grid(features: Features, layers: tuple[int, ...]) -> Features:
    """Features whose `dense` is the input of a head: its layers joined on the finest grid, or the dense features as they are."""
    found = join(features.layers, features.extents or (features.extent,) * len(features.layers)) if layers else None
    if found is None:
        return features
    grid, (covered, origin) = found
    return features._replace(dense=grid, covered=covered, origin=origin)


def last_four(encoder: Encoder) -> tuple[int, ...]:
    """The last four layers: DINOv2's choice for segmentation. Raises `SpecError` if the encoder has fewer."""
    depth = _depth(encoder)
    return tuple(range(depth - FOUR, depth))


def spread_four(encoder: Encoder) -> tuple[int, ...]:
    """Four evenly spaced layers (of twelve blocks 2, 5, 8 and 11): DINOv2's choice for depth. Raises `SpecError` too.

    differs: of 24 blocks the first one is 5, theirs is 4.
    """
    depth = _depth(encoder)
    return tuple(depth * place // FOUR - 1 for place in range(1, FOUR + 1))


def channels(encoder: Encoder, layers: tuple[int, ...], task: str) -> int:
    """Number of channels of `on_grid`; for `layers` it is found by a forward pass of one grey image."""
    dim = dense_dim(encoder.card, task)
    if not layers:
        return dim
    weight = next(encoder.parameters())
    grey = torch.full((1, 3, encoder.card.size, encoder.card.size), 0.5, device=weight.device)
    with torch.no_grad(), still(encoder):
        return sum(one.shape[1] for one in encoder(grey, layers).layers)


class LinearHead(nn.Module):
    """Features -> logits [B, K, H, W]: batch norm and a 1x1 convolution. Source: DINOv2's and paper 002's linear probe."""

    def __init__(self, dim: int, classes: int, layers: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.linear = nn.Conv2d(dim, classes, 1)
        self.layers = layers

    def forward(self, features: Features) -> Tensor:
        at = on_grid(features, self.layers)
        return to_pixels(self.linear(self.norm(at.dense)), at)


class DeepHead(nn.Module):
    """Features -> logits [B, K, H, W] by a network on the dense features."""

    moving = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Features) -> Tensor:
        return to_pixels(self.net(features.dense), features)


def fcn(dim: int, classes: int) -> nn.Module:
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, 1x1 convolution (Long et al., CVPR 2015; torchvision).

    differs: without dropout, whose random draws our seeds don't control.
    """
    if dim < FOUR:
        raise SpecError(f"segment(head=fcn) uses a quarter of the dense channels, and there are only {dim}; use head=linear")
    from torchvision.models.segmentation.fcn import FCNHead  # here, as importing it takes seconds

    return DeepHead(_without_dropout(FCNHead(dim, classes)))


def deeplab(dim: int, classes: int) -> nn.Module:
    """DeepLabV3: atrous convolutions at rates 12, 24, 36, a pooled branch, 3x3 and 1x1 (Chen et al., 2017; torchvision).

    differs: without dropout, like `fcn`. The rates are meant for dense features of stride 8.
    """
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead  # here, as importing it takes seconds

    return DeepHead(_without_dropout(DeepLabHead(dim, classes)))


def _depth(encoder: Encoder) -> int:
    depth = int(getattr(encoder.body, "depth", 0))
    if depth < FOUR:
        raise SpecError(f"head=linear4 needs four layers, and {encoder.card.name} has {depth}; use a head on one layer")
    return depth


def _without_dropout(net: nn.Module) -> nn.Module:
    for part in list(net.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.Dropout):
                setattr(part, name, nn.Identity())
    return net
