"""Random views of a batch: every image its own draw, on the batch's device, differentiable, from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.catalog import register
from hardsight.errors import SpecError
from hardsight.when import When

GREY = (0.299, 0.587, 0.114)
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Views(Protocol):
    """How many views of an image there are, and how each is drawn."""

    @property
    def count(self) -> int: ...

    def __call__(self, x: Tensor, when: When) -> tuple[Tensor, ...]:
        """`count` views of images x [B, 3, H, W], or clips [B, 3, T, H, W], in [0, 1]; they may differ in size."""
        ...


@dataclass(frozen=True)
class View:
    """How one view is drawn.

    scale: least and greatest share of the image's area in a crop. jitter: greatest change of brightness, contrast and
    saturation. hue: greatest turn of all colours, as a share of the whole circle (0.5: any). grey: share of views without
    colour. flip: whether views are mirrored at random.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.4
    hue: float = 0.0
    grey: float = 0.2
    flip: bool = True

    def __call__(self, x: Tensor, when: When) -> Tensor:
        """One view of each of the images x [B, 3, H, W], or clips [B, 3, T, H, W], in [0, 1], of the same size, in [0, 1].

        A clip's frames share one draw: they are cropped as channels of one image, and coloured as parts of a tall one.
        """
        shape = x.shape
        x = self._crop(x.flatten(1, -3), when).view(shape)
        return self._colour(x.flatten(2, -2), when).clamp(0, 1).view(shape)

    def _crop(self, x: Tensor, when: When) -> Tensor:
        count = len(x)
        area = when.uniform(count, *self.scale)
        ratio = when.uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        wide, high = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        left, top = when.uniform(count, -1, 1) * (1 - wide), when.uniform(count, -1, 1) * (1 - high)
        mirror = torch.where(when.uniform(count, 0, 1) < 0.5, -1.0, 1.0) if self.flip else torch.ones(count)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = wide * mirror, left, high, top
        grid = F.affine_grid(theta.to(x), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _colour(self, x: Tensor, when: When) -> Tensor:
        count = len(x)
        bright, contrast, saturation = (
            when.uniform(count, 1 - self.jitter, 1 + self.jitter).to(x).view(-1, 1, 1, 1) for _ in range(3)
        )
        weights = torch.tensor(GREY, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
        x = x * bright
        mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        x = mean + (x - mean) * contrast
        if self.hue:
            x = _turn(x, when.uniform(count, -self.hue, self.hue).to(x))
        grey = (x * weights).sum(1, keepdim=True)
        drained = (when.uniform(count, 0, 1) < self.grey).to(x.device).view(-1, 1, 1, 1)
        return torch.where(drained, grey.expand_as(x), grey + (x - grey) * saturation)


@dataclass(frozen=True)
class Drawn:
    """`count` views, each drawn by `view`."""

    count: int
    view: View

    def __call__(self, x: Tensor, when: When) -> tuple[Tensor, ...]:
        return tuple(self.view(x, when) for _ in range(self.count))


@register
def views(
    count: int = 2,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
    jitter: float = 0.4,
    hue: float = 0.0,
    grey: float = 0.2,
    flip: bool = True,
) -> Views:
    """Random views of one kind: a crop of random area and shape, mirrored or not, with colours changed.

    scale: least and greatest share of the image's area in a crop; ratio: of its width to its height. jitter: greatest change
    of brightness, contrast and saturation. hue: greatest turn of all colours, as a share of the circle (0.5: any). grey: share
    of views without colour. flip: whether views are mirrored at random; not where left and right are classes.
    """
    if count < 1:
        raise SpecError(f"views: count is {count}; it is at least 1")
    return Drawn(count, View(scale, ratio, jitter, hue, grey, flip))


def _turn(x: Tensor, share: Tensor) -> Tensor:
    """Each image with its colours turned about the grey axis by `share` [B] of the circle, in YIQ (NTSC, 1953)."""
    forth = torch.tensor(TO_YIQ, device=x.device, dtype=torch.float32)
    angle = 2 * math.pi * share.float()
    spin = torch.eye(3, device=x.device).repeat(len(x), 1, 1)
    spin[:, 1, 1], spin[:, 1, 2], spin[:, 2, 1], spin[:, 2, 2] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    mix = (torch.linalg.inv(forth) @ spin @ forth).to(x.dtype)
    return torch.einsum("bij,bjhw->bihw", mix, x)
