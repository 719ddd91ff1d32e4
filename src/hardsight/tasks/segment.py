"""Semantic segmentation: batch norm and a 1x1 convolution on the dense features, logits upsampled to the image's pixels.

Source of the head: DINOv2's and paper 002's linear segmentation probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.data.base import IGNORE, DataCard
from hardsight.encoders.base import Encoder, Features
from hardsight.errors import DataError
from hardsight.losses.base import mean_where
from hardsight.losses.classify import cross_entropy
from hardsight.tasks.base import Task, Training, dense_dim, needs, to_pixels


class LinearHead(nn.Module):
    """Features -> logits [B, K, H, W]."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.linear = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Features) -> Tensor:
        assert features.dense is not None
        return to_pixels(self.linear(self.norm(features.dense)), features)


@dataclass(frozen=True)
class Segment:
    kind: str
    name: ClassVar[str] = "segment"
    target: ClassVar[str] = "mask"
    reads: ClassVar[Literal["pooled", "dense"]] = "dense"
    attack: ClassVar[str] = "segpgd"
    training: ClassVar[Training] = Training(epochs=10, steps=300, lr=1e-2, weight_decay=1e-4, batch=32)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "segment", "mask", data.mask_classes)
        return LinearHead(dense_dim(encoder.card, "segment"), len(data.mask_classes))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """The share of labelled pixels that are wrong."""
        return mean_where((output.argmax(1) != target).float(), target != IGNORE)

    def counts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Pixels by class, [B, K]: in both, in the prediction, in the label; pixels without a class are left out of all."""
        classes = output.shape[1]
        valid = target != IGNORE
        if bool((target[valid] >= classes).any()):
            raise DataError(
                f"a mask has the id {int(target[valid].max())}, but the ids of {classes} classes end at {classes - 1}"
            )
        mask = torch.where(valid, target, classes)
        seen = torch.where(valid, output.argmax(1), classes)
        both = torch.where(mask == seen, mask, classes)

        def tally(ids: Tensor) -> Tensor:
            return torch.stack([torch.bincount(one.flatten(), minlength=classes + 1)[:classes] for one in ids]).int()

        return {"intersection": tally(both), "predicted": tally(seen), "labelled": tally(mask)}

    def answer(self, output: Tensor) -> Tensor:
        return output.argmax(1)


@register
def segment(head: Literal["linear"] = "linear") -> Task:
    """Semantic segmentation with a linear head on the dense features."""
    return Segment(head)
