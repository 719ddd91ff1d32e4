"""Threats to clips [B, 3, T, H, W] only. Any other threat treats a clip as one large image, with one eps for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hardsight.attacks.threats.base import NOTHING, Threat, check_count, check_eps, no_hyperplane
from hardsight.attacks.threats.places import chosen
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register


@dataclass(frozen=True)
class PerFrame:
    """A threat to each frame; count: number of frames that may change, all if None."""

    threat: Threat
    count: int | None = None
    hyperplanes: ClassVar[bool] = False

    @property
    def eps(self) -> float:
        return self.threat.eps

    @property
    def norm(self) -> str:
        return f"{self.threat.norm} a frame" + (f", any {self.count}" if self.count is not None else "")

    @property
    def sparse(self) -> bool:
        return self.count is not None or getattr(self.threat, "sparse", False)

    @property
    def spatial(self) -> bool:
        return getattr(self.threat, "spatial", False)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Each frame separately; keeps the frames that bring the clip closest to x_adv, and leaves the others at x."""
        there = _joined(self.threat.project(_frames(x_adv), _frames(x)), x)
        nearer = (x_adv - x) ** 2 - (x_adv - there) ** 2
        return self._some(there, x, nearer.transpose(1, 2).flatten(2).sum(2))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._some(_joined(self.threat.inside(_frames(x), rng), x), x, seeds.uniform((len(x), x.shape[2]), rng, x))

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self._some(_joined(self.threat.surface(_frames(x), rng), x), x, seeds.uniform((len(x), x.shape[2]), rng, x))

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """Each frame's own step; if few frames may change, frames that gain less than the selected get smaller steps."""
        return self._weighted(_joined(self.threat.steepest(_frames(grad), None if x is None else _frames(x)), grad), grad)

    def largest(self, grad: Tensor, share: Tensor) -> Tensor:
        """The L1 step on a share [B] of each frame's values, shaped like grad."""
        steps = self.threat.largest(_frames(grad), share.repeat_interleave(grad.shape[2]))  # type: ignore[attr-defined]
        return self._weighted(_joined(steps, grad), grad)

    def values(self, x: Tensor) -> int:
        """Number of values of a clip that may move."""
        return x[0].numel()

    def _weighted(self, steps: Tensor, grad: Tensor) -> Tensor:
        if self.count is None:
            return steps
        duals = self._duals(grad)
        last = self._strongest(duals)[:, -1:].clamp_min(torch.finfo(grad.dtype).tiny)
        return steps * (duals / last).clamp_max(1)[:, None, :, None, None]

    def size(self, delta: Tensor) -> Tensor:
        """The largest of the frames' sizes; infinite if too many frames changed."""
        greatest = self.threat.size(_frames(delta)).view(len(delta), -1).amax(1)
        changed = delta.transpose(1, 2).flatten(2).any(2).sum(1)
        return greatest if self.count is None else torch.where(changed > self.count, torch.inf, greatest)

    def dual(self, grad: Tensor) -> Tensor:
        return self._strongest(self._duals(grad)).sum(1)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise no_hyperplane("per_frame")

    def _some(self, there: Tensor, x: Tensor, rank: Tensor) -> Tensor:
        """`there` in the frames that rank highest [B, T], and x in the others."""
        if self.count is None:
            return there
        return torch.where(chosen(rank, self.count)[:, None, :, None, None], there, x)

    def _duals(self, grad: Tensor) -> Tensor:
        return self.threat.dual(_frames(grad)).view(len(grad), -1)

    def _strongest(self, duals: Tensor) -> Tensor:
        count = duals.shape[1] if self.count is None else min(max(self.count, 1), duals.shape[1])
        return duals.topk(count, dim=1).values


@dataclass(frozen=True)
class Flicker:
    """The allowed clips are clamp(x + offset, 0, 1), with one offset per frame and channel, of at most eps."""

    eps: float
    norm: ClassVar[str] = "flicker"
    hyperplanes: ClassVar[bool] = False

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The offset is the mean change over the frame's pixels, without clipped pixels, which do not show their offset."""
        check_clips(x, "flicker")
        delta = x_adv - x
        high, low = delta.amax((-2, -1)), delta.amin((-2, -1))
        offset = torch.where(high > -low, high, low)  # if all pixels are clipped: the smallest offset that clips them
        unclipped = (x_adv > 0) & (x_adv < 1)
        offset = _mean(delta, unclipped, offset)
        for _ in range(2):  # a pixel that is clipped by the offset hides part of it too: the offset so far shows which
            there = x + offset[..., None, None]
            offset = _mean(delta, unclipped & (there > 0) & (there < 1), offset)
        return self._shifted(x, offset.clamp(-self.eps, self.eps))

    def inside(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        check_clips(x, "flicker")
        return self._shifted(x, (2 * seeds.uniform(x.shape[:3], rng, x) - 1) * self.eps)

    def surface(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        check_clips(x, "flicker")
        return self._shifted(x, (seeds.uniform(x.shape[:3], rng, x) - 0.5).sign() * self.eps)

    def steepest(self, grad: Tensor, x: Tensor | None = None) -> Tensor:
        """Up or down, per frame and channel, by the summed gradient of the pixels that can move in that direction."""
        check_clips(grad, "flicker")
        up, down = grad, -grad
        if x is not None:
            up, down = torch.where(x < 1, up, 0.0), torch.where(x > 0, down, 0.0)
        up, down = up.sum((-2, -1)), down.sum((-2, -1))
        way = torch.where(up >= down, 1.0, -1.0) * (torch.maximum(up, down) > 0)
        return way[..., None, None].to(grad.dtype).expand_as(grad).clone()

    def size(self, delta: Tensor) -> Tensor:
        """The largest change; infinite if pixels of one frame and channel went up and down, as no single offset does."""
        check_clips(delta, "flicker")
        both = ((delta.amax((-2, -1)) > NOTHING) & (delta.amin((-2, -1)) < -NOTHING)).flatten(1).any(1)
        return torch.where(both, torch.inf, delta.flatten(1).abs().amax(1))

    def dual(self, grad: Tensor) -> Tensor:
        return grad.sum((-2, -1)).flatten(1).abs().sum(1)

    def to_hyperplane(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise no_hyperplane("flicker")

    def _shifted(self, x: Tensor, offset: Tensor) -> Tensor:
        return (x + offset[..., None, None]).clamp(0, 1)


def _mean(values: Tensor, among: Tensor, otherwise: Tensor) -> Tensor:
    """[B, C, T]: each frame's mean over the pixels marked in `among`, or `otherwise` if there are none."""
    count = among.sum((-2, -1))
    return torch.where(count > 0, torch.where(among, values, 0.0).sum((-2, -1)) / count.clamp_min(1), otherwise)


def check_clips(x: Tensor, name: str) -> None:
    """Raises `SpecError` unless x is [B, 3, T, H, W]."""
    if x.dim() != 5:
        raise SpecError(
            f"{name} is a threat to clips [B, 3, T, H, W], not to images {list(x.shape)}; use linf, l2 or l1 there"
        )


def _frames(x: Tensor) -> Tensor:
    """Clips [B, 3, T, H, W] as images [B T, 3, H, W]."""
    check_clips(x, "per_frame")
    return x.transpose(1, 2).flatten(0, 1)


def _joined(frames: Tensor, x: Tensor) -> Tensor:
    """Images [B T, 3, H, W] as clips like x."""
    return frames.view(len(x), -1, *frames.shape[1:]).transpose(1, 2).contiguous()


@register
def per_frame(threat: Threat, count: int | None = None) -> Threat:
    """Any threat applied to each frame of a clip, not to the clip as a whole: per_frame(l2(0.5)).

    count: number of frames that may change, chosen by the attacker; all if None. PGD keeps the frames that it starts in;
    with start="clean" those of the largest gradients, and APGD's first steps are long enough to change to other frames.

    Source of few frames: Wei et al., "Sparse adversarial perturbations for videos", AAAI 2019.
    """
    if count is not None:
        check_count(count, "per_frame", "frames")
    return PerFrame(threat, count)  # type: ignore[return-value]


@register
def flicker(eps: float) -> Threat:
    """One change of colour per frame, the same for all its pixels, of at most eps; clips only: flicker(0.1).

    Source: Pony, Naeh and Mannor, "Over-the-air adversarial flickering attacks", CVPR 2021, section 3. differs: eps bounds
    the change and replaces their penalties on its thickness and roughness.
    """
    return Flicker(check_eps(eps, most=1))
