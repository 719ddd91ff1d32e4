"""Small networks: CIFAR ResNets with published weights, `tiny` of the embedded zoo encoders, and a transformer of its size.

Each is a body itself, so that the names in its state dict are those of the published checkpoints.

    resnet20 .. resnet110  He et al. 2015, section 4.2, as in akamaster/pytorch_resnet_cifar10 (option A shortcuts)
    resnet4b               alpha-beta-CROWN's CIFAR-10 model: no batch norm, 32x32 images only
    tiny                   four stages of one basic block each, 0.40 M parameters, 19 million multiply-adds at 64x64
    tiny_vit               convolutional stem, patches of 8 pixels, class token, four blocks of width 128, 0.90 M parameters
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.encoders.adapt import finish, need_side, positions, seeded
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, BodyOutput, Encoder
from hardsight.specs.catalog import register


@register
def tiny(
    seed: int = 0,
    layers: tuple[int, ...] = (1, 2, 3),
    widths: tuple[int, ...] = (16, 32, 80, 144),
    classes: int = 0,
) -> Encoder:
    """A small residual network with random weights, for images of about 64x64: the architecture of the embedded encoders.

    layers: which of the four stages (strides 2, 4, 8, 16) are joined as `dense`, on the finest grid among them. widths:
    channels of each stage; the last is the dimension of `pooled`. classes: of a linear classifier of its own, 0 for none.
    """
    with seeded(seed):
        body = Tiny(widths, classes)
    return wrap(body, "tiny", layers, source="tiny", note=f"random weights, seed {seed}")


@register
def tiny_vit(
    seed: int = 0,
    depth: int = 4,
    width: int = 128,
    heads: int = 4,
    patch: int = 8,
    layers: tuple[int, ...] = (-1,),
    classes: int = 0,
) -> Encoder:
    """A small vision transformer with random weights: a convolutional stem, a class token, blocks of attention and MLP.

    depth: number of blocks; width: of the tokens, a multiple of 4 and of heads; patch: pixels a side, a power of 2.
    layers: which blocks, after the last norm, are joined as `dense`. `pooled` is the class token after the last norm.
    Positions are sines and cosines of row and column, so any image size is taken as it is. classes: of a linear classifier of
    its own, 0 for none.

    Source: Dosovitskiy et al., ICLR 2021; the stem of 3x3 convolutions of stride 2 with batch norm, one for each halving,
    then 1x1, is that of Xiao et al., NeurIPS 2021. differs: as many blocks as `depth`, not one less for the stem.
    """
    with seeded(seed):
        body = TinyViT(depth, width, heads, patch, classes)
    return wrap(body, "tiny_vit", layers, source="tiny_vit", note=f"random weights, seed {seed}")


def wrap(body: Any, arch: str, layers: tuple[int, ...] | None, **known: Any) -> Encoder:
    """The encoder around one of this file's networks; fields that are not given are the architecture's defaults."""
    small = ARCHES[arch]
    known = {"mean": small.mean, "std": small.std, "name": arch, **known}
    layers = small.layers if layers is None else layers
    return finish(body, arch=arch, layers=layers, size=small.side, dry=small.side, classes=body.classes, **known)


class Tiny(nn.Module):
    """3x3 stem of stride 2, four residual stages (strides 1, 2, 2, 2), mean over the last map: pooled [B, widths[-1]]."""

    multiple = 1

    def __init__(self, widths: tuple[int, ...] = (16, 32, 80, 144), classes: int = 0) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise SpecError(f"tiny needs a number of channels per stage, such as (16, 32, 80, 144), not {widths}")
        self.depth, self.classes = len(widths), classes
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks, before = [], widths[0]
        for place, width in enumerate(widths):
            blocks.append(Block(before, width, 1 if place == 0 else 2, "conv"))
            before = width
        self.stages = nn.ModuleList(blocks)
        self.fc = nn.Linear(before, classes) if classes else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        maps, x = [], self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = x.mean((2, 3))
        taken = tuple(maps[layer] for layer in positions(layers, self.depth, "tiny"))
        return BodyOutput(pooled, taken, pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return self.fc(trunk)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; where the shape changes, it is `conv` (1x1) or `pad` (without weights)."""

    def __init__(self, before: int, width: int, stride: int, shortcut: str, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.shortcut = nn.Sequential()
        if before != width or stride != 1:
            conv = nn.Conv2d(before, width, 1, stride, bias=not norm)
            one = [Pad(width - before)] if shortcut == "pad" else [conv, nn.BatchNorm2d(width)] if norm else [conv]
            self.shortcut = nn.Sequential(*one)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class Pad(nn.Module):
    """Shortcut without weights: every second pixel, and `more` channels of zeros, half of them on each side."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        second = F.avg_pool2d(x, 1, stride=2)  # the gradient of a slice would lose channels_last
        return F.pad(second, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class TinyViT(nn.Module):
    """Stem, class token and blocks: pooled [B, width], maps [B, width, H / patch, W / patch] after each block."""

    def __init__(self, depth: int = 4, width: int = 128, heads: int = 4, patch: int = 8, classes: int = 0) -> None:
        super().__init__()
        if depth < 1 or heads < 1 or width < 1 or width % 4 or width % heads or patch < 2 or patch & (patch - 1):
            raise SpecError(
                f"tiny_vit: depth is {depth}, width {width}, heads {heads} and patch {patch}; width must be a multiple of 4 and "
                "of heads, patch a power of 2, all above 0"
            )
        self.depth, self.multiple, self.classes = depth, patch, classes
        halvings = patch.bit_length() - 1
        wide = [max(8, width >> halvings - step) for step in range(1, halvings + 1)]
        stem: list[nn.Module] = []
        for before, after in zip((3, *wide), wide, strict=False):
            stem += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.patch_embed = nn.Sequential(*stem, nn.Conv2d(wide[-1], width, 1))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(Attended(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes) if classes else nn.Identity()

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        grid = self.patch_embed(pixels)
        tokens = (grid + waves(grid)).flatten(2).transpose(1, 2)
        x, states = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1), []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        pooled = self.norm(x[:, 0])
        taken = positions(layers, self.depth, "tiny_vit")
        maps = {at: self.norm(states[at][:, 1:]).transpose(1, 2).unflatten(2, grid.shape[-2:]) for at in set(taken)}
        return BodyOutput(pooled, tuple(maps[at] for at in taken), pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return self.fc(trunk)


class Attended(nn.Module):
    """A transformer block: attention, then an MLP of four times the width with GELU; a norm before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def waves(grid: Tensor) -> Tensor:
    """Positions [1, D, h, w] for maps [B, D, h, w]: sines and cosines of the row in one half, of the column in the other."""
    dim, high, wide = grid.shape[1:]
    rates = 10000.0 ** (-torch.arange(dim // 4, device=grid.device) / (dim // 4))
    sides = (torch.outer(rates, torch.arange(side, device=grid.device)) for side in (high, wide))
    rows, columns = (torch.cat([angle.sin(), angle.cos()]) for angle in sides)
    parts = [rows[:, :, None].expand(-1, high, wide), columns[:, None].expand(-1, high, wide)]
    return torch.cat(parts)[None].to(grid.dtype)


class CifarResNet(nn.Module):
    """ResNet of 6 n + 2 layers: stem and three stages of n blocks with 16, 32, 64 channels at strides 1, 2, 4; 64 pooled."""

    depth, multiple = 4, 1

    def __init__(self, n: int, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, n, 1, "pad")
        self.layer2 = _stage(16, 32, n, 2, "pad")
        self.layer3 = _stage(32, 64, n, 2, "pad")
        self.linear = nn.Linear(64, classes) if classes else nn.Identity()

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        maps = [F.relu(self.bn1(self.conv1(pixels)))]
        for stage in (self.layer1, self.layer2, self.layer3):
            maps.append(stage(maps[-1]))
        pooled = maps[-1].mean((2, 3))
        return BodyOutput(pooled, tuple(maps[i] for i in positions(layers, 4, "resnet")), pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return self.linear(trunk)


class ResNet4b(nn.Module):
    """No batch norm: stem of stride 2 and two stages of stride 2 (strides 2, 4, 8), then 512 -> 100 (pooled) -> classes."""

    depth, multiple = 3, 1

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = _stage(16, 32, 2, 2, "conv", norm=False)
        self.layer2 = _stage(32, 32, 2, 2, "conv", norm=False)
        self.linear1 = nn.Linear(512, 100)
        self.linear2 = nn.Linear(100, classes) if classes else nn.Identity()

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        need_side(pixels, 32, "resnet4b")
        maps = [F.relu(self.conv1(pixels))]
        for stage in (self.layer1, self.layer2):
            maps.append(stage(maps[-1]))
        pooled = F.relu(self.linear1(maps[-1].flatten(1)))
        return BodyOutput(pooled, tuple(maps[i] for i in positions(layers, 3, "resnet4b")), pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return self.linear2(trunk)


def _stage(before: int, width: int, count: int, stride: int, shortcut: str, norm: bool = True) -> nn.Sequential:
    first = Block(before, width, stride, shortcut, norm)
    return nn.Sequential(first, *(Block(width, width, 1, shortcut, norm) for _ in range(count - 1)))


@dataclass(frozen=True)
class Small:
    """An architecture for `file(arch=...)`. make: number of classes -> network; head: prefix of its classifier's names."""

    make: Callable[[int], nn.Module]
    side: int
    head: str
    classes: int = 10
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    layers: tuple[int, ...] = (-1,)


def _cifar(n: int) -> Small:
    return Small(lambda classes: CifarResNet(n, classes), 32, "linear.")


ARCHES = {
    **{f"resnet{6 * n + 2}": _cifar(n) for n in (3, 5, 7, 9, 18)},
    "resnet4b": Small(ResNet4b, 32, "linear2.", 10, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "tiny": Small(lambda classes: Tiny(classes=classes), 64, "fc.", 0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (1, 2, 3)),
    "tiny_vit": Small(lambda classes: TinyViT(classes=classes), 64, "fc.", 0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
