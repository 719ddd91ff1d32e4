"""The interface of a task, and the system that is attacked: an encoder and a head for one task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import DataError
from hardsight.data.base import DataCard
from hardsight.encoders.base import Card, Encoder, Features
from hardsight.encoders.extents import continued, on_image


@dataclass(frozen=True)
class Training:
    """The default training of this task's head on frozen features; `probe` may override it.

    epochs: if they give fewer than `steps` optimizer steps (few images), there are as many epochs as `steps` needs.
    """

    epochs: int
    steps: int
    lr: float
    weight_decay: float
    batch: int


class Task(Protocol):
    """One downstream task. name: also its metric's. target: the key of its target. reads: which features its head takes.

    attack: the spec of its own attack (`--attack task`). scale_free: the spec of a loss whose gradient no scale of the
    outputs makes zero; the audit compares the two. Two methods are optional: `around(x, run)`, the output for images x,
    computed with `run`, which gives that of any images (sliding windows), and `measured(target)`, the part that counts.
    """

    name: ClassVar[str]
    target: ClassVar[str]
    reads: ClassVar[Literal["pooled", "dense"]]
    attack: ClassVar[str]
    scale_free: ClassVar[str]
    training: ClassVar[Training]

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        """A new head: `Features` -> output. The caller seeds its weights."""
        ...

    def loss(self, output: Any, target: Any) -> Tensor:
        """[B]: the training loss of heads."""
        ...

    def error(self, output: Any, target: Any) -> Tensor:
        """[B] in [0, 1]: 0 for a perfect output, 1 for a completely wrong one."""
        ...

    def counts(self, output: Any, target: Any) -> dict[str, Tensor]:
        """Per image, first dimension B; `hardsight.metrics` sums them over images and computes its metrics from the sums."""
        ...

    def answer(self, output: Any) -> Any:
        """The prediction: classes [B], masks [B, H, W], depth maps [B, H, W], or a list of one dict of boxes per image."""
        ...


@dataclass(frozen=True)
class System:
    """An encoder and a trained head for one task: the model under attack. If the head has `layers`, it uses those layers.

    fitted: how the head was trained and how well (`probes/runs`); None if nothing was trained on its own, or it is not known.
    """

    encoder: Encoder
    head: nn.Module
    task: Task
    fitted: dict[str, Any] | None = field(default=None, compare=False)

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
    """`DataError` unless the data have this target (and at least two names of its classes, if `names` is given)."""
    if target not in data.targets:
        available = ", ".join(data.targets) or "no targets"
        raise DataError(f"{task} needs data with a {target}, and {data.name} has {available}")
    if names is not None and len(names) < 2:
        raise DataError(f"{task} needs at least two classes, and {data.name} has {len(names)}")


def dense_dim(card: Card, task: str) -> int:
    if not card.dense_dim:
        raise DataError(f"{task} needs dense features, and {card.name} has none")
    return card.dense_dim


def to_pixels(grid: Tensor, features: Features) -> Tensor:
    """Upsamples a map [B, C, h, w] on the dense grid to the image's pixels [B, C, H, W], without the encoder's padding."""
    if grid.device.type == "cpu" and torch.is_autocast_enabled("cpu") and bool(grid.isfinite().all()):
        return _upsampled_by_matmul(grid, features)
    return on_image(grid, features.extent, features.size)


def _upsampled_by_matmul(grid: Tensor, features: Features) -> Tensor:
    """The same up to rounding, in float32, by one matrix product per axis: with its gradient six times faster on a CPU.

    Only for finite values: in a matrix product, a non-finite value spreads over its row and column.
    """
    with torch.autocast("cpu", enabled=False):
        tall, wide = (
            continued(
                F.interpolate(torch.eye(cells, device=grid.device)[None], size=whole, mode="linear", align_corners=False),
                (start, kept - start - whole),
            )[0, :, :kept]
            for cells, whole, start, kept in zip(
                grid.shape[2:], features.covered, features.origin, features.size, strict=True
            )
        )
        return tall.T @ (grid.float() @ wide)


def seeded(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """Initializes a head: linear and convolutional weights drawn from `rng` (normal, std 0.01), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.weight.shape, generator=rng) * 0.01)
                if part.bias is not None:
                    part.bias.zero_()
    return module
