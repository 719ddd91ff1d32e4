"""Blur: out of focus, frosted glass, camera motion, zoom."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.corruptions.base import Corruption, Dice, Levels, graded, pixels_of
from hardsight.attacks.corruptions.filters import convolved, gaussian, motion, zoomed
from hardsight.specs.catalog import register

DISKS: Levels = {
    32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
"""Radius of the disk, and the spread that smooths its edge; pixels."""
SMALL, FINER = 8, 7
PANES: Levels = {
    32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
"""Spread of the Gaussian before and after, distance of a shuffle (pixels), rounds of shuffling."""
STROKES: Levels = {
    32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
"""Radius and spread of the motion trail; pixels."""
FINE = ((0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26))
ZOOMS: Levels = {32: FINE, 64: FINE, 224: ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))}
"""Step from one zoom factor to the next, and number of factors, the first of them 1."""


@register
def defocus_blur(severity: int = 3) -> Corruption:
    """Out of focus: a point becomes a disk."""

    def change(x: Tensor, level: tuple[float, float], scale: float, dice: Dice) -> Tensor:
        return convolved(x, disk(level[0] * scale, level[1] * scale, 1 if scale == 1 else FINER))

    return graded(severity, DISKS, change)


def disk(radius: float, spread: float, finer: int = 1) -> Tensor:
    """The kernel [k, k] of sum 1; its edge is smoothed over 3 pixels, or 5 if the radius is above 8.

    finer: number of sample points per pixel side that are tested for being inside the disk; 1 as in the released code, where
    a small disk at another size than theirs would be its middle pixel only.
    """
    soft, reach = (1, SMALL) if radius <= SMALL else (2, math.floor(radius))
    steps = (torch.arange((2 * reach + 1) * finer) + 0.5) / finer - reach - 0.5
    flat = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    flat = F.avg_pool2d(flat[None, None], finer)
    taps = torch.exp(-0.5 * (torch.arange(-soft, soft + 1) / spread) ** 2)
    smooth = convolved(flat / flat.sum(), (taps[:, None] * taps) / taps.sum() ** 2)[0, 0]
    empty = max(0, reach - math.floor(radius + 0.5) - soft)
    return smooth[empty : len(smooth) - empty, empty : len(smooth) - empty]


@register
def glass_blur(severity: int = 3) -> Corruption:
    """Frosted glass: pixels are shuffled with their neighbours, between two Gaussian blurs.

    As in the released code, which means to swap two pixels but copies one over the other (NumPy's views), one pixel after
    the other from the last to the first.
    """

    def change(x: Tensor, level: tuple[float, int, int], scale: float, dice: Dice) -> Tensor:
        spread, reach = level[0] * scale, pixels_of(level[1] * scale)
        x = gaussian(x, spread)
        for _ in range(level[2]):
            x = x.flatten(2).gather(2, _shuffle(x, reach, dice)[:, None].expand(-1, 3, -1)).view_as(x)
        return gaussian(x, spread)

    return graded(severity, PANES, change)


def _shuffle(x: Tensor, reach: int, dice: Dice) -> Tensor:
    """[B, H W]: the index of the pixel at each place after one round; a place may be overwritten before it is copied."""
    height, width = x.shape[-2:]
    down, right = dice.integers(-reach, reach, 2, height, width).unbind(1)
    shown = np.repeat(np.arange(height * width)[:, None], len(x), 1)
    source = shown + (down * width + right).flatten(1).T.numpy()
    every = np.arange(len(x))
    for row in range(height - reach, reach, -1):
        for place in range(row * width + width - reach, row * width + reach, -1):
            shown[place] = shown[source[place], every]
    return torch.from_numpy(shown.T.copy()).to(x.device)


@register
def motion_blur(severity: int = 3) -> Corruption:
    """A moving camera: a trail at an angle of up to 45 degrees to the horizontal."""

    def change(x: Tensor, level: tuple[int, float], scale: float, dice: Dice) -> Tensor:
        return motion(x, pixels_of(level[0] * scale), level[1] * scale, 90 * dice.uniform() - 45)

    return graded(severity, STROKES, change)


@register
def zoom_blur(severity: int = 3) -> Corruption:
    """A zooming camera: the mean of the image and of increasingly large views of its centre."""

    def change(x: Tensor, level: tuple[float, int], scale: float, dice: Dice) -> Tensor:
        step, count = level
        return (x + sum(zoomed(x, 1 + step * place) for place in range(count))) / (count + 1)

    return graded(severity, ZOOMS, change)
