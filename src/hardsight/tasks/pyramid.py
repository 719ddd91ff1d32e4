"""A feature pyramid from one dense feature map, and the detection head on it.

An encoder gives one map; a detector needs several, so that small and large boxes are each predicted at a suitable
resolution. As in ViTDet, finer levels are made by transposed convolutions and coarser ones by pooling. The towers on them
are FCOS's, shared by all levels. Only the first batch norm has a training mode, and its statistics are fixed once the head
is trained: under attack it is an affine map, and images of a batch don't influence each other.

Sources: Li et al., ECCV 2022 (ViTDet), section 3; Tian et al., ICCV 2019 (FCOS), section 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.encoders.base import Features
from hardsight.losses.places import Places

PRIOR = -math.log(99)
"""Added to the class logits: before training, the head gives each class a probability of 1% (Lin et al., ICCV 2017)."""
FARTHEST = 7.0
"""Maximum of the logarithm of a side (a thousand cells): otherwise an attack could make it overflow."""
GROUP = 8
"""Channels per group of the group norms."""


class Pyramid(nn.Module):
    """Dense features [B, D, h, w] -> `levels` maps [B, width, ...]: the first 2**doublings times finer, then halved each."""

    def __init__(self, dim: int, width: int, doublings: int, levels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.narrow = nn.Conv2d(dim, width, 1)
        # A 1x1 convolution and a pixel shuffle are a transposed convolution of kernel and stride 2 that `seeded` covers.
        self.finer = nn.ModuleList(nn.Conv2d(width, 4 * width, 1) for _ in range(doublings))
        self.smooth = nn.ModuleList(_block(width, width) for _ in range(levels))

    def forward(self, dense: Tensor) -> list[Tensor]:
        x = self.narrow(self.norm(dense))
        for widen in self.finer:
            x = F.pixel_shuffle(F.gelu(widen(x)), 2)
        maps = []
        for smooth in self.smooth:
            maps.append(smooth(x))
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return maps


class FcosHead(nn.Module):
    """Features -> `Places`.

    differs: the sides are exp(x), without a learned factor per level, as they are in units of cells; torchvision uses
    relu(x), whose gradient is zero where its output is zero, so that an attack could not move such a side.
    """

    def __init__(self, dim: int, classes: int, width: int, depth: int, doublings: int, levels: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(dim, width, doublings, levels)
        self.class_tower = nn.Sequential(*(_block(width, width) for _ in range(depth)))
        self.box_tower = nn.Sequential(*(_block(width, width) for _ in range(depth)))
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 5, 3, padding=1)
        self.doublings = doublings

    def forward(self, features: Features) -> Places:
        assert features.dense is not None
        classes, sides, centre, cells = [], [], [], []
        across = [count * 2**self.doublings for count in features.dense.shape[-2:]]
        high, wide = (extent / count for extent, count in zip(features.covered, across, strict=True))
        corner = features.dense.new_tensor(features.origin[::-1] * 2, dtype=torch.float32)
        for level, x in enumerate(self.pyramid(features.dense)):
            classes.append(_rows(self.classes(self.class_tower(x)).float()) + PRIOR)
            predicted = _rows(self.sides(self.box_tower(x)).float())
            sides.append(predicted[..., :4].clamp_max(FARTHEST).exp())
            centre.append(predicted[..., 4])
            cells.append(grid(x.shape[-2:], high * 2**level, wide * 2**level, x.device) + corner)
        counts = tuple(len(one) for one in cells)
        return Places(
            torch.cat(classes, 1), torch.cat(sides, 1), torch.cat(centre, 1), torch.cat(cells), counts, features.size
        )


def grid(shape: torch.Size | tuple[int, ...], high: float, wide: float, device: torch.device | str = "cpu") -> Tensor:
    """The cells of a map with h rows and w columns, in row-major order: [h w, 4], x1 y1 x2 y2 in pixels."""
    rows = torch.arange(shape[0], device=device, dtype=torch.float32) * high
    columns = torch.arange(shape[1], device=device, dtype=torch.float32) * wide
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x + wide, y + high], dim=-1).flatten(0, 1)


def _block(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(width // GROUP, width), nn.ReLU())


def _rows(grid: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w, C]."""
    return grid.flatten(2).transpose(1, 2)
