"""What a paper's released code measured where we measure another thing, kept so that its numbers can be met: nothing to rely on.

Paper 003 evaluates an image by n crops and attacks those: its `pgd_linf_n_patch` adds to each crop a perturbation of its own,
raises the loss of the head on the mean embedding of all, and judges that same mean. Here the crops *are* the sample, one clip of
n frames, so that any search, threat and encoder of clips runs on them:

    hardsight bench --data "crop_space(cifar10('PATH'), n=16)" --encoder "clips(zoo('made_simclr'))" --attack 'pgd(20, start=clean)'

It is no threat on images. Where two crops overlap they show one pixel with two values, which no image has, and a crop enlarged
from 9 to 32 pixels a side is changed between the pixels of its image. What an attack on the image can do, this one can do too,
so at the same eps, and searched as well, it finds less robustness than there is; `crops(...)` attacks the image, over crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hardsight.core.errors import DataError
from hardsight.data.base import Data, Images, Sample
from hardsight.data.feed import load, pixels
from hardsight.encoders.crops import Cutter
from hardsight.specs.catalog import register


class CropClips:
    """A split whose samples are the crops of another's images: clips uint8 [3, n, h, w]; has `batch`."""

    def __init__(self, images: Images, cutter: Cutter) -> None:
        self.images, self.cutter = images, cutter

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, place: int) -> Sample:
        sample = self.images.sample(place)
        return Sample(sample.id, self._cut(sample.image[None])[0], {"label": sample.target["label"]})

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Any]]:
        """Ids, clips uint8 [B, 3, n, h, w], labels [B]."""
        found = load(self.images, places)
        return found.ids, self._cut(found.images), {"label": found.target["label"]}

    def _cut(self, images: Tensor) -> Tensor:
        x = pixels(images, "cpu")
        parts = [self.cutter.cut(x, box) for box in self.cutter.boxes(*x.shape[-2:])]
        return (torch.stack(parts, 2) * 255).round().to(torch.uint8)


@register
def crop_space(
    data: Data,
    n: int = 16,
    size: int | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: float = 4 / 3,
    seed: int = 0,
) -> Data:
    """Paper 003's `official` setting, no threat on images: each image's n crops as one clip, every crop perturbed by itself.

    For encoders of clips: clips(X) answers their mean embedding. The crops are those of crops(X, n, size, scale, ratio, seed=seed),
    rounded to bytes. Source: CF-AMC-SSL, evaluate_empssl.py, pgd_linf_n_patch: Linf, zero start, steps of 1e-2. differs: the crops
    are the same for every image and visit, where theirs are drawn anew, and colours stay as they are.
    """
    if "label" not in data.card.targets or data.card.frames:
        raise DataError(f"crop_space cuts images with a label, and {data.card.name} has {', '.join(data.card.targets)}")
    cutter = Cutter(n, size, (scale[0], scale[1]), ratio, "fixed", seed)
    card = replace(
        data.card,
        name=f"{data.card.name}, {n} crops apart (no threat on images)",
        targets=("label",),
        size=(size, size) if size else data.card.size,
        frames=n,
    )
    return Data(card, {name: CropClips(images, cutter) for name, images in data.splits.items()})
