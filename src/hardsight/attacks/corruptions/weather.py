"""Weather, and overexposure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardsight.attacks.corruptions.base import Corruption, Dice, Levels, graded, pixels_of
from hardsight.attacks.corruptions.filters import motion, zoomed
from hardsight.specs.catalog import register

FLAKES = (
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)
LARGE_FLAKES = (
    (0.1, 0.3, 3, 0.5, 10, 4),
    (0.2, 0.3, 2, 0.5, 12, 4),
    (0.55, 0.3, 4, 0.9, 12, 8),
    (0.55, 0.3, 4.5, 0.85, 12, 8),
    (0.55, 0.3, 2.5, 0.85, 12, 12),
)
SNOWS: Levels = {
    32: tuple(zip(FLAKES, (0.95, 0.9, 0.9, 0.85, 0.8), strict=True)),
    64: tuple(zip(FLAKES, (0.8, 0.8, 0.7, 0.65, 0.6), strict=True)),
    224: tuple(zip(LARGE_FLAKES, (0.8, 0.7, 0.7, 0.65, 0.55), strict=True)),
}
"""Mean, spread, size, threshold, radius and spread of a flake's trail; and the share of the image that is not whitened."""
FROSTS: Levels = {
    32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}
"""Weights of the image and of the ice."""
FOGS: Levels = {
    32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
"""Thickness, and the factor by which the height map decreases from one scale to the next finer one."""
LIGHTS: Levels = {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: (0.1, 0.2, 0.3, 0.4, 0.5), 224: (0.1, 0.2, 0.3, 0.4, 0.5)}
GREY = (0.299, 0.587, 0.114)
ICE = (0.86, 0.94, 1.0)


@register
def snow(severity: int = 3) -> Corruption:
    """Falling snow: bright streaks from two sides over a whitened image."""

    def change(x: Tensor, level: tuple[tuple[float, ...], float], scale: float, dice: Dice) -> Tensor:
        (mean, spread, size, least, radius, trail), share = level
        layer = zoomed(mean + spread * dice.normal(1, *x.shape[-2:]), max(1.0, size * scale))
        layer = torch.where(layer < least, 0.0, layer).clamp(0, 1)
        layer = motion(layer, pixels_of(radius * scale), trail * scale, -45 - 90 * dice.uniform())
        grey = (x * torch.tensor(GREY).to(x).view(3, 1, 1)).sum(1, keepdim=True)
        white = torch.maximum(x, 1.5 * grey + 0.5)
        return share * x + (1 - share) * white + layer + layer.flip(-2, -1)

    return graded(severity, SNOWS, change)


@register
def frost(severity: int = 3) -> Corruption:
    """Ice on the lens: ferns along the contour lines of a random height map, and needles between them.

    differs: the ice of the original is cut from six photographs; ours is generated for each image. The weights of image and
    ice are theirs.
    """

    def change(x: Tensor, level: tuple[float, float], scale: float, dice: Dice) -> Tensor:
        return level[0] * x + level[1] * _ice(x, dice)

    return graded(severity, FROSTS, change)


def _ice(x: Tensor, dice: Dice) -> Tensor:
    """[B, 3, H, W] in [0, 1]."""
    sizes = x.shape[-2:]
    length = max(1, round(math.sqrt(sizes[0] * sizes[1]) / 12))
    ferns = torch.zeros_like(x[:, :1])
    for decay in (2.0, 1.6):
        height = plasma(sizes, decay, dice)[:, None]
        ferns += (1 - (6 * height).remainder(2).sub(1).abs()) ** 2
    seeds = (dice.uniform(1, *sizes) > 0.97).to(x)
    turns = 180 * dice.uniform(3)
    needles = sum(motion(seeds, length, length, turn) for turn in turns.unbind(1))
    shine = (0.15 + 0.35 * ferns + 1.2 * needles).clamp(0, 1)
    return shine * torch.tensor(ICE).to(x).view(3, 1, 1)


@register
def fog(severity: int = 3) -> Corruption:
    """Fog of uneven thickness: a random height map is added, and the sum dimmed to the image's own range."""

    def change(x: Tensor, level: tuple[float, float], scale: float, dice: Dice) -> Tensor:
        thickness, decay = level
        most = x.flatten(1).amax(1)[:, None, None, None]
        return (x + thickness * plasma(x.shape[-2:], decay, dice)[:, None]) * most / (most + thickness)

    return graded(severity, FOGS, change)


def plasma(sizes: tuple[int, ...], decay: float, dice: Dice) -> Tensor:
    """[B, H, W] in [0, 1]: a height map by the diamond-square algorithm on the next power of two, with periodic edges.

    A new point is the mean of its four neighbours plus a random value; these shrink by decay squared from one scale to the
    next.
    """
    side = 2 ** max(1, math.ceil(math.log2(max(sizes))))
    draws = 2 * dice.uniform(side, side) - 1
    found = torch.zeros_like(draws)
    step, strength = side, 1.0
    while step >= 2:
        half = step // 2
        corners = found[:, ::step, ::step]
        square = corners + corners.roll(-1, 1)
        square = (square + square.roll(-1, 2)) / 4
        found[:, half::step, half::step] = square + strength * draws[:, half::step, half::step]
        middles = found[:, half::step, half::step]
        across = (middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)) / 4
        found[:, ::step, half::step] = across + strength * draws[:, ::step, half::step]
        along = (middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)) / 4
        found[:, half::step, ::step] = along + strength * draws[:, half::step, ::step]
        step, strength = half, strength / decay**2
    found = found - found.amin((1, 2), keepdim=True)
    return (found / found.amax((1, 2), keepdim=True).clamp_min(1e-12))[:, : sizes[0], : sizes[1]]


@register
def brightness(severity: int = 3) -> Corruption:
    """Too much light: V of the HSV colour is raised, at most to 1."""

    def change(x: Tensor, more: float, scale: float, dice: Dice) -> Tensor:
        value = x.amax(1, keepdim=True)
        lit = (value + more).clamp_max(1)
        return torch.where(value > 0, x * lit / value.clamp_min(1e-12), lit)

    return graded(severity, LIGHTS, change)
