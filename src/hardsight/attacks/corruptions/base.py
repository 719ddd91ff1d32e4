"""What a corruption is: a change of images at one of five severities, with a random generator for each image.

The generator of an image is derived from the seed and from the image's pixels, so that the result depends neither on the
batch nor on the image's position in it. Two equal images are corrupted in the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.seeds import generator
from hardsight.data.feed import check_pixels

Levels = dict[int, Sequence[Any]]
"""The parameters of the five severities, by the image size (pixels per side) that they were published for."""


class Corruption(Protocol):
    """Corrupts images [B, 3, H, W], or each frame of clips [B, 3, T, H, W], in [0, 1]; returns the same shape, in [0, 1]."""

    def __call__(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor: ...


class Dice:
    """One generator per image, on the CPU, so that a seed gives the same numbers for images on any device."""

    def __init__(self, x: Tensor, rng: torch.Generator | None) -> None:
        device = "cpu" if rng is None else rng.device
        seed = int(torch.randint(2**62, (), generator=rng, device=device))
        pixels = (x * 255).round().byte().cpu()
        self.rngs = [generator("corruption", seed, hashlib.sha256(image.numpy().tobytes()).hexdigest()) for image in pixels]
        self.like = x

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] in [0, 1)."""
        return self._each(lambda rng, _: torch.rand(shape, generator=rng))

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape], standard normal."""
        return self._each(lambda rng, _: torch.randn(shape, generator=rng))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """[B, *shape] from low to high - 1, on the CPU."""
        return torch.stack([torch.randint(low, high, shape, generator=rng) for rng in self.rngs])

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts with mean rate [B, ...]."""
        rate = rate.cpu()
        return self._each(lambda rng, place: torch.poisson(rate[place], generator=rng))

    def _each(self, draw: Callable[[torch.Generator, int], Tensor]) -> Tensor:
        found = [draw(rng, place) for place, rng in enumerate(self.rngs)]
        return torch.stack(found).to(self.like.device)


def graded(severity: int, levels: Levels, change: Callable[[Tensor, Any, float, Dice], Tensor]) -> Corruption:
    """The corruption that applies `change(x, parameters, scale, dice)` to images x [B, 3, H, W] at that severity.

    scale: factor for lengths in pixels, 1 at the sizes of `levels`. Raises `SpecError` for any other severity.
    """
    if severity not in (1, 2, 3, 4, 5):
        raise SpecError(f"severity is {severity}; it must be 1, 2, 3, 4 or 5")

    def corruption(x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        x = check_pixels(x)
        if not len(x):
            return x.clone()
        if x.dim() == 5:
            frames = corruption(x.transpose(1, 2).flatten(0, 1), rng)
            return frames.unflatten(0, (len(x), x.shape[2])).transpose(1, 2).contiguous()
        side = math.sqrt(x.shape[-2] * x.shape[-1])
        near = min(levels, key=lambda size: abs(math.log(side / size)))
        images = x.detach().float()
        with torch.autocast(x.device.type, enabled=False):  # a search in bf16 sees the same images
            changed = change(images, levels[near][severity - 1], side / near, Dice(images, rng))
        return changed.clamp(0, 1).to(x.dtype)

    return corruption


def pixels_of(length: float, least: int = 1) -> int:
    """A scaled length in whole pixels."""
    return max(least, round(length))
