"""Depth losses: output and target [B, H, W] in metres; target 0 = not measured, without effect on loss or gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import Loss, mean_where, only_for, with_own_target
from hardsight.specs.catalog import register

TINY = 1e-6


def log_gap(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(log output - log target, mask of measured pixels), both [B, H, W]; the difference is 0 elsewhere."""
    valid = target > 0
    gap = output.clamp_min(TINY).log() - torch.where(valid, target, 1.0).log()
    return torch.where(valid, gap, 0.0), valid


def silog(output: Tensor, target: Tensor, focus: float = 0.85) -> Tensor:
    """[B]: sqrt(mean g^2 - focus (mean g)^2), with g the log difference.

    Source: Eigen et al., NeurIPS 2014, equation 4, with the square root and the focus of later work. differs: a small number
    under the root, so that the gradient is finite where the error is zero (quirk B5); no warm-up that would leave out the
    variance (quirk B2).
    """
    gap, valid = log_gap(output, target)
    mean = mean_where(gap, valid)
    return (mean_where(gap.square(), valid) - focus * mean.square()).clamp_min(0).add(TINY).sqrt()


def gradient_gap(output: Tensor, target: Tensor, scales: tuple[int, ...] = (1, 2, 4, 8)) -> Tensor:
    """[B]: the mean absolute difference of the log difference between neighbours, in width and height, summed over scales.

    Source: Li and Snavely, CVPR 2018 (MegaDepth), equation 4. differs: DINOv2's code, and paper 002's after it, takes the
    differences over the batch and the height, at scales 1, 2, 4, 6 (quirk C).
    """
    gap, valid = log_gap(output, target)
    total = torch.zeros(len(output), device=output.device, dtype=gap.dtype)
    for scale in scales:
        g, v = gap[:, ::scale, ::scale], valid[:, ::scale, ::scale]
        for axis in (1, 2):
            if g.shape[axis] > 1:
                both = v.narrow(axis, 1, v.shape[axis] - 1) & v.narrow(axis, 0, v.shape[axis] - 1)
                total = total + mean_where(g.diff(dim=axis).abs(), both)
    return total


def relative_gap(output: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """[B]: the mean of |output - wanted| / wanted over the valid pixels."""
    wanted = torch.where(valid, wanted, 1.0)
    return mean_where((output - wanted).abs() / wanted, valid)


@register
def scale_invariant(focus: float = 0.85) -> Loss:
    """The scale-invariant log loss; focus is the share of a common scale error that it ignores (1: all, 0: none)."""
    return only_for(lambda output, target, progress=1.0: silog(output, target, focus), "depth")


@register
def depth_loss(focus: float = 0.85, gradient: float = 0.5) -> Loss:
    """Scale-invariant log loss plus the weighted multi-scale gradient loss: the training loss of depth heads."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return silog(output, target, focus) + gradient * gradient_gap(output, target)

    return only_for(loss, "depth")


@register
def depth_absrel() -> Loss:
    """The mean relative error |d - t| / t of the measured pixels: AbsRel itself, which ignores no common scale error."""
    return only_for(lambda output, target, progress=1.0: relative_gap(output, target, target > 0), "depth")


@register
def depth_rmse() -> Loss:
    """The root mean squared error of the measured pixels, in metres: RMSE itself, in which far pixels count most.

    differs: a small number under the root, so that the gradient is finite where the error is zero.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return mean_where((output - target).square(), target > 0).add(TINY).sqrt()

    return only_for(loss, "depth")


@register
def depth_to(
    change: Literal["nearer", "farther", "flip_horizontal", "flip_vertical"] = "farther", factor: float = 10.0
) -> Loss:
    """Targeted depth: towards the truth `factor` times nearer or farther, or mirrored; 0 when reached, else negative.

    Minus the mean relative error |d - w| / w to the wanted depth w, over the pixels where both truth and w are measured: a
    mirrored map's holes are mirrored with it. A target out of reach, such as the default, moves a whole map in one
    direction, which a loss that only asks for a difference cannot: there each pixel continues on the side where it began. An
    attack with it keeps the point closest to the wanted depth, whatever its task error is; in dense_autoattack the task
    error decides.

    Source: Wong, Cicek and Soatto, NeurIPS 2020 (scaling by 0.9 and 1.1, flipping; their loss is that relative error).
    differs: the wanted depth is made from the ground truth; theirs is made from the clean output, which has no holes.
    """
    if factor <= 1:
        raise SpecError(f"depth_to: factor is {factor:g}, but it must be above 1 ('nearer' divides by it)")

    def wanted_depth(truth: Tensor) -> Tensor:
        if change == "nearer":
            return truth / factor
        if change == "farther":
            return truth * factor
        return truth.flip(-1 if change == "flip_horizontal" else -2)

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        wanted = wanted_depth(target)
        return -relative_gap(output, wanted, (target > 0) & (wanted > 0))

    return with_own_target(only_for(loss, "depth"))
