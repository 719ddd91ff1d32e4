"""What a task is, and what a system is: an encoder and a head, at one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import DataError
from hardsight.data.base import DataCard
from hardsight.encoders.base import Card, Encoder, Features


@dataclass(frozen=True)
class Training:
    """How a head of this task is usually trained on fixed features; `probe` may say otherwise.

    epochs: unless that is fewer than `steps` optimizer steps, as with few images: then as many epochs as make those.
    """

    epochs: int
    steps: int
    lr: float
    weight_decay: float
    batch: int


class Task(Protocol):
    """One downstream task. name: also its metric's. target: the key of its target. reads: what its head reads of an encoder.

    attack: the spec of its own attack (`--attack task`). scale_free: the spec of a loss that no scale of the outputs can flatten,
    which the audit holds beside it. Two methods are optional: `around(x, run)`, the output for images x
    where `run` gives that of any images (sliding windows), and `measured(target)`, the target without what does not count.
    """

    name: ClassVar[str]
    target: ClassVar[str]
    reads: ClassVar[Literal["pooled", "dense"]]
    attack: ClassVar[str]
    scale_free: ClassVar[str]
    training: ClassVar[Training]

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        """A new head: `Features` -> output. Its weights are for the caller to seed."""
        ...

    def loss(self, output: Any, target: Any) -> Tensor:
        """[B]: what heads are trained on."""
        ...

    def error(self, output: Any, target: Any) -> Tensor:
        """[B] in [0, 1]: 0 a perfect output, 1 a broken one."""
        ...

    def counts(self, output: Any, target: Any) -> dict[str, Tensor]:
        """Per image, leading [B]; they add over images. `hardsight.metrics` makes figures of them."""
        ...

    def answer(self, output: Any) -> Any:
        """What a person would look at: a class [B], a mask [B, H, W], a depth map [B, H, W], or a list of a dict of boxes an image."""
        ...


@dataclass(frozen=True)
class System:
    """An encoder and a trained head at one task: what is attacked. A head with `layers` reads these of the encoder."""

    encoder: Encoder
    head: nn.Module
    task: Task

    def output(self, x: Tensor) -> Any:
        """The task's output for images x [B, 3, H, W] in [0, 1]."""
        around = getattr(self.task, "around", None)
        return around(x, self._whole) if around else self._whole(x)

    def _whole(self, x: Tensor) -> Any:
        layers = getattr(self.head, "layers", ())
        return self.head(self.encoder(x, layers) if layers else self.encoder(x))

    def pooled(self, x: Tensor) -> Tensor:
        return self.encoder(x).pooled

    def dense(self, x: Tensor) -> Tensor:
        found = self.encoder(x).dense
        if found is None:
            raise DataError(f"{self.encoder.card.name} has no dense features")
        return found


def needs(data: DataCard, task: str, target: str, names: tuple[str, ...] | None = None) -> None:
    """`DataError` unless the data carry this target (and name its classes)."""
    if target not in data.targets:
        there = ", ".join(data.targets) or "no targets"
        raise DataError(f"{task} needs data with a {target}, and {data.name} has {there}")
    if names is not None and len(names) < 2:
        raise DataError(f"{task} needs at least two classes, and {data.name} has {len(names)}")


def dense_dim(card: Card, task: str) -> int:
    if not card.dense_dim:
        raise DataError(f"{task} needs dense features, and {card.name} has none")
    return card.dense_dim


def to_pixels(grid: Tensor, features: Features) -> Tensor:
    """A map [B, C, h, w] on the dense grid brought to the image's pixels [B, C, H, W], without what the encoder padded."""
    height, width = features.size
    if grid.device.type == "cpu" and torch.is_autocast_enabled("cpu") and bool(grid.isfinite().all()):
        return _by_products(grid, features)
    return F.interpolate(grid, size=features.covered, mode="bilinear", align_corners=False)[..., :height, :width]


def _by_products(grid: Tensor, features: Features) -> Tensor:
    """The same to rounding, in float32, by a product for each axis: with its gradient a sixth of a CPU's time for it.

    Of finite values: in a product one that is not spreads over its row and column.
    """
    with torch.autocast("cpu", enabled=False):
        tall, wide = (
            F.interpolate(
                torch.eye(cells, device=grid.device)[None].float(), size=whole, mode="linear", align_corners=False
            )[0, :, :kept]
            for cells, whole, kept in zip(grid.shape[2:], features.covered, features.size, strict=True)
        )
        return tall.T @ (grid.float() @ wide)


def seeded(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """Linear and convolutional weights drawn anew from `rng` (normal, std 0.01), biases zero: the start of every head."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.weight.shape, generator=rng) * 0.01)
                if part.bias is not None:
                    part.bias.zero_()
    return module
