"""Where the cells of a map lie on the image.

A network of total stride s has a cell every s pixels, whatever the size of the image. If s doesn't divide the side, networks
that round up (ResNet) have a last cell that extends beyond the image, and networks that round down (ConvNeXt, VGG) leave a
strip at the right and at the bottom to no cell. So a grid has an extent of its own: it is never stretched over the image.

Cell i is placed on [lead + i s, lead + (i + 1) s). The lead is 0, except in networks without padding (Inception, AlexNet),
which leave the same strip on both sides. Within its cell, a network may read off the centre: convolutions of odd width with
equal padding on both sides (ResNet) are centred on the cell's first pixel, half a stride before its centre. This isn't
corrected: it is a property of the padding, filters can shift it by as much again, and heads are trained on top of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Extent(NamedTuple):
    """The rectangle that a grid covers, in pixels of the image. covered: (height, width). origin: (top, left)."""

    covered: tuple[int, int]
    origin: tuple[int, int] = (0, 0)


class Spacing(NamedTuple):
    """Pixels per cell of a map, and pixels before its first cell."""

    stride: float
    lead: float = 0.0

    @classmethod
    def of(cls, side: int, cells: int) -> Spacing:
        """The spacing of a map that has `cells` cells along a side of `side` pixels, one that the network is meant for.

        Strides of convolutional networks are powers of two, and the number of cells is rounded up or down; patches divide
        the side. If neither fits, the network has no padding and what is missing is half before and half after the cells.
        """
        power = 2 ** round(math.log2(side / cells))
        if cells in (side // power, -(-side // power)):
            return cls(float(power))
        if side % cells == 0:
            return cls(side / cells)
        missing = side - cells * power
        return cls(float(power), missing / 2 if missing >= power else 0.0)

    def extent(self, cells: tuple[int, ...], scale: tuple[float, float]) -> Extent:
        """The extent of a grid of (h, w) cells; scale: pixels of the image per pixel of the network's input."""
        covered = [round(count * self.stride * one) for count, one in zip(cells, scale, strict=True)]
        origin = [round(self.lead * one) for one in scale]
        return Extent((covered[0], covered[1]), (origin[0], origin[1]))


def join(maps: tuple[Tensor, ...], extents: tuple[Extent, ...]) -> tuple[Tensor, Extent] | None:
    """Maps of several layers as [B, sum of D, h, w] on the finest of their grids, and its extent; None without maps.

    Cells of a coarser grid go where they lie on the image (bilinear, the outermost ones continued).
    """
    if not maps:
        return None
    finest = max(range(len(maps)), key=lambda place: maps[place].shape[-2] * maps[place].shape[-1])
    if len(maps) == 1:
        return maps[0], extents[0]
    size, extent = maps[finest].shape[-2:], extents[finest]
    same = [_onto(one, mine, size, extent) for one, mine in zip(maps, extents, strict=True)]
    return torch.cat(same, dim=1), extent


def on_image(grid: Tensor, extent: Extent, size: tuple[int, int]) -> Tensor:
    """Upsamples a map [B, C, h, w] to the image's pixels [B, C, H, W] (bilinear, the outermost cells continued)."""
    x = F.interpolate(grid, size=extent.covered, mode="bilinear", align_corners=False)
    (top, left), (height, width) = extent.origin, size
    x = continued(x, (left, width - left - extent.covered[1], top, height - top - extent.covered[0]))
    return x[..., :height, :width]


def continued(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Repeats the outermost values so many pixels further (last axis first, before and after); counts below 0 do nothing."""
    return F.pad(x, tuple(max(0, side) for side in sides), mode="replicate") if any(one > 0 for one in sides) else x


def _onto(grid: Tensor, extent: Extent, size: torch.Size, wanted: Extent) -> Tensor:
    """A map resampled from its own extent onto a grid of (h, w) cells with the extent `wanted`."""
    if extent == wanted:
        if grid.shape[-2:] == size:
            return grid
        return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    lines = []
    for axis, cells in enumerate(size):
        centres = (torch.arange(cells, device=grid.device, dtype=torch.float32) + 0.5) / cells * wanted.covered[axis]
        lines.append((centres + wanted.origin[axis] - extent.origin[axis]) / extent.covered[axis] * 2 - 1)
    y, x = torch.meshgrid(*lines, indexing="ij")
    places = torch.stack([x, y], -1).expand(len(grid), -1, -1, -1).to(grid.dtype)
    return F.grid_sample(grid, places, mode="bilinear", padding_mode="border", align_corners=False)
