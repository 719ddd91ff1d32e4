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

from hardsight.encoders.extents import Extent, Spacing, join

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Card:
    """Metadata of an encoder: enough to name it in a table and to detect that its weights have changed.

    dim: D of `pooled`. dense_dim: channels of `dense` (0: no dense features). stride: pixels per cell of the dense grid.
    size: the input side in pixels it was trained for. resize: the side to which it resizes images inside the graph, or None.
    classes: of its own classifier, 0 without one. sha256: of its weights, names and values. preprocess: the spec of how its
    authors prepare pictures for evaluation, before pixels come here (data/preprocess), or "" if that is not known.
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
    labels: tuple[str, ...] = ()
    """The names of these classes, where the source of the weights states them."""
    parameters: int = 0
    licence: str = "unknown"
    sha256: str = ""
    note: str = ""
    preprocess: str = ""


class Features(NamedTuple):
    """The output of an encoder for B images.

    pooled [B, D]; dense [B, D', h, w] or None; layers: the requested layers, each [B, D'', h'', w'']; trunk: the input of
    the model's own classifier, or None; size: (H, W) of the images; covered: (H', W') pixels, at the images' own scale, that
    the dense grid covers from `origin` (top, left) on: more than `size` if the encoder padded on the right and at the bottom
    or its strides round up, less if they round down (`encoders.extents`). extents: of the grid of each of `layers`; empty
    where they are those of the dense grid.
    """

    pooled: Tensor
    dense: Tensor | None
    layers: tuple[Tensor, ...]
    trunk: Tensor | None
    size: tuple[int, int]
    covered: tuple[int, int]
    origin: tuple[int, int] = (0, 0)
    extents: tuple[Extent, ...] = ()

    @property
    def extent(self) -> Extent:
        """Where the dense grid lies on the image."""
        return Extent(self.covered, self.origin)


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
    spacings: of the map of each layer of the body; empty where every map covers the body's input exactly.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        card: Card,
        dense_layers: tuple[int, ...] = (-1,),
        spacings: tuple[Spacing, ...] = (),
    ) -> None:
        super().__init__()
        self.body: Any = body
        self.card = card
        self.dense_layers, self.spacings = dense_layers, spacings
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
        pixels, scale = self._fit(x)
        pixels = (pixels - self.mean) / self.std
        taken = (*self.dense_layers, *layers)
        out = self.body(pixels, taken)
        extents = tuple(self._extent(at, one, pixels, scale) for at, one in zip(taken, out.maps, strict=False))
        count = len(self.dense_layers)
        dense, extent = join(out.maps[:count], extents[:count]) or (None, Extent((height, width)))
        return Features(out.pooled, dense, out.maps[count:], out.trunk, (height, width), *extent, extents[count:])

    def classify(self, features: Features) -> Tensor:
        """Logits [B, K] of the model's own classifier; `ValueError` if it has none."""
        if not self.card.classes or features.trunk is None:
            raise ValueError(f"{self.card.name} has no classifier of its own; use a probe: classify(head='linear')")
        return self.body.classify(features.trunk)

    def with_card(self, **changes: object) -> Encoder:
        self.card = replace(self.card, **changes)
        return self

    def _fit(self, x: Tensor) -> tuple[Tensor, tuple[float, float]]:
        """x resized to the card's side, or padded (right, bottom) to a multiple of `multiple`.

        Also the image's pixels, in each direction, per pixel of the result.
        """
        height, width = x.shape[-2:]
        if self.card.resize:
            scale = self.card.resize / min(height, width)
            size = [max(self.body.multiple, _round_to(side * scale, self.body.multiple)) for side in (height, width)]
            resized = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
            return resized, (height / size[0], width / size[1])
        more = [-side % self.body.multiple for side in (height, width)]
        if any(more):
            x = F.pad(x, (0, more[1], 0, more[0]), mode="replicate")
        return x, (1.0, 1.0)

    def _extent(self, layer: int, found: Tensor, pixels: Tensor, scale: tuple[float, float]) -> Extent:
        """Where the map `found` of a layer lies on the image."""
        if self.spacings:
            return self.spacings[layer].extent(found.shape[-2:], scale)
        high, wide = (round(side * one) for side, one in zip(pixels.shape[-2:], scale, strict=True))
        return Extent((high, wide))


def _round_to(side: float, multiple: int) -> int:
    return round(side / multiple) * multiple
