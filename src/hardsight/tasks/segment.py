"""Semantic segmentation: a head on the dense features, logits upsampled to the pixels; whole images or sliding windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import DataError, SpecError
from hardsight.data.base import IGNORE, DataCard
from hardsight.encoders.base import Encoder
from hardsight.losses.base import mean_where, right_pixels
from hardsight.losses.classify import cross_entropy
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, needs
from hardsight.tasks.heads import LinearHead, channels, deeplab, fcn, last_four
from hardsight.tasks.official import official as released_as
from hardsight.tasks.windows import slide


@dataclass(frozen=True)
class Segment:
    kind: str
    window: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    name: ClassVar[str] = "segment"
    target: ClassVar[str] = "mask"
    reads: ClassVar[Literal["pooled", "dense"]] = "dense"
    attack: ClassVar[str] = "segpgd"
    scale_free: ClassVar[str] = "pixel_margin"
    training: ClassVar[Training] = Training(epochs=10, steps=300, lr=1e-2, weight_decay=1e-4, batch=32)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "segment", "mask", data.mask_classes)
        layers = last_four(encoder) if self.kind == "linear4" else ()
        dim, classes = channels(encoder, layers, "segment"), len(data.mask_classes)
        if self.kind == "fcn":
            return fcn(dim, classes)
        return deeplab(dim, classes) if self.kind == "deeplab" else LinearHead(dim, classes, layers)

    def around(self, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return slide(x, run, self.window, self.stride) if self.window else run(x)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """The fraction of labelled pixels that are misclassified."""
        return mean_where((~right_pixels(output, target)).float(), target != IGNORE)

    def counts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Pixels per class, [B, K]: in both, in the prediction, in the label; pixels without a label are left out."""
        classes = output.shape[1]
        valid = target != IGNORE
        if bool((target[valid] >= classes).any()):
            raise DataError(
                f"a mask has the id {int(target[valid].max())}, but the ids of {classes} classes end at {classes - 1}"
            )
        mask = torch.where(valid, target, classes)
        greatest = output.max(1)
        seen = torch.where(valid & ~greatest.values.isnan(), greatest.indices, classes)
        both = torch.where(mask == seen, mask, classes)

        def tally(ids: Tensor) -> Tensor:
            return torch.stack([torch.bincount(one.flatten(), minlength=classes + 1)[:classes] for one in ids]).int()

        return {"intersection": tally(both), "predicted": tally(seen), "labelled": tally(mask)}

    def answer(self, output: Tensor) -> Tensor:
        return output.max(1).indices


@register
def segment(
    head: Literal["linear", "linear4", "fcn", "deeplab"] = "linear",
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    official: str | tuple[str, ...] = (),
) -> Task:
    """Semantic segmentation with a head on the dense features, on whole images or sliding windows.

    head: linear on the last layer, or on the last four; FCN's or DeepLabV3's, for convolutional networks. window, stride:
    (h, w) in pixels, or one number for both; the logits of overlapping windows are averaged; stride=None is two thirds of
    the window. The head is trained on whole images, and attacks on embeddings use whole images. official: quirks of paper
    002's released evaluation, by the names that `hardsight list quirks` shows, or all.
    """
    if window is None:
        if stride is not None:
            raise SpecError("segment: stride is given without a window; give one too, such as window=512")
        return released_as(Segment(head), official)
    size = _pair(window)
    step = _pair(stride) if stride is not None else tuple(max(1, 2 * side // 3) for side in size)
    if min(size) < 1 or not all(1 <= one <= side for one, side in zip(step, size, strict=True)):
        raise SpecError(
            f"segment: window is {size} and stride {step}; both must be at least 1, and stride at most the window"
        )
    return released_as(Segment(head, size, step), official)  # type: ignore[arg-type]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
