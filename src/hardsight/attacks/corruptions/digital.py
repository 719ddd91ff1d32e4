"""Digital processing: less contrast, warping, large pixels, compression."""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.corruptions.base import Corruption, Dice, Levels, graded
from hardsight.attacks.corruptions.filters import apply_along, box_map, gaussian, sampled
from hardsight.attacks.corruptions.jpeg import compressed
from hardsight.specs.catalog import register

CONTRASTS: Levels = {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: (0.4, 0.3, 0.2, 0.1, 0.05), 224: (0.4, 0.3, 0.2, 0.1, 0.05)}
WARPS: Levels = {
    32: tuple(
        (32 * a, 32 * b, 32 * c)
        for a, b, c in ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    ),
    64: tuple(
        (64 * a, 64 * b, 64 * c)
        for a, b, c in ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))
    ),
    224: tuple(
        (244 * a, 244 * b, 244 * c)  # 244 is what the released code has
        for a, b, c in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
}
"""Strength of the warp, spread of its smoothing, maximum shift of the affine map's corners; pixels."""
SHARES: Levels = {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5), 224: (0.6, 0.5, 0.4, 0.3, 0.25)}
QUALITIES: Levels = {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)}


@register
def contrast(severity: int = 3) -> Corruption:
    """Less contrast: every channel shrinks towards its mean over the image."""

    def change(x: Tensor, share: float, scale: float, dice: Dice) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return mean + share * (x - mean)

    return graded(severity, CONTRASTS, change)


@register
def elastic_transform(severity: int = 3) -> Corruption:
    """Warping: a random affine map, then every pixel moves by a smooth random field (Simard et al., ICDAR 2003).

    Pixels move and targets do not: a mask or a depth map stays the same. The severities are not ordered: the first two move
    pixels far, the others by small distances. The field's strength grows with the square of the scale, since smoothing
    weakens it.
    """

    def change(x: Tensor, level: tuple[float, float, float], scale: float, dice: Dice) -> Tensor:
        strength, spread, reach = level[0] * scale**2, level[1] * scale, level[2] * scale
        x = _sheared(x, reach, dice)
        down, right = (strength * gaussian(2 * dice.uniform(*x.shape[-2:]) - 1, spread, "reflect", 3) for _ in range(2))
        rows, columns = _places(x)
        return sampled(x, rows + down, columns + right, "reflect")

    return graded(severity, WARPS, change)


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [H, 1] and columns [W] of pixels."""
    height, width = x.shape[-2:]
    return torch.arange(height, device=x.device, dtype=x.dtype)[:, None], torch.arange(width, device=x.device, dtype=x.dtype)


def _sheared(x: Tensor, reach: float, dice: Dice) -> Tensor:
    """The affine map that moves three points around the centre by up to `reach` pixels, horizontally and vertically."""
    height, width = x.shape[-2:]
    middle = torch.tensor([width // 2, height // 2], dtype=x.dtype)
    side = min(height, width) // 3
    points = middle + side * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=x.dtype)
    moved = points + reach * (2 * dice.uniform(3, 2).cpu() - 1)
    moved = torch.cat([moved, torch.ones(len(x), 3, 1)], 2)
    back = torch.linalg.solve(moved.double(), points.double().expand(len(x), -1, -1)).to(x)[:, :, :, None, None]
    rows, columns = _places(x)
    right, down = (back[:, 0, axis] * columns + back[:, 1, axis] * rows + back[:, 2, axis] for axis in (0, 1))
    return sampled(x, down, right, "mirror")


@register
def pixelate(severity: int = 3) -> Corruption:
    """Large pixels: downsampled and upsampled again, with box filters."""

    def change(x: Tensor, share: float, scale: float, dice: Dice) -> Tensor:
        sizes = [(size, max(1, int(size * share))) for size in x.shape[-2:]]
        small = apply_along(x, *(box_map(size, new) for size, new in sizes))
        return apply_along(small, *(box_map(new, size) for size, new in sizes))

    return graded(severity, SHARES, change)


@register
def jpeg_compression(severity: int = 3) -> Corruption:
    """JPEG: the block and ringing artefacts of a low quality."""

    def change(x: Tensor, quality: int, scale: float, dice: Dice) -> Tensor:
        return compressed(x, quality)

    return graded(severity, QUALITIES, change)
