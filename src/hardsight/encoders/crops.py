"""An encoder whose embedding of an image is the mean embedding of several crops.

Source: the n-patch evaluation of EMP-SSL (Tong et al., 2023) and of paper 003. The crops are cut from the image inside the
attacked graph, so an attack perturbs one image, and with fresh crops each of its steps uses a new draw: it maximizes the
expected loss over crops.
differs: the released code of paper 003 perturbs each crop separately, which is not an attack on an image
(`official.crop_space` does that); a crop larger than the image is clipped to it, where torchvision draws again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.encoders.base import Encoder, Features
from hardsight.specs.catalog import register

Box = tuple[int, int, int, int]
"""top, left, height, width, in pixels."""


@dataclass(frozen=True)
class Cutter:
    """Settings of the crops.

    size: side in pixels that crops are resized to, None for the image's own. scale: minimum and maximum share of the area.
    ratio: maximum of width / height and height / width. draw: "fixed" by the seed, "fresh" in every pass, or "central".
    Raises `SpecError`.
    """

    n: int
    size: int | None
    scale: tuple[float, float]
    ratio: float
    draw: str
    seed: int

    def __post_init__(self) -> None:
        if self.n < 1 or (self.size is not None and self.size < 1):
            raise SpecError(f"crops: n is {self.n} and size {self.size}; both must be at least 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or self.ratio < 1:
            raise SpecError(
                f"crops: scale is {self.scale} and ratio {self.ratio:g}; 0 < minimum <= maximum <= 1, and ratio at least 1"
            )

    def boxes(self, height: int, width: int) -> list[Box]:
        """The crops of a forward pass, the same for all images of a batch; fresh ones use torch's default generator."""
        if self.draw == "central":
            side = min(height, width)
            return [((height - side) // 2, (width - side) // 2, side, side)]
        rng = seeds.generator("crops", self.seed) if self.draw == "fixed" else None
        return [self._box(torch.rand(4, generator=rng).tolist(), height, width) for _ in range(self.n)]

    def cut(self, x: Tensor, box: Box) -> Tensor:
        """The crop of every image, resized to `size` or to the image's own size."""
        top, left, tall, wide = box
        sides = [self.size, self.size] if self.size else list(x.shape[-2:])
        if self.draw == "central" and not self.size:
            sides = [tall, wide]
        part = x[..., top : top + tall, left : left + wide]
        if [tall, wide] == sides:
            return part
        return F.interpolate(part, size=sides, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

    def _box(self, draw: list[float], height: int, width: int) -> Box:
        low, high = self.scale
        area = (low + (high - low) * draw[0]) * height * width
        shape = math.exp((2 * draw[1] - 1) * math.log(self.ratio))
        tall = min(height, max(1, round(math.sqrt(area / shape))))
        wide = min(width, max(1, round(math.sqrt(area * shape))))
        return int(draw[2] * (height - tall + 1)), int(draw[3] * (width - wide + 1)), tall, wide


class Crops(nn.Module):
    """An image encoder whose pooled features are the mean over crops; it has no dense features, layers or classifier."""

    def __init__(self, image: Encoder, cutter: Cutter) -> None:
        super().__init__()
        self.image, self.cutter = image, cutter
        text = "central crop" if cutter.draw == "central" else f"{cutter.n} {cutter.draw} crops"
        note = "; ".join(one for one in (image.card.note, text) if one)
        self.card = replace(
            image.card,
            name=f"{image.card.name}, {text}",
            arch=f"crops({image.card.arch})",
            dense_dim=0,
            classes=0,
            note=note,
        )

    @property
    def body(self) -> nn.Module:
        """The image encoder's body: weights that training exports from this encoder can be loaded into that one."""
        return self.image.body

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        if layers:
            raise SpecError(f"{self.card.name}: the mean over crops has no layers; use the encoder without crops")
        height, width = x.shape[-2:]
        boxes = self.cutter.boxes(height, width)
        total = sum(self.image(self.cutter.cut(x, box)).pooled for box in boxes)
        return Features(total / len(boxes), None, (), None, (height, width), (height, width))  # type: ignore[operator]

    def classify(self, features: Features) -> Tensor:
        raise ValueError(f"{self.card.name} has no classifier of its own; use a probe: classify(head='linear')")

    def with_card(self, **changes: Any) -> Crops:
        self.card = replace(self.card, **changes)
        return self


@register
def crops(
    image: Encoder,
    n: int = 16,
    size: int | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: float = 4 / 3,
    draw: Literal["fixed", "fresh", "central"] = "fixed",
    seed: int = 0,
) -> Encoder:
    """The mean embedding of n random crops of the image, as paper 003 evaluates; crops(tiny, n=16).

    size: the side in pixels that crops are resized to; None for the image's own. scale: minimum and maximum share of the
    image's area; (0.25, 0.25) with ratio 1 are the paper's patches. ratio: maximum of width / height and height / width.
    draw: "fixed" uses the crops of `seed` for every image, "fresh" new ones in every forward pass, "central" only the
    largest central square.
    """
    made = Crops(image, Cutter(n, size, (scale[0], scale[1]), ratio, draw, seed))
    return made.eval()  # type: ignore[return-value]
