"""Networks on all frames of a clip together: torchvision's, and small ones of its blocks that train in seconds.

`tv_clips:r2plus1d_18`, `small_clips(kind=r2plus1d)`, `small_clips(kind=tubelets)`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders.adapt import closest, downloading, need_side, positions, seeded
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.encoders.clips import ClipEncoder, as_encoder, load_body, need_frames
from hardsight.specs.catalog import register

KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
FIXED = {"mvit_v1_b": (224, 16), "mvit_v2_s": (224, 16)}
"""Networks that take only one input side and one number of frames: (side, frames)."""
LEAST = {"s3d": (224, 14)}
"""Networks whose last pooling needs a minimum side and number of frames: (side, frames)."""


@register
def tv_clips(name: str, weights: str | None = "DEFAULT", resize: int | None = None, seed: int = 0) -> Encoder:
    """A video classification model of torchvision: r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v1_b, mvit_v2_s, swin3d_t.

    weights: the name of one of its weights (`KINETICS400_V1`, `DEFAULT`), None for random ones from `seed`. resize: of the
    shorter side, inside the attacked graph. Only its ResNets have dense features. Raises `SpecError`, `WeightsError`.
    """
    from torchvision import models

    known = models.list_models(module=models.video)
    if name not in known:
        raise SpecError(f"torchvision has no video model '{name}'{closest(name, known)}")
    options: Any = models.get_model_weights(name)
    named = [one.name for one in options]
    if weights not in (None, "DEFAULT", *named):
        raise WeightsError(
            f"torchvision has no weights '{weights}' of {name}{closest(weights, named) or f'; it has {named}'}"
        )
    with seeded(seed):
        if weights is None:
            model = models.get_model(name, weights=None)
        else:
            with downloading(
                f"tv_clips:{name}(weights='{weights}')", "weights=None for random weights", "download.pytorch.org"
            ):
                model = models.get_model(name, weights=weights)
    recipe = options.DEFAULT.transforms()
    body = Stages3d.of(model, name) if hasattr(model, "layer4") else Headless(model, name)
    card = Card(
        name=name,
        arch=name,
        source=f"tv_clips:{name}" + (f"(weights='{weights}')" if weights else "(weights=None)"),
        dim=body.dim,
        dense_dim=body.dim if body.depth else 0,
        stride=16 if body.depth else 0,
        size=int(recipe.crop_size[0]),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        resize=resize,
        classes=body.classes,
        parameters=sum(parameter.numel() for parameter in body.parameters()),
        note=weights or f"random weights, seed {seed}",
    )
    return as_encoder(ClipEncoder(body, card))


@register
def small_clips(
    kind: Literal["r2plus1d", "tubelets"] = "r2plus1d",
    widths: tuple[int, ...] = (16, 32, 64),
    frames: int = 8,
    size: int = 32,
    seed: int = 0,
    weights: str | None = None,
) -> Encoder:
    """A small video network for clips of about 8x32x32: R(2+1)D, or a transformer on tubelets (2 frames by 8x8 pixels).

    widths: channels of the R(2+1)D's stages, all of which except the first halve time, height and width; or of the
    transformer's blocks, all equal. frames, size: fixed by the transformer's position embeddings; the R(2+1)D takes any.
    weights: a file that training exported; None: random ones from `seed`. Raises `SpecError`, `WeightsError`.
    Source: Tran et al., CVPR 2018, in torchvision's blocks; Arnab et al., ICCV 2021 (ViViT, model 1), in timm's.
    """
    if not widths or min(widths) < 1:
        raise SpecError(f"small_clips needs a number of channels per stage, such as (16, 32, 64), not {widths}")
    with seeded(seed):
        body = small_r2plus1d(widths) if kind == "r2plus1d" else Tubelets(widths, frames, size)
    if weights is not None:
        load_body(body, weights, f"{kind}{widths}")
    stride = 2 ** len(widths) if kind == "r2plus1d" else Tubelets.patch
    card = Card(
        name=f"small {kind}",
        arch=f"{kind}{widths}",
        source=f"small_clips(kind={kind})",
        dim=body.dim,
        dense_dim=body.dim,
        stride=stride,
        size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        parameters=sum(parameter.numel() for parameter in body.parameters()),
        note=weights or f"random weights, seed {seed}",
    )
    return as_encoder(ClipEncoder(body, card))


class Stages3d(nn.Module):
    """A chain of stages on clips: the output of each is a map [B, D, t, h, w]; pooled is the last map's mean, [B, D]."""

    multiple = 1

    def __init__(self, stages: list[nn.Module], dim: int, head: nn.Linear | None, name: str) -> None:
        super().__init__()
        self.stages, self.head = nn.ModuleList(stages), head
        self.dim, self.depth, self.name = dim, len(stages), name
        self.classes = head.out_features if head is not None else 0

    @classmethod
    def of(cls, model: Any, name: str) -> Stages3d:
        """The stages and the classifier of torchvision's `VideoResNet`."""
        stages = [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
        return cls(stages, model.fc.in_features, model.fc, name)

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        maps, x = [], pixels
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = x.mean((2, 3, 4))
        taken = tuple(maps[i] for i in positions(layers, self.depth, self.name))
        return BodyOutput(pooled, taken, None if self.head is None else pooled)

    def classify(self, trunk: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(trunk)


class Headless(nn.Module):
    """A torchvision video network without its last layer: pooled is that layer's input, and there are no maps."""

    depth, multiple = 0, 1

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        place = "classifier" if hasattr(model, "classifier") else "head"
        self.head = getattr(model, place)
        setattr(model, place, nn.Identity())
        self.model, self.name = model, name
        last: Any = [part for part in self.head.modules() if isinstance(part, nn.Linear | nn.Conv3d)][-1]
        self.convolution = isinstance(last, nn.Conv3d)
        self.dim = last.in_channels if self.convolution else last.in_features
        self.classes = last.out_channels if self.convolution else last.out_features

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.name in FIXED:
            need_side(pixels, FIXED[self.name][0], self.name)
            need_frames(pixels, self.name, frames=FIXED[self.name][1])
        side, frames = LEAST.get(self.name, (1, 1))
        if min(pixels.shape[-2:]) < side or pixels.shape[2] < frames:
            raise SpecError(
                f"{self.name} needs at least {frames} frames of {side}x{side} pixels, and these clips have "
                f"{pixels.shape[2]} of {pixels.shape[-2]}x{pixels.shape[-1]}; resize={side} makes them larger"
            )
        pooled = self.model(pixels)
        return BodyOutput(pooled, (), pooled)

    def classify(self, trunk: Tensor) -> Tensor:
        return self.head(trunk[:, :, None, None, None]).flatten(1) if self.convolution else self.head(trunk)


class Tubelets(nn.Module):
    """A transformer whose tokens are tubelets; pooled [B, D] is the mean of the last tokens after a layer norm."""

    patch, tube = 8, 2

    def __init__(self, widths: tuple[int, ...], frames: int, size: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        dim = widths[0]
        if set(widths) != {dim} or dim % 16:
            raise SpecError(f"small_clips(kind=tubelets): widths is {widths}; its blocks share one width, a multiple of 16")
        if size % self.patch or frames % self.tube:
            raise SpecError(
                f"small_clips(kind=tubelets): frames is {frames} and size {size}; tubelets are {self.tube} frames by "
                f"{self.patch} pixels, so give multiples of these"
            )
        self.dim, self.depth, self.multiple = dim, len(widths), 1
        self.frames, self.side, self.classes = frames, size, 0
        self.embed = nn.Conv3d(3, dim, (self.tube, self.patch, self.patch), (self.tube, self.patch, self.patch))
        count = (frames // self.tube) * (size // self.patch) ** 2
        self.places = nn.Parameter(torch.randn(1, count, dim) / math.sqrt(dim))
        self.blocks = nn.ModuleList(Block(dim, dim // 16, qkv_bias=True) for _ in widths)
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        need_side(pixels, self.side, "small_clips(kind=tubelets)")
        need_frames(pixels, "small_clips(kind=tubelets)", frames=self.frames)
        grid = self.embed(pixels)
        x, maps = grid.flatten(2).transpose(1, 2) + self.places, []
        for block in self.blocks:
            x = block(x)
            maps.append(self.norm(x).transpose(1, 2).unflatten(2, grid.shape[2:]))
        pooled = maps[-1].mean((2, 3, 4))
        return BodyOutput(pooled, tuple(maps[i] for i in positions(layers, self.depth, "tubelets")), None)


def small_r2plus1d(widths: tuple[int, ...]) -> Stages3d:
    """R(2+1)D with one block per stage: the stem halves height and width; each stage except the first halves all three."""
    from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D

    def block(before: int, width: int, stride: int) -> nn.Module:
        shortcut = None
        if stride != 1 or before != width:
            shortcut = nn.Sequential(nn.Conv3d(before, width, 1, stride, bias=False), nn.BatchNorm3d(width))
        return BasicBlock(before, width, Conv2Plus1D, stride, shortcut)

    first = widths[0]
    stem = nn.Sequential(
        nn.Conv3d(3, first, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False),
        nn.BatchNorm3d(first),
        nn.ReLU(),
        nn.Conv3d(first, first, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(first),
        nn.ReLU(),
    )
    stages: list[nn.Module] = [stem, block(first, first, 1)]
    stages += [block(before, width, 2) for before, width in itertools.pairwise(widths)]
    body = Stages3d(stages, widths[-1], None, "small r2plus1d")
    for part in body.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return body
