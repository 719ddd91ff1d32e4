"""The interface of encoders: pixels in [0, 1] in, pooled and dense features out; the encoder itself normalizes the pixels.

An adapter for a source of models (timm, torchvision, transformers, ...) is a `Body`: it takes normalized pixels and returns
a `BodyOutput`. `Encoder` wraps any body: it checks, resizes or pads inside the attacked graph, normalizes, and joins layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Card:
    """Metadata of an encoder: enough to name it in a table and to detect that its weights have changed.

    dim: D of `pooled`. dense_dim: channels of `dense` (0: no dense features). stride: pixels per cell of the dense grid.
    size: the input side in pixels it was trained for. resize: the side to which it resizes images inside the graph, or None.
    classes: of its own classifier, 0 without one. sha256: of its weights, names and values.
    """

    name: str
    arch: str
    source: str
    dim: int
    dense_dim: int
    stride: int
    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int | None = None
    classes: int = 0
    parameters: int = 0
    licence: str = "unknown"
    sha256: str = ""
    note: str = ""


class Features(NamedTuple):
    """The output of an encoder for B images.

    pooled [B, D]; dense [B, D', h, w] or None; layers: the requested layers, each [B, D'', h'', w'']; trunk: the input of
    the model's own classifier, or None; size: (H, W) of the images; covered: (H', W') pixels, at the images' own scale, that
    the dense grid covers, at least `size` (more if the encoder padded on the right and at the bottom).
    """

    pooled: Tensor
    dense: Tensor | None
    layers: tuple[Tensor, ...]
    trunk: Tensor | None
    size: tuple[int, int]
    covered: tuple[int, int]


class BodyOutput(NamedTuple):
    """The output of a body for normalized pixels: pooled [B, D], maps: one [B, D', h, w] per requested layer, trunk."""

    pooled: Tensor
    maps: tuple[Tensor, ...]
    trunk: Tensor | None


class Body(Protocol):
    """The `nn.Module` inside an encoder. depth: its number of layers; multiple: H and W must be multiples of it."""

    depth: int
    multiple: int

    def __call__(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput: ...

    def classify(self, trunk: Tensor) -> Tensor:
        """Logits [B, K] of the model's own classifier."""
        ...


class Encoder(nn.Module):
    """A body that takes pixels in [0, 1].

    dense_layers: the layers whose maps are joined (on the finest grid, bilinear) as `dense`; (-1,) is the last one only.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, card: Card, dense_layers: tuple[int, ...] = (-1,)) -> None:
        super().__init__()
        self.body: Any = body
        self.card = card
        self.dense_layers = dense_layers
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        """Features of images x [B, 3, H, W] in [0, 1], for any H and W; the maps of `layers` are returned too.

        Only images: clips [B, 3, T, H, W] are handled by `encoders.clips`. Resizing, padding and normalization happen here,
        so that a gradient to x, and an eps on x, refer to the original image. Raises `ValueError` for other shapes.
        """
        if x.dim() != 4 or x.shape[1] != 3:
            hint = "; clips are for a clip encoder" if x.dim() == 5 else ""
            raise ValueError(f"an encoder takes images [B, 3, H, W]; these are {list(x.shape)}{hint}")
        height, width = x.shape[-2:]
        pixels, covered = self._fit(x)
        pixels = (pixels - self.mean) / self.std
        out = self.body(pixels, (*self.dense_layers, *layers))
        count = len(self.dense_layers)
        dense = join(out.maps[:count])
        if dense is not None and not self.card.resize:  # a strided convolution's last cells may extend beyond the image
            rows, columns = (cells * self.card.stride for cells in dense.shape[-2:])
            covered = max(covered[0], rows), max(covered[1], columns)
        return Features(out.pooled, dense, out.maps[count:], out.trunk, (height, width), covered)

    def classify(self, features: Features) -> Tensor:
        """Logits [B, K] of the model's own classifier; `ValueError` if it has none."""
        if not self.card.classes or features.trunk is None:
            raise ValueError(f"{self.card.name} has no classifier of its own; use a probe: classify(head='linear')")
        return self.body.classify(features.trunk)

    def with_card(self, **changes: object) -> Encoder:
        self.card = replace(self.card, **changes)
        return self

    def _fit(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x resized to the card's side, or padded (right, bottom) to a multiple of `multiple`; and the covered (H', W')."""
        height, width = x.shape[-2:]
        if self.card.resize:
            scale = self.card.resize / min(height, width)
            size = [max(self.body.multiple, _round_to(side * scale, self.body.multiple)) for side in (height, width)]
            return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False), (height, width)
        more = [-side % self.body.multiple for side in (height, width)]
        if any(more):
            x = F.pad(x, (0, more[1], 0, more[0]), mode="replicate")
        return x, (height + more[0], width + more[1])


def _round_to(side: float, multiple: int) -> int:
    return round(side / multiple) * multiple


def join(maps: tuple[Tensor, ...]) -> Tensor | None:
    """Maps of several layers concatenated as [B, sum of D, h, w] on the finest of their grids."""
    if not maps:
        return None
    if len(maps) == 1:
        return maps[0]
    finest = max((one.shape[-2:] for one in maps), key=lambda size: size[0] * size[1])
    same = [
        m if m.shape[-2:] == finest else F.interpolate(m, size=finest, mode="bilinear", align_corners=False) for m in maps
    ]
    return torch.cat(same, dim=1)
