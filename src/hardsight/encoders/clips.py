"""Encoders of clips [B, 3, T, H, W]: an image encoder frame by frame, or a network that looks at all frames together.

Both answer the `Features` of an image encoder, so that probes, tasks and attacks need not know: pooled [B, D] of the whole
clip, and dense maps that are the mean over time. `clips(timm('resnet18'))` cannot tell a clip from the same one backwards;
`small_clips(...)`, `tv_clips:r2plus1d_18` and `hf_clips:facebook/vjepa2-vitl-fpc64-256` can.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import ShapeError, SpecError, WeightsError
from hardsight.encoders.base import Card, Encoder, Features
from hardsight.encoders.weights_file import read_weights
from hardsight.specs.catalog import register


class ClipEncoder(nn.Module):
    """A body that sees normalized clips, with its pixels in [0, 1]: to `ClipEncoder` what a body is to `Encoder`.

    Its body's maps have a time, [B, D', t, h, w]; a body without maps has depth 0, and its encoder has no dense features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, card: Card) -> None:
        super().__init__()
        self.body: Any = body
        self.card = card
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        """Features of clips x [B, 3, T, H, W] in [0, 1]; `layers` are given besides, as maps averaged over time."""
        need_clips(x, self.card.name)
        height, width = x.shape[-2:]
        pixels = (_resized(x, self.card.resize) - self.mean) / self.std
        if layers and not self.body.depth:
            raise SpecError(f"{self.card.name} has no layers to look into")
        seen = self.body(pixels, (-1, *layers) if self.body.depth else ())
        maps = [one.mean(2) for one in seen.maps]
        dense = maps[0] if maps else None
        covered = (height, width)
        if dense is not None and not self.card.resize:  # a strided convolution's last cells may reach past the frame
            rows, columns = (cells * self.card.stride for cells in dense.shape[-2:])
            covered = max(height, rows), max(width, columns)
        return Features(seen.pooled, dense, tuple(maps[1:]), seen.trunk, (height, width), covered)

    def classify(self, features: Features) -> Tensor:
        """Logits [B, K] of the model's own classifier; `ValueError` where it has none."""
        if not self.card.classes or features.trunk is None:
            raise ValueError(f"{self.card.name} has no classifier of its own; use a probe: classify(head='linear')")
        return self.body.classify(features.trunk)

    def with_card(self, **changes: Any) -> ClipEncoder:
        self.card = replace(self.card, **changes)
        return self


class ByFrame(nn.Module):
    """An image encoder on every frame of a clip; its own classifier answers the mean of the frames' logits."""

    def __init__(self, image: Encoder, pool: str, frames: int | None) -> None:
        super().__init__()
        self.image, self.pool, self.frames = image, pool, frames
        dim = image.card.dim * (frames or 1) if pool == "joined" else image.card.dim
        name = f"{image.card.name}, {'mean of' if pool == 'mean' else f'{frames} joined'} frames"
        note = "; ".join(text for text in (image.card.note, "frame by frame") if text)
        self.card = replace(image.card, name=name, arch=f"clips({image.card.arch}, {pool})", dim=dim, note=note)

    @property
    def body(self) -> nn.Module:
        """The image encoder's: what training saves of this one can be loaded as that one."""
        return self.image.body

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        need_clips(x, self.card.name)
        count, frames = len(x), x.shape[2]
        if self.pool == "joined":
            need_frames(x, self.card.name, frames=self.frames or 0)
        seen = self.image(x.transpose(1, 2).flatten(0, 1), layers)

        def mean(found: Tensor) -> Tensor:
            return found.unflatten(0, (count, frames)).mean(1)

        pooled = seen.pooled.view(count, -1) if self.pool == "joined" else mean(seen.pooled)
        return seen._replace(
            pooled=pooled,
            dense=None if seen.dense is None else mean(seen.dense),
            layers=tuple(map(mean, seen.layers)),
            trunk=None if seen.trunk is None else seen.trunk.unflatten(0, (count, frames)),
        )

    def classify(self, features: Features) -> Tensor:
        trunk = features.trunk
        if trunk is None:
            return self.image.classify(features)  # which says that there is none
        by_frame = features._replace(trunk=trunk.flatten(0, 1))
        return self.image.classify(by_frame).unflatten(0, trunk.shape[:2]).mean(1)

    def with_card(self, **changes: Any) -> ByFrame:
        self.card = replace(self.card, **changes)
        return self


@register
def clips(image: Encoder, pool: Literal["mean", "joined"] = "mean", frames: int | None = None) -> Encoder:
    """An image encoder as an encoder of clips: every frame alone, then pooled over time; clips(timm('resnet18')).

    pool: the mean, which does not depend on the frames' order, or the frames' features joined end to end, which does and needs
    to know how many `frames` there are. Dense features are the mean over time.
    """
    if (pool == "joined") != (frames is not None) or (frames or 1) < 1:
        raise SpecError(f"clips: pool='{pool}' and frames={frames}; 'joined' needs frames=, at least 1, and 'mean' has none")
    return as_encoder(ByFrame(image, pool, frames))


def as_encoder(clip_encoder: ClipEncoder | ByFrame) -> Encoder:
    """The encoder of clips, to the type checker an `Encoder`: the same calls and card, of clips in place of images."""
    return clip_encoder.eval()  # type: ignore[return-value]


def need_clips(x: Tensor, name: str) -> None:
    """`ShapeError` unless x is [B, 3, T, H, W]."""
    if x.dim() != 5 or x.shape[1] != 3:
        raise ShapeError(f"{name} reads clips [B, 3, T, H, W]; these are {list(x.shape)}; for images use an image encoder")


def need_frames(x: Tensor, name: str, frames: int = 0, tube: int = 1) -> None:
    """`ShapeError` unless clips x have `frames` frames (0: any number) and a number that `tube` divides."""
    there = x.shape[2]
    if frames and there != frames:
        raise ShapeError(
            f"{name} reads clips of {frames} frames, and these have {there}; open the data with frames={frames}"
        )
    if there % tube:
        raise ShapeError(
            f"{name} reads frames {tube} at a time, and these clips have {there}; open the data with a multiple"
        )


def load_body(body: nn.Module, path: str, name: str) -> None:
    """Loads a body's weights, such as training exported, in place; `WeightsError` where they are another network's."""
    state = read_weights(Path(path).expanduser())
    try:
        body.load_state_dict(state)  # type: ignore[arg-type]
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} does not hold the weights of this {name}: {reason}") from None


def _resized(x: Tensor, side: int | None) -> Tensor:
    """Every frame's shorter side resized to `side`, within the attacked graph."""
    if not side:
        return x
    scale = side / min(x.shape[-2:])
    size = [round(one * scale) for one in x.shape[-2:]]
    frames = F.interpolate(x.transpose(1, 2).flatten(0, 1), size=size, mode="bilinear", antialias=True, align_corners=False)
    return frames.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)
