"""Colour transforms of views: per-image parameters, applied to [B, 3, N] pixels at once, in as few passes as possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hardsight.data.views.geometry import apart

GREY = (0.299, 0.587, 0.114)
"""Luma weights (ITU-R BT.601), as in NTSC's YIQ and in PIL."""
TV_GREY = (0.2989, 0.587, 0.114)
"""The same weights as rounded in torchvision; they sum to 0.9999."""
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Colours(NamedTuple):
    """The colour parameters of B images, each [B], on the CPU; 1, 1, 1, 0 and False leave an image unchanged.

    bright, contrast, saturation: factors. hue: hue rotation, as a share of the circle. drained: converted to greyscale.
    order: [B, 4], the order of the first four, for `step_by_step`.
    """

    bright: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    drained: Tensor
    order: Tensor


def at_once(x: Tensor, colours: Colours) -> Tensor:
    """Pixels x [B, 3, N] after brightness, contrast, hue in YIQ (NTSC, 1953), saturation or greyscale, clamped to [0, 1].

    Given the mean grey of an image, all of these are linear: one matrix M and one number per image,
    y = M x + (1 - contrast) mean, because every step after the first leaves greys unchanged.
    """
    grey = torch.tensor(GREY).expand(3, 3)
    kept = torch.where(colours.drained, 0.0, colours.saturation).view(-1, 1, 1)
    mix = grey + (torch.eye(3) - grey) * kept
    if colours.hue.any():
        mix = mix @ _turn(colours.hue)
    mix = mix * (colours.bright * colours.contrast).view(-1, 1, 1)
    mean = (x.mean(2) @ torch.tensor(GREY).to(x, non_blocking=True)) * (colours.bright * (1 - colours.contrast)).to(
        x, non_blocking=True
    )
    return torch.baddbmm(mean.view(-1, 1, 1), mix.to(x, non_blocking=True), x).clamp(0, 1)


def step_by_step(x: Tensor, colours: Colours) -> Tensor:
    """The same in torchvision's way: each image has its own order of steps, each step is clamped, hue is rotated in HSV."""
    steps = (brightened, contrasted, saturated, turned)
    idle = (1.0, 1.0, 1.0, 0.0)
    given = x
    for place in range(len(steps)):
        for step, change, factor in zip(range(len(steps)), steps, colours, strict=False):
            which = ((colours.order[:, place] == step) & (factor != idle[step])).nonzero()[:, 0]
            if len(which):
                there = which.to(x.device, non_blocking=True)
                x = x.clone() if x is given else x
                x.index_copy_(0, there, change(x.index_select(0, there), factor[which]))
    return drained(x, colours.drained)


def brightened(x: Tensor, factor: Tensor) -> Tensor:
    """x [B, 3, N] times `factor` [B], clamped."""
    return (x * factor.to(x, non_blocking=True).view(-1, 1, 1)).clamp(0, 1)


def contrasted(x: Tensor, factor: Tensor) -> Tensor:
    """x [B, 3, N] blended with its mean grey, clamped: factor 0 gives that grey, 1 gives x."""
    factor = factor.to(x, non_blocking=True).view(-1, 1, 1)
    mean = (x.mean(2) @ torch.tensor(TV_GREY).to(x, non_blocking=True)).view(-1, 1, 1)
    return (x * factor + mean * (1 - factor)).clamp(0, 1)


def saturated(x: Tensor, factor: Tensor) -> Tensor:
    """x [B, 3, N] blended with its greyscale version, clamped: factor 0 gives greyscale, 1 gives x."""
    factor, grey = factor.view(-1, 1, 1), torch.tensor(TV_GREY).expand(3, 3)
    return torch.bmm((torch.eye(3) * factor + grey * (1 - factor)).to(x, non_blocking=True), x).clamp(0, 1)


def turned(x: Tensor, share: Tensor) -> Tensor:
    """x [B, 3, N] in [0, 1] with its hue in HSV rotated by `share` [B] of the circle."""
    red, green, blue = x.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    span = most - torch.minimum(torch.minimum(red, green), blue)
    later = torch.where(most == green, blue - red + 2 * span, red - green + 4 * span)
    place = (
        torch.where(most == red, green - blue, later) / span.clamp_min(1e-12) / 6 + share.to(x, non_blocking=True)[:, None]
    )
    found = []
    for own in (
        5 / 6,
        3 / 6,
        1 / 6,
    ):  # a channel is at its minimum from 1/6 to 1/2 of the circle, at its maximum from 2/3 on
        there = place + own
        lack = (6 * (there - there.floor()) - 2).abs()
        found.append(torch.addcmul(most, span, (lack - 2).clamp(-1, 0)))
    return torch.stack(found, 1)


def drained(x: Tensor, which: Tensor) -> Tensor:
    """x [B, 3, N], converted to greyscale where `which` [B] is True."""
    return changed(
        x,
        which,
        lambda some: (some.transpose(1, 2) @ torch.tensor(TV_GREY).to(x, non_blocking=True))[:, None].expand_as(some),
    )


def solarised(x: Tensor, which: Tensor, threshold: float) -> Tensor:
    """x [B, ...], with pixels at or above `threshold` inverted in the images where `which` [B] is True."""
    return changed(x, which, lambda some: torch.where(some >= threshold, 1 - some, some))


def blurred(x: Tensor, which: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Images x [B, C, H, W], where `which` [B] blurred by a Gaussian of `sigma` [B] pixels, with reflection at the edges.

    taps: the kernel size, odd; reduced if the image is too small for that much reflection.
    """
    some = sigma[which]

    def blur(x: Tensor) -> Tensor:
        return apart(x, *(_gaussian(some, length, taps).to(x, non_blocking=True) for length in x.shape[2:]))

    return changed(x, which, blur)


def changed(x: Tensor, which: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """x [B, ...] with `change` applied to the images where `which` [B], on the CPU, is True; the others are only copied."""
    if which.all():
        return change(x)
    places = which.nonzero()[:, 0].to(x.device, non_blocking=True)
    return x.index_copy(0, places, change(x.index_select(0, places))) if len(places) else x


def _gaussian(sigma: Tensor, length: int, taps: int) -> Tensor:
    """[B, length, length]: the weight of each pixel of a row in each blurred pixel, with reflection at the edges."""
    reach = min(taps // 2, length - 1)
    steps = torch.arange(reach + 1)
    weights = (-(steps**2) / (2 * sigma[:, None] ** 2)).exp()
    weights = weights / (2 * weights.sum(1, keepdim=True) - 1)
    here, there = torch.arange(length)[:, None], torch.arange(length)
    left, right = (
        torch.where(there > 0, -there, -length * 2),
        torch.where(there < length - 1, 2 * (length - 1) - there, length * 3),
    )
    far = torch.stack([(place - here).abs() for place in (there, left, right)])
    folded = (far == steps.view(-1, 1, 1, 1)).sum(1).to(weights, non_blocking=True)
    return (weights @ folded.flatten(1)).view(-1, length, length)


def _turn(share: Tensor) -> Tensor:
    """[B, 3, 3]: the rotation of colours about the grey axis by `share` [B] of the circle, in YIQ."""
    forth = torch.tensor(TO_YIQ)
    angle = 2 * math.pi * share.float()
    spin = torch.eye(3).repeat(len(share), 1, 1)
    spin[:, 1, 1], spin[:, 1, 2], spin[:, 2, 1], spin[:, 2, 2] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    return torch.linalg.inv(forth) @ spin @ forth
