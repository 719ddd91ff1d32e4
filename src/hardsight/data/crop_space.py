"""The threat model of a paper's released code, which differs from ours: only for reproducing that paper's numbers.

Paper 003 evaluates an image by n crops and attacks the crops: its `pgd_linf_n_patch` adds a separate perturbation to each
crop, maximizes the loss of the head on the mean embedding, and evaluates that same mean. Here the crops *are* the sample,
one clip of n frames, so every search, threat model and clip encoder works on them:

    hardsight bench --data "crop_space(cifar10('PATH'), n=16)" --encoder "clips(zoo('made_simclr'))" --attack 'pgd(20, start=clean)'

This is not a threat model on images. Where two crops overlap, one pixel has two values, which no image can have; and a crop
enlarged from 9 to 32 pixels per side is perturbed at a finer resolution than its image has. This attack can do all that an
attack on the image can do and more, so at the same eps it underestimates robustness. `crops(...)` attacks the image itself,
through its crops.
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
    """A split whose samples are the crops of another split's images, as clips uint8 [3, n, h, w]; has `batch`."""

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
    """Paper 003's `official` setting, not a threat model on images: an image's n crops as one clip, each perturbed alone.

    For clip encoders: clips(X) returns the mean embedding of the crops. The crops are those of crops(X, n, size, scale,
    ratio, seed=seed), rounded to uint8. Source: CF-AMC-SSL, evaluate_empssl.py, pgd_linf_n_patch: Linf, zero start, step
    size 1e-2. differs: the crops are the same for all images and evaluations, while theirs are drawn each time; colours are
    not changed.
    """
    if "label" not in data.card.targets or data.card.frames:
        kind = "clips" if data.card.frames else "images"
        raise DataError(
            f"crop_space needs images with a label, and {data.card.name} has {kind} with {', '.join(data.card.targets)}"
        )
    cutter = Cutter(n, size, (scale[0], scale[1]), ratio, "fixed", seed)
    card = replace(
        data.card,
        name=f"{data.card.name}, {n} crops apart (no threat on images)",
        targets=("label",),
        size=(size, size) if size else data.card.size,
        frames=n,
    )
    return Data(card, {name: CropClips(images, cutter) for name, images in data.splits.items()})
