"""Losses as paper 002's released attacks compute them, one image at a time; each quirk (specs/quirks) is a switch.

They differ from `dense`, `depth` and `classify` only by the quirks named; `attacks/official` puts them in their place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.losses.base import IGNORE, Loss, mean_where, only_for, right_pixels
from hardsight.losses.classify import cross_entropy
from hardsight.losses.depth import gradient_gap, silog

FLOOR = 0.001
"""Added to depths before the logarithm, in metres."""


def segpgd(bugs: frozenset[str]) -> Loss:
    """SegPGD's loss with quirks A1, A2 and A7. A set without a pixel adds nothing, as to the released gradient (A3)."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        pixel = F.cross_entropy(output, target, reduction="none", ignore_index=IGNORE)
        valid = (target != IGNORE) & (target != 0) if "A1" in bugs else target != IGNORE
        right, share = right_pixels(output, target), progress / 2
        if "A2" in bugs:
            total = (1 - share) * mean_where(pixel, valid & right) + share * mean_where(pixel, valid & ~right)
        else:
            total = mean_where(torch.where(right, 1 - share, share) * pixel, valid)
        return -total if "A7" in bugs else total

    return only_for(loss, "mask")


def depthpgd(bugs: frozenset[str]) -> Loss:
    """DepthPGD's loss with quirks B2, B5 and C, of each image by itself."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        if "B2" in bugs:
            scale = warm_up(output, target, "B5" in bugs)
        else:
            scale = sigloss(output, target) if "B5" in bugs else silog(output, target)
        if "C" not in bugs:
            return scale + 0.5 * gradient_gap(output, target)
        alone = [gradients(output[at : at + 1], target[at : at + 1]) for at in range(len(output))]
        return scale + 0.5 * torch.cat([*alone, scale[:0]])

    return only_for(loss, "depth")


def downstream(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
    """[B]: the cross-entropy of logits divided by the largest of them where that is above 1 (quirk E2)."""
    return cross_entropy(output / output.detach().amax(1, keepdim=True).clamp_min(1), target)


def sigloss(output: Tensor, target: Tensor) -> Tensor:
    """[B]: sqrt(variance + 0.15 mean^2) of the log difference, unbiased and with nothing under the root (quirk B5)."""
    gap, valid = _log_gap(output, target)
    count = valid.flatten(1).sum(1)
    mean = mean_where(gap, valid)
    spread = torch.where(valid, gap - mean[:, None, None], 0.0).square().flatten(1).sum(1) / (count - 1).clamp_min(1)
    return (spread + 0.15 * mean.square()).sqrt()


def warm_up(output: Tensor, target: Tensor, root: bool = False) -> Tensor:
    """[B]: sqrt(0.15) |mean log difference| (quirk B2). root: as the root of its square, with that gradient at 0."""
    mean = mean_where(*_log_gap(output, target))
    return (0.15 * mean.square()).sqrt() if root else 0.15**0.5 * mean.abs()


def gradients(output: Tensor, target: Tensor) -> Tensor:
    """[B], all equal: the gradient loss over batch and height, of values two apart, at scales 1, 2, 4, 6 (quirk C).

    Of a single image there is no difference over the batch, so only the height is left.
    """
    total = output.new_zeros(())
    for scale in (1, 2, 4, 6):
        gap, valid = _log_gap(output[::scale, ::scale], target[::scale, ::scale])
        for axis in (0, 1):
            length = max(0, gap.shape[axis] - 2)
            ahead, behind = gap.narrow(axis, min(2, gap.shape[axis]), length), gap.narrow(axis, 0, length)
            both = valid.narrow(axis, min(2, gap.shape[axis]), length) & valid.narrow(axis, 0, length)
            total = total + torch.where(both, (ahead - behind).abs(), 0.0).sum() / valid.sum().clamp_min(1)
    return total.expand(len(output))


def _log_gap(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    valid = target > 0
    gap = (output + FLOOR).log() - (torch.where(valid, target, 1.0) + FLOOR).log()
    return torch.where(valid, gap, 0.0), valid
