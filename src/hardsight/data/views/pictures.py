"""Pictures of unlike sizes as a batch: each crop is drawn from the picture as it is stored, and cut where it is decoded.

A crop depends only on the seed, the batch, the picture and the number of the view, so it can be cut in another process, ahead
of the step that asks for it or when it asks, with the same result. A batch remembers what was asked of it: the next batches
can be cut ahead by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core import seeds
from hardsight.data.views.geometry import TRIES


class Cropping(NamedTuple):
    """How a view's crop is drawn and resized: `scale`, `ratio`, `flip` and `exact` of a `View`; size: (rows, columns)."""

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool
    exact: bool


class Ask(NamedTuple):
    """One view of each picture of a batch: how it is cropped, and the number of the view within the batch.

    cropping None: the whole picture, as it is measured.
    """

    cropping: Cropping | None
    number: int


Found = dict[Ask, Tensor]
"""Views uint8 [B, 3, h, w] by what was asked."""


@dataclass
class Pictures:
    """A batch of `count` pictures, of which only views are read. size: (rows, columns) of a view that names none.

    found: views that were cut ahead; the others are cut by `cut` when they are asked for. asked: everything so far, in order.
    """

    count: int
    size: tuple[int, int]
    device: torch.device
    cut: Callable[[Sequence[Ask]], Found]
    found: Found
    asked: list[Ask]

    def __len__(self) -> int:
        return self.count

    def crops(self, cropping: Cropping, count: int) -> Tensor:
        """`count` new crops of every picture, one view after the other: float32 [count B, 3, h, w] in [0, 1]."""
        drawn = sum(ask.cropping is not None for ask in self.asked)
        return self._read([Ask(cropping, drawn + view) for view in range(count)])

    def whole(self) -> Tensor:
        """Every picture whole, as it is measured: float32 [B, 3, h, w] in [0, 1]."""
        return self._read([Ask(None, 0)])

    def _read(self, asks: list[Ask]) -> Tensor:
        self.asked += [ask for ask in asks if ask not in self.asked]
        if missing := [ask for ask in asks if ask not in self.found]:
            self.found |= self.cut(missing)
        read = [self.found[ask].to(self.device, non_blocking=True) for ask in asks]
        return (torch.cat(read) if len(read) > 1 else read[0]).to(torch.float32).div_(255)


Batched = Tensor | Pictures
"""A batch's images, in [0, 1], or its pictures, of unlike sizes."""


def whole(x: Batched) -> Tensor:
    """The images themselves; of pictures, each whole, as it is measured."""
    return x.whole() if isinstance(x, Pictures) else x


class Box(NamedTuple):
    """A crop of whole pixels, and whether it is flipped."""

    top: int
    left: int
    high: int
    wide: int
    flips: bool


def box_of(high: int, wide: int, how: Cropping, *key: object) -> Box:
    """The crop of a picture of that size; `key` is all that its random numbers depend on.

    exact: drawn again while it does not fit, then a centre crop as large as the ratio allows, as `pixel_crop` and
    torchvision's RandomResizedCrop do; otherwise reduced to fit, as `any_crop`, and rounded to whole pixels.
    """
    *pairs, down, across, turn = torch.rand(2 * TRIES + 3, generator=seeds.generator(*key), dtype=torch.float64).tolist()
    tall, broad = 0, 0
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        area = high * wide * (how.scale[0] + (how.scale[1] - how.scale[0]) * one)
        shape = how.ratio[0] * (how.ratio[1] / how.ratio[0]) ** other
        tall, broad = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if not how.exact:
            tall, broad = min(max(tall, 1), high), min(max(broad, 1), wide)
        if 0 < tall <= high and 0 < broad <= wide:
            break
    else:
        broad, tall = min(wide, round(high * how.ratio[1])), min(high, round(wide / how.ratio[0]))
        return Box((high - tall) // 2, (wide - broad) // 2, tall, broad, how.flip and turn < 0.5)
    top, left = int(down * (high - tall + 1)), int(across * (wide - broad + 1))
    return Box(top, left, tall, broad, how.flip and turn < 0.5)


def resized_box(image: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """The box of an image, uint8 [H, W, 3], resized to `size`: uint8 [3, h, w].

    Bilinear, with antialiasing when shrinking, without reading pixels outside the box, rounded: Pillow's result within 1.
    """
    part = image[box.top : box.top + box.high, box.left : box.left + box.wide].permute(2, 0, 1)[None]
    if part.shape[-2:] != size:
        part = F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)
    return (part.flip(3) if box.flips else part)[0]
