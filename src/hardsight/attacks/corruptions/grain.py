"""Noise in every value of every pixel: sensor noise, photon noise, transmission errors."""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.corruptions.base import Corruption, Dice, Levels, graded
from hardsight.specs.catalog import register

SPREAD: Levels = {
    32: (0.04, 0.06, 0.08, 0.09, 0.10),
    64: (0.04, 0.08, 0.12, 0.15, 0.18),
    224: (0.08, 0.12, 0.18, 0.26, 0.38),
}
PHOTONS: Levels = {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)}
STRUCK: Levels = {
    32: (0.01, 0.02, 0.03, 0.05, 0.07),
    64: (0.01, 0.02, 0.05, 0.08, 0.14),
    224: (0.03, 0.06, 0.09, 0.17, 0.27),
}


@register
def gaussian_noise(severity: int = 3) -> Corruption:
    """Normal noise on every value, as in low light."""

    def change(x: Tensor, spread: float, scale: float, dice: Dice) -> Tensor:
        return x + spread * dice.normal(*x.shape[1:])

    return graded(severity, SPREAD, change)


@register
def shot_noise(severity: int = 3) -> Corruption:
    """Poisson noise: a value is a photon count, with few photons at a high severity."""

    def change(x: Tensor, photons: float, scale: float, dice: Dice) -> Tensor:
        return dice.poisson(x * photons) / photons

    return graded(severity, PHOTONS, change)


@register
def impulse_noise(severity: int = 3) -> Corruption:
    """Salt and pepper: some values, chosen independently, become 0 or 1."""

    def change(x: Tensor, share: float, scale: float, dice: Dice) -> Tensor:
        drawn = dice.uniform(*x.shape[1:])
        return torch.where(drawn < share, (drawn < share / 2).to(x), x)

    return graded(severity, STRUCK, change)
