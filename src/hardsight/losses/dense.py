"""Segmentation losses: cross-entropy of each pixel, weighted so that the attack does not focus on misclassified pixels.

Outputs are logits [B, K, H, W], never probabilities; masks [B, H, W] with IGNORE where a pixel has no class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import IGNORE, Loss, made_of, mean_where, only_for, right_pixels
from hardsight.losses.classify import RANKED, need
from hardsight.specs.catalog import register


@register
def segpgd_ce() -> Loss:
    """SegPGD's: 1/N [sum over right pixels (1 - w) CE + sum over wrong pixels w CE], where w = progress / 2 rises to 1/2.

    Source: Gu et al., ECCV 2022, equations 4 and 5. N counts all pixels that have a class, right or wrong. differs: the code
    released with paper 002 takes a mean over each of the two sets, and ignores class 0 (quirks A1, A2).
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        pixel = F.cross_entropy(output, target, reduction="none", ignore_index=IGNORE)
        weight = torch.where(right_pixels(output, target), 1 - progress / 2, progress / 2)
        return mean_where(weight * pixel, target != IGNORE)

    return only_for(loss, "mask")


@register
def cospgd_ce() -> Loss:
    """CosPGD's: the CE of each pixel times the cosine between its softmax and its one-hot label, without its gradient.

    Source: Agnihotri et al., ICML 2024, equations 5 and 6. With p the softmax and y the label the cosine is p_y / |p|.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        pixel = F.cross_entropy(output, target, reduction="none", ignore_index=IGNORE)
        valid = target != IGNORE
        with torch.no_grad():
            share = output.softmax(1)
            right = share.gather(1, torch.where(valid, target, 0)[:, None]).squeeze(1)
            weight = right / share.norm(dim=1)
        return mean_where(weight * pixel, valid)

    return only_for(loss, "mask")


@register
def pixel_margin(confidence: float | None = None) -> Loss:
    """The largest other logit of a pixel minus the right one, the mean over the pixels that have a class.

    confidence: a pixel misclassified by more than this, in logits, does not raise the loss further, so that the other pixels
    count more; None: no limit. Source: Carlini and Wagner, S&P 2017, f6 (confidence is its kappa), pixel by pixel.
    """
    if confidence is not None and confidence < 0:
        raise SpecError(
            f"pixel_margin: confidence is {confidence:g}; it must be at least 0, where misclassification begins, or None"
        )

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        pixel = margins(output, target)
        return mean_where(pixel if confidence is None else pixel.clamp_max(confidence), target != IGNORE)

    return made_of(only_for(loss, "mask"), where_classed(margins))


@register
def pixel_dlr() -> Loss:
    """The difference of logits ratio of each pixel, the mean over the pixels that have a class: `dlr` pixel by pixel.

    Source: Croce and Hein, ICML 2020, equation 6; of pixels: Rony et al., CVPR 2023 (ALMA prox). Needs 3 classes.
    """

    def ratios(output: Tensor, target: Tensor) -> Tensor:
        need(output, RANKED, "pixel_dlr", "pixel_margin")
        top = output.topk(RANKED, dim=1).values
        return margins(output, target) / (top[:, 0] - top[:, -1] + 1e-8)

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return mean_where(ratios(output, target), target != IGNORE)

    return made_of(only_for(loss, "mask"), where_classed(ratios))


def margins(output: Tensor, target: Tensor) -> Tensor:
    """[B, H, W]: the largest other logit of a pixel minus the right one; of class 0 where the pixel has none."""
    label = torch.where(target != IGNORE, target, 0)[:, None]
    return output.scatter(1, label, -torch.inf).amax(1) - output.gather(1, label).squeeze(1)


def where_classed(pixels: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The values of the pixels that have a class; -inf elsewhere."""
    return lambda output, target: torch.where(target != IGNORE, pixels(output, target), -torch.inf)
