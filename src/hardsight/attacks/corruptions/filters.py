"""Building blocks of blurs and weather: linear maps of rows and columns, motion along a line, zoom, bilinear sampling."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]
"""How pixels beyond the edge are filled, named as in SciPy: with the last pixel, with the image reflected at the edge (the
last pixel twice), or reflected at its last pixel (once; OpenCV's default)."""


def within(places: Tensor, size: int, border: Border) -> Tensor:
    """Indices along an axis, mapped into 0 .. size - 1 by the border rule, from any distance."""
    if border == "nearest" or size == 1:
        return places.clamp(0, size - 1)
    if border == "reflect":
        folded = places.remainder(2 * size)
        return torch.minimum(folded, 2 * size - 1 - folded)
    folded = places.remainder(2 * size - 2)
    return torch.minimum(folded, 2 * size - 2 - folded)


def apply_along(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images [..., H, W] under linear maps of their columns, rows [H', H], and of their rows, columns [W', W]."""
    return rows.to(x) @ x @ columns.to(x).T


def gaussian_map(size: int, sigma: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """The matrix [size, size] of a Gaussian filter along an axis; sigma in pixels, truncated at truncate x sigma."""
    radius = int(truncate * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (steps.double() / max(sigma, 1e-12)) ** 2)
    places = within(torch.arange(size)[:, None] + steps, size, border)
    found = torch.zeros(size, size, dtype=torch.float64)
    return found.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1)).float()


def gaussian(x: Tensor, sigma: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Images [..., H, W] after a Gaussian filter."""
    height, width = x.shape[-2:]
    return apply_along(x, gaussian_map(height, sigma, border, truncate), gaussian_map(width, sigma, border, truncate))


def box_map(size: int, new: int) -> Tensor:
    """The matrix [new, size] of Pillow's BOX resampling along an axis: the mean of the pixels whose centre is in the box."""
    ratio = size / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio
    away = (torch.arange(size, dtype=torch.float64) + 0.5 - centres[:, None]) / max(ratio, 1.0)
    reached = ((away > -0.5) & (away <= 0.5)).double()
    return (reached / reached.sum(1, keepdim=True)).float()


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Images [B, C, H, W] convolved with one kernel [k, k], k odd, mirrored at the border."""
    reach = len(kernel) // 2
    rows, columns = (within(torch.arange(-reach, size + reach, device=x.device), size, "mirror") for size in x.shape[-2:])
    padded = x[..., rows[:, None], columns]
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel.to(x)[None, None]).view_as(x)


def motion(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Images [B, C, H, W] smeared to one side along a line, as by ImageMagick's motion blur.

    The 2 radius + 1 weights decrease like half a Gaussian. angles [B] in degrees; beyond the edge, the last pixel is
    repeated.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    turned = torch.deg2rad(angles.double()).to(x.device)
    height, width = x.shape[-2:]
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    last, found = x.movedim(1, -1).contiguous(), torch.zeros_like(x.movedim(1, -1))
    for step, weight in enumerate(weights.tolist()):
        if weight < 1e-7:
            break
        down, right = ((step * way - 0.5).ceil().long()[:, None] for way in (turned.sin(), turned.cos()))
        there = within(rows + down, height, "nearest")[:, :, None], within(columns + right, width, "nearest")[:, None]
        found += weight * last[batch, there[0], there[1]]
    return found.movedim(-1, 1)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The centre of images [B, C, H, W], magnified to their size (factor at least 1)."""
    sizes = x.shape[-2:]
    crops = [math.ceil(size / factor) for size in sizes]
    starts = [(size - crop) // 2 for size, crop in zip(sizes, crops, strict=True)]
    middle = x[..., starts[0] : starts[0] + crops[0], starts[1] : starts[1] + crops[1]]
    grown = [max(size, round(crop * factor)) for size, crop in zip(sizes, crops, strict=True)]
    large = F.interpolate(middle, size=grown, mode="bilinear", align_corners=True)
    top, left = ((new - size) // 2 for new, size in zip(grown, sizes, strict=True))
    return large[..., top : top + sizes[0], left : left + sizes[1]]


def sampled(x: Tensor, rows: Tensor, columns: Tensor, border: Literal["reflect", "mirror"]) -> Tensor:
    """Images [B, C, H, W] at fractional positions, rows and columns [B, H, W] in pixels, by bilinear interpolation."""
    height, width = x.shape[-2:]
    if border == "mirror":
        grid = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], -1)
    else:
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
    return F.grid_sample(x, grid, "bilinear", "reflection", align_corners=border == "mirror")
