"""Encoders of clips [B, 3, T, H, W]: an image encoder applied frame by frame, or a network on all frames together.

Both return `Features` like an image encoder, so that probes, tasks and attacks need no special case: pooled [B, D] of the
whole clip, and dense maps averaged over time. `clips(timm('resnet18'))` cannot distinguish a clip from its reversal;
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
from hardsight.encoders.extents import Spacing
from hardsight.encoders.weights_file import read_weights
from hardsight.specs.catalog import register


class ClipEncoder(nn.Module):
    """The counterpart of `Encoder` for clips: pixels in [0, 1] in; its body takes normalized clips.

    The body's maps have a time axis, [B, D', t, h, w]; a body without maps has depth 0, and its encoder no dense features.
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
        """Features of clips x [B, 3, T, H, W] in [0, 1]; the maps of `layers`, averaged over time, are returned too."""
        need_clips(x, self.card.name)
        height, width = x.shape[-2:]
        pixels = (_resized(x, self.card.resize) - self.mean) / self.std
        if layers and not self.body.depth:
            raise SpecError(f"{self.card.name} has no layers; leave layers out")
        out = self.body(pixels, (-1, *layers) if self.body.depth else ())
        maps = [one.mean(2) for one in out.maps]
        dense = maps[0] if maps else None
        covered = (height, width)
        if dense is not None:  # at the side that the body reads, cells are `stride` pixels apart
            scale = height / pixels.shape[-2], width / pixels.shape[-1]
            covered = Spacing(self.card.stride).extent(dense.shape[-2:], scale).covered
        return Features(out.pooled, dense, tuple(maps[1:]), out.trunk, (height, width), covered)

    def classify(self, features: Features) -> Tensor:
        """Logits [B, K] of the model's own classifier; `ValueError` if it has none."""
        if not self.card.classes or features.trunk is None:
            raise ValueError(f"{self.card.name} has no classifier of its own; use a probe: classify(head='linear')")
        return self.body.classify(features.trunk)

    def with_card(self, **changes: Any) -> ClipEncoder:
        self.card = replace(self.card, **changes)
        return self


class ByFrame(nn.Module):
    """An image encoder applied to every frame of a clip; its own classifier returns the mean of the frames' logits."""

    def __init__(self, image: Encoder, pool: str, frames: int | None) -> None:
        super().__init__()
        self.image, self.pool, self.frames = image, pool, frames
        dim = image.card.dim * (frames or 1) if pool == "joined" else image.card.dim
        name = f"{image.card.name}, {'mean of' if pool == 'mean' else f'{frames} joined'} frames"
        note = "; ".join(text for text in (image.card.note, "frame by frame") if text)
        self.card = replace(image.card, name=name, arch=f"clips({image.card.arch}, {pool})", dim=dim, note=note)

    @property
    def body(self) -> nn.Module:
        """The image encoder's body: weights that training exports from this encoder can be loaded into that one."""
        return self.image.body

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        need_clips(x, self.card.name)
        count, frames = len(x), x.shape[2]
        if self.pool == "joined":
            need_frames(x, self.card.name, frames=self.frames or 0)
        found = self.image(x.transpose(1, 2).flatten(0, 1), layers)

        def mean(values: Tensor) -> Tensor:
            return values.unflatten(0, (count, frames)).mean(1)

        pooled = found.pooled.view(count, -1) if self.pool == "joined" else mean(found.pooled)
        return found._replace(
            pooled=pooled,
            dense=None if found.dense is None else mean(found.dense),
            layers=tuple(map(mean, found.layers)),
            trunk=None if found.trunk is None else found.trunk.unflatten(0, (count, frames)),
        )

    def classify(self, features: Features) -> Tensor:
        trunk = features.trunk
        if trunk is None:
            return self.image.classify(features)  # which raises the error
        by_frame = features._replace(trunk=trunk.flatten(0, 1))
        return self.image.classify(by_frame).unflatten(0, trunk.shape[:2]).mean(1)

    def with_card(self, **changes: Any) -> ByFrame:
        self.card = replace(self.card, **changes)
        return self


@register
def clips(image: Encoder, pool: Literal["mean", "joined"] = "mean", frames: int | None = None) -> Encoder:
    """An image encoder as an encoder of clips: applied to every frame, then pooled over time; clips(timm('resnet18')).

    pool: mean, which does not depend on the order of the frames, or joined, the concatenated features of the frames, which
    does and needs the number of `frames`. Dense features are the mean over time.
    """
    if (pool == "joined") != (frames is not None) or (frames or 1) < 1:
        raise SpecError(
            f"clips: pool='{pool}' and frames={frames}; 'joined' needs frames= of at least 1, and 'mean' has none"
        )
    return as_encoder(ByFrame(image, pool, frames))


def as_encoder(clip_encoder: ClipEncoder | ByFrame) -> Encoder:
    """The clip encoder, typed as an `Encoder`: the same methods and card, for clips in place of images."""
    return clip_encoder.eval()  # type: ignore[return-value]


def need_clips(x: Tensor, name: str) -> None:
    """`ShapeError` unless x is [B, 3, T, H, W]."""
    if x.dim() != 5 or x.shape[1] != 3:
        raise ShapeError(f"{name} reads clips [B, 3, T, H, W]; these are {list(x.shape)}; for images use an image encoder")


def need_frames(x: Tensor, name: str, frames: int = 0, tube: int = 1) -> None:
    """`ShapeError` unless clips x have `frames` frames (0: any number), and a multiple of `tube`."""
    count = x.shape[2]
    if frames and count != frames:
        raise ShapeError(
            f"{name} reads clips of {frames} frames, and these have {count}; open the data with frames={frames}"
        )
    if count % tube:
        raise ShapeError(
            f"{name} reads frames {tube} at a time, and these clips have {count}; open the data with a multiple of {tube}"
        )


def load_body(body: nn.Module, path: str, name: str) -> None:
    """Loads weights, such as training exports, into `body`; `WeightsError` if they are those of another network."""
    state = read_weights(Path(path).expanduser())
    try:
        body.load_state_dict(state)  # type: ignore[arg-type]
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} does not hold the weights of this {name}: {reason}") from None


def _resized(x: Tensor, side: int | None) -> Tensor:
    """Frames resized so that the shorter side is `side`, inside the attacked graph."""
    if not side:
        return x
    scale = side / min(x.shape[-2:])
    size = [round(one * scale) for one in x.shape[-2:]]
    frames = F.interpolate(x.transpose(1, 2).flatten(0, 1), size=size, mode="bilinear", antialias=True, align_corners=False)
    return frames.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)
