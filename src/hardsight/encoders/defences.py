"""Defences: what changes an image before the encoder sees it, and the attack that does not stop at them.

defended('zoo:made_fare', jpeg(75))   defended(tiny, smooth(0.25))

A defence lies within the attacked graph, and by default every attack with gradients is the adaptive one of Athalye et al. (ICML
2018, "Obfuscated gradients give a false sense of security"):
    BPDA   where a transform g has no gradient (jpeg, bits, dither), its derivative is taken as the identity: forward g(x),
           backward as if g(x) = x
    EOT    where it draws (dither, smooth, recrop), loss and gradient of a step are the mean over `draws` forward passes
differs: the authors' BPDA may use any differentiable approximation of g; the identity is their choice for jpeg and bits too. An
attack that has its own `eot` keeps its number of draws.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.encoders.base import Encoder, Features
from hardsight.specs.catalog import complete, register
from hardsight.specs.syntax import Call, show


class Defence(Protocol):
    """Images [B, 3, H, W] in [0, 1] -> images. random: whether it draws; moves: whether it moves pixels; how: of its attack."""

    random: bool
    moves: bool
    how: str

    def __call__(self, x: Tensor) -> Tensor: ...


def _defence(change: Callable[[Tensor], Tensor], through: bool, random: bool = False, moves: bool = False) -> Defence:
    """through: whether its gradient is taken as the identity."""

    def defence(x: Tensor) -> Tensor:
        if not through:
            return change(x)
        with torch.no_grad():
            changed = change(x)
        return x + (changed - x).detach()

    defence.random, defence.moves = random, moves  # type: ignore[attr-defined]
    defence.how = "BPDA" if through and not random else "BPDA, EOT" if through else "EOT" if random else "its own gradient"  # type: ignore[attr-defined]
    return defence  # type: ignore[return-value]


@register
def jpeg(quality: int = 75) -> Defence:
    """JPEG of that quality, 1 to 95, by Pillow (Guo et al., ICLR 2018; Das et al., 2018); attacked by BPDA."""
    if not 1 <= quality <= 95:
        raise SpecError(f"jpeg: quality is {quality}, but it must be from 1 to 95")

    def change(x: Tensor) -> Tensor:
        pictures = (x.detach().float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        found = [np.asarray(Image.open(_jpeg(picture, quality)).convert("RGB")) for picture in pictures]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x).div(255) if found else x

    return _defence(change, through=True)


def _jpeg(picture: np.ndarray, quality: int) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file


@register
def bits(depth: int = 5) -> Defence:
    """Feature squeezing: each value is rounded to `depth` bits, 1 to 8 (Xu et al., NDSS 2018); attacked by BPDA."""
    steps = 2**depth - 1
    if not 1 <= depth <= 8:
        raise SpecError(f"bits: depth is {depth}, but it must be from 1 to 8")
    return _defence(lambda x: (x * steps).round() / steps, through=True)


@register
def dither(depth: int = 3) -> Defence:
    """Each value is rounded to `depth` bits after uniform noise of one step, drawn in every pass; attacked by BPDA and EOT."""
    steps = 2**depth - 1
    if not 1 <= depth <= 8:
        raise SpecError(f"dither: depth is {depth}, but it must be from 1 to 8")
    return _defence(
        lambda x: ((x * steps + torch.rand_like(x) - 0.5).round() / steps).clamp(0, 1), through=True, random=True
    )


@register
def smooth(sigma: float = 0.25) -> Defence:
    """Gaussian noise of that standard deviation, drawn anew in every pass (Cohen et al., ICML 2019); attacked by EOT."""
    if sigma <= 0:
        raise SpecError(f"smooth: sigma is {sigma:g}, but it must be above 0")
    return _defence(lambda x: x + sigma * torch.randn_like(x), through=False, random=True)


@register
def recrop(least: float = 0.8) -> Defence:
    """A random window of at least that share of both sides, enlarged to the image (Guo et al., ICLR 2018); attacked by EOT."""
    if not 0 < least < 1:
        raise SpecError(f"recrop: least is {least:g}, but it must be in (0, 1)")

    def change(x: Tensor) -> Tensor:
        share, down, right = torch.rand(3).tolist()
        high, wide = (max(1, round(side * (least + (1 - least) * share))) for side in x.shape[-2:])
        top, left = int(down * (x.shape[-2] - high + 1)), int(right * (x.shape[-1] - wide + 1))
        part = x[..., top : top + high, left : left + wide]
        return F.interpolate(part, size=x.shape[-2:], mode="bilinear", align_corners=False)

    return _defence(change, through=False, random=True, moves=True)


@register
def median(side: int = 3) -> Defence:
    """The median of each value's square neighbourhood (Xu et al., NDSS 2018); attacked by its own gradient."""
    if side < 3 or not side % 2:
        raise SpecError(f"median: side is {side}, but it must be odd and at least 3")

    def change(x: Tensor) -> Tensor:
        around = F.pad(x, (side // 2,) * 4, mode="replicate").unfold(2, side, 1).unfold(3, side, 1)
        return around.flatten(4).median(-1).values

    return _defence(change, through=False)


class Defended(nn.Module):
    """An encoder behind a defence. draws: how many passes an attack's step takes the mean of, 1 where nothing is drawn."""

    def __init__(self, image: Encoder, defence: Defence, draws: int, text: str) -> None:
        super().__init__()
        self.image, self.defence = image, defence
        self.draws = draws if defence.random else 1
        eot = f" of {draws} draws" if defence.random else ""
        note = "; ".join(one for one in (image.card.note, f"defended by {text}, attacked by {defence.how}{eot}") if one)
        changes: dict[str, Any] = {"dense_dim": 0} if defence.moves else {}
        self.card = replace(image.card, name=f"{image.card.name}, {text}", note=note, **changes)

    @property
    def body(self) -> nn.Module:
        """The body of the encoder behind the defence."""
        return self.image.body

    def forward(self, x: Tensor, layers: tuple[int, ...] = ()) -> Features:
        if layers and self.defence.moves:
            raise SpecError(f"{self.card.name} moves pixels, so its layers lie elsewhere in every pass; use another defence")
        found = self.image(self.defence(x), layers)
        return found._replace(dense=None) if self.defence.moves else found

    def classify(self, features: Features) -> Tensor:
        return self.image.classify(features)

    def with_card(self, **changes: Any) -> Defended:
        self.card = replace(self.card, **changes)
        return self


@register
def defended(image: Encoder, by: Defence, draws: int = 10) -> Encoder:
    """An encoder behind a defence, attacked adaptively by default: defended('zoo:made_fare', jpeg(75)).

    by: jpeg, bits, dither, smooth, recrop or median. draws: the passes whose mean an attack's step follows, if the defence is
    random; 1 attacks one draw at a time. Heads are fitted behind the defence too. Evaluation takes one draw.
    """
    if any(isinstance(part, Defended) for part in image.modules()):
        raise SpecError("a defence around a defence is not measured: write one defended(encoder, defence)")
    if draws < 1:
        raise SpecError(f"defended: draws is {draws}, but it must be at least 1")
    spec = getattr(by, "spec", None)
    made = Defended(image, by, draws, _text(spec) if spec is not None else "a defence")
    return made.eval()  # type: ignore[return-value]


def _text(spec: Call) -> str:
    """The defence with every setting: "jpeg(75)"."""
    return f"{spec.name}({', '.join(show(value) for _, value in complete(spec).arguments)})"
