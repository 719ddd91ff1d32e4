"""How an encoder's authors prepare a picture for evaluation: resize, then a crop of fixed size, on uint8.

Published accuracies are of pictures prepared in one way, and another way costs percents: a published EfficientNet-Lite0 has
88.8 % on 1,000 ImageNet images by its own transform, and 86.0 % with the shorter side at 224 by bilinear. A `Preprocess` is
one such way as a spec. Encoders have theirs on their card, and a reader takes one in place of a size:
`imagenet('PATH', size=evaluation(224, 256, 'bicubic'))`.

Normalization is no part of it: encoders normalize inside the attacked graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.specs.catalog import register

LARGEST = 2**14


@dataclass(frozen=True)
class Preprocess:
    """Maps a decoded picture, uint8 [H, W, 3], to one of `size` (h, w); the fields are the arguments of `evaluation`."""

    size: tuple[int, int]
    resize: int | tuple[int, int] | None
    interpolation: str
    mode: str
    fill: tuple[int, int, int]
    corner: str

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        high, wide = self.resized(picture.shape[0], picture.shape[1])
        if (high, wide) != picture.shape[:2]:
            how = Image.Resampling[self.interpolation.upper()]
            picture = np.array(Image.fromarray(picture).resize((wide, high), how))
        return self._cropped(picture)

    def resized(self, high: int, wide: int) -> tuple[int, int]:
        """The size (h, w) that a picture of this size is resized to, before the crop."""
        if self.resize is None:
            return high, wide
        if isinstance(self.resize, int):
            short = min(high, wide)
            return int(self.resize * high / short), int(self.resize * wide / short)
        if self.mode == "squash":
            return self.resize
        ratios = high / self.resize[0], wide / self.resize[1]
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return max(1, round(high / ratio)), max(1, round(wide / ratio))

    def _cropped(self, picture: np.ndarray) -> np.ndarray:
        """The central part of `size`; a smaller picture is put into the middle of one filled with `fill`."""
        if any(have < want for have, want in zip(picture.shape, self.size, strict=False)):
            larger = [max(have, want) for have, want in zip(picture.shape, self.size, strict=False)]
            top, left = (self._half(want - have, up=True) for have, want in zip(picture.shape, larger, strict=False))
            canvas = np.empty((*larger, 3), np.uint8)
            canvas[:] = self.fill
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            picture = canvas
        top, left = (self._half(have - want) for have, want in zip(picture.shape, self.size, strict=False))
        return picture[top : top + self.size[0], left : left + self.size[1]]

    def _half(self, pixels: int, up: bool = False) -> int:
        """Half of the pixels left over, as a library rounds it: at a crop, or, with `up`, at a border."""
        if self.corner == "round":
            return pixels // 2 if up else round(pixels / 2)
        return -(-pixels // 2) if up else pixels // 2


@register
def evaluation(
    size: int | tuple[int, int],
    resize: int | tuple[int, int] | None = None,
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear",
    mode: Literal["center", "squash", "border"] = "center",
    fill: tuple[int, int, int] = (0, 0, 0),
    corner: Literal["round", "floor"] = "round",
) -> Preprocess:
    """Resizes a picture, then crops its middle: evaluation(224, 256) is torchvision's usual one.

    size: of the crop, (h, w), or the side of a square. resize: before it; an int is the shorter side, and None leaves the
    picture as it is. mode, as in timm: center keeps the ratio of the sides, and (h, w) is covered; squash resizes to (h, w)
    exactly; border keeps the ratio within (h, w) and adds a border. fill: RGB of a border, and of what a small picture lacks.
    corner: where half a pixel is left over, the crop begins at the nearest even pixel (torchvision, timm) or at the one
    before (transformers).
    Equal to timm 1.0.31, to torchvision 0.29.2 and to transformers 5.23 (its PIL backend) in every bit of uint8: all resize
    with Pillow, which always smooths when it shrinks, so torchvision's `antialias` doesn't matter here. Raises `DataError`.
    differs: transformers' processors on torch tensors, its default where torchvision is installed, round otherwise: by at
    most 1 of 255 (bilinear) and 2 of 255 (bicubic) on the pictures of the tests, and by up to 19 on pure noise (bicubic).
    """
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    asked = [*sides, *([] if resize is None else [resize] if isinstance(resize, int) else resize)]
    if any(not 1 <= side <= LARGEST for side in asked):
        raise DataError(f"evaluation(size={size}, resize={resize}): a side must be 1 to {LARGEST} pixels")
    if mode != "center" and resize is None:
        raise DataError(f"evaluation(size={size}, mode='{mode}') needs resize=, the sides to resize to, such as {size}")
    if any(not 0 <= value <= 255 for value in fill):
        raise DataError(f"evaluation(fill={fill}): a colour has values from 0 to 255")
    if isinstance(resize, int):
        whole = resize if mode == "center" else (resize, resize)
    else:
        whole = None if resize is None else (resize[0], resize[1])
    return Preprocess(sides, whole, interpolation, mode, (fill[0], fill[1], fill[2]), corner)
