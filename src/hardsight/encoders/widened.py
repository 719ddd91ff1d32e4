"""An image encoder with one more layer on its pooled features: EMP-SSL's pre-feature, which is exported and probed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.encoders.adapt import seeded, weights_hash
from hardsight.encoders.base import BodyOutput, Encoder
from hardsight.specs.catalog import register


class Widened(nn.Module):
    """A body whose pooled features go through a linear layer, batch norm and ReLU; its maps are unchanged."""

    classes = 0

    def __init__(self, inner: Any, dim: int, width: int) -> None:
        super().__init__()
        self.inner = inner
        self.depth, self.multiple = inner.depth, inner.multiple
        self.wide = nn.Sequential(nn.Linear(dim, width), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        out = self.inner(pixels, layers)
        return BodyOutput(self.wide(out.pooled), out.maps, None)


@register
def widened(encoder: Encoder, width: int = 4096, seed: int = 0) -> Encoder:
    """An image encoder with a linear layer, batch norm and ReLU on its pooled features: widened(tiny, 4096).

    seed: of the new layer's random weights. Source: the pre-feature of EMP-SSL (Tong et al., arXiv 2304.03977), on which
    linear probes are trained there and in CF-AMC-SSL.
    """
    if width < 1 or not isinstance(encoder, Encoder):
        raise SpecError(
            f"widened takes an encoder of images and a width of at least 1, not {type(encoder).__name__}, {width}"
        )
    card = encoder.card
    with seeded(seed):
        body = Widened(encoder.body, card.dim, width)
    known = replace(
        card, name=f"{card.name}, widened", arch=f"widened({card.arch}, {width})", dim=width, classes=0,
        parameters=sum(one.numel() for one in body.parameters()), sha256=weights_hash(body),
    )  # fmt: skip
    return Encoder(body, known, encoder.dense_layers, encoder.spacings).eval()
