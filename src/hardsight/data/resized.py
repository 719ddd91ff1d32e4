"""Any data set at another size, so that eps can be defined at the input size of an encoder.

With `resize=224` an encoder enlarges its images inside the attacked graph: the perturbation has the resolution of the image,
and eps means the same for every encoder. Much published work enlarges the images first and attacks the enlarged ones, which
gives the attack more freedom the larger they become. Both can be measured, and a report says which one was used:

    --encoder 'timm:vit_small_patch14_dinov2(resize=98)' --data cifar10:PATH                  eps at 32x32
    --encoder 'timm:vit_small_patch14_dinov2(size=98)' --data "resized(cifar10('PATH'), 98)"  eps at 98x98
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.data.base import Data, Images, Sample
from hardsight.data.images import check_size
from hardsight.specs.catalog import register


class Resized:
    """A split at another size: images resized bilinearly and rounded to uint8, masks and depth by nearest, boxes scaled."""

    def __init__(self, images: Images, size: tuple[int, int]) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, place: int) -> Sample:
        sample = self.images.sample(place)
        return Sample(sample.id, self._image(sample.image), {name: self._target(sample, name) for name in sample.target})

    def _image(self, image: Tensor) -> Tensor:
        """Resizes an image [3, H, W], or every frame of a clip [3, T, H, W]."""
        x = image.float() if image.dim() == 3 else image.float().transpose(0, 1)
        x = F.interpolate(x[None] if x.dim() == 3 else x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = x.round().clamp(0, 255).to(torch.uint8)
        return x[0] if image.dim() == 3 else x.transpose(0, 1).contiguous()

    def _target(self, sample: Sample, name: str) -> Any:
        value = sample.target[name]
        if name in ("mask", "depth"):
            return F.interpolate(value[None, None].float(), self.size, mode="nearest-exact")[0, 0].to(value.dtype)
        if name == "boxes":
            high, wide = (new / old for new, old in zip(self.size, sample.image.shape[-2:], strict=True))
            return value * value.new_tensor([wide, high, wide, high])
        return value


@register
def resized(data: Data, size: int | tuple[int, int]) -> Data:
    """Another data set, with every image resized to `size` before it is attacked: resized(cifar10('PATH'), 96).

    size: (h, w), or the side of a square. Tables show this size and the original size of the images.
    """
    check_size(size)
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    card = replace(
        data.card, name=f"{data.card.name} at {sides[0]}x{sides[1]}", size=sides, own=data.card.own or data.card.size
    )
    return Data(card, {name: Resized(images, sides) for name, images in data.splits.items()})
