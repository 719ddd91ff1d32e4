"""A pyramid of maps from one dense map, and the detection head that reads it.

Any encoder gives one map; detectors want several, so that a small box and a large one are each told at a fitting grain.
As in ViTDet the finer levels are made by transposed convolutions and the coarser ones by pooling. The tower after that is
FCOS's and one for all levels. Only the batch norm in front has a training mode, and there it is fixed as soon as the head is
trained: an attack meets an affine map, and no image of a batch minds another.

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
"""Added to the class logits: before it has learned anything, the head gives each class 1% (Lin et al., ICCV 2017)."""
FARTHEST = 7.0
"""The logarithm of a side is cut off here, at a thousand cells, or an attack could make it overflow."""
GROUP = 8
"""Channels that are normalized together."""


class Pyramid(nn.Module):
    """Dense features [B, D, h, w] -> `levels` maps [B, width, ...]: the first `doublings` times finer, each half the one before."""

    def __init__(self, dim: int, width: int, doublings: int, levels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.narrow = nn.Conv2d(dim, width, 1)
        # A 1x1 convolution and a shuffle are a transposed convolution of kernel and stride 2, and are seeded like the rest.
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

    differs: the sides are exp(x), with no factor of its own a level, as they are told in cells; torchvision takes relu(x),
    whose gradient is zero where it is, so that no attack could move a side that is there.
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
        for level, x in enumerate(self.pyramid(features.dense)):
            classes.append(_rows(self.classes(self.class_tower(x)).float()) + PRIOR)
            told = _rows(self.sides(self.box_tower(x)).float())
            sides.append(told[..., :4].clamp_max(FARTHEST).exp())
            centre.append(told[..., 4])
            cells.append(grid(x.shape[-2:], high * 2**level, wide * 2**level, x.device))
        counts = tuple(len(one) for one in cells)
        return Places(
            torch.cat(classes, 1), torch.cat(sides, 1), torch.cat(centre, 1), torch.cat(cells), counts, features.size
        )


def grid(shape: torch.Size | tuple[int, ...], high: float, wide: float, device: torch.device | str = "cpu") -> Tensor:
    """The cells of a map of h rows and w columns, row by row: [h w, 4], x1 y1 x2 y2 in pixels."""
    rows = torch.arange(shape[0], device=device, dtype=torch.float32) * high
    columns = torch.arange(shape[1], device=device, dtype=torch.float32) * wide
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, x + wide, y + high], dim=-1).flatten(0, 1)


def _block(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(width // GROUP, width), nn.ReLU())


def _rows(grid: Tensor) -> Tensor:
    """[B, C, h, w] as [B, h w, C]."""
    return grid.flatten(2).transpose(1, 2)
