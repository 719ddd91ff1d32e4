"""The losses of the Segmentation Ensemble Attack: each reduces, in its own way, the weight of pixels already misclassified.

Plain cross-entropy spends its effort on those: their gradient is the largest. Below, z are the logits of a pixel, y its
class, p the softmax, N the number of an image's pixels with a class, and a pixel is right if its largest logit is z_y; which
pixels are right is held constant in the gradient.

The masked losses decrease as pixels become misclassified, so a search with step control uses them as
`tracked(sea_masked_ce)`: see there.

Source: Croce, Singh and Hein, ECCV 2024, and its first preprint (arXiv 2306.12941v1); repository
nmndeep/robust-segmentation. The paper's SEA is `sea_balanced`, `sea_masked_ce` and `sea_js`; the preprint's is
`sea_masked_ce`, `segpgd_ce` (its balanced cross-entropy), `sea_js` and `sea_spherical`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import IGNORE, Loss, mean_where, only_for, right_pixels
from hardsight.specs.catalog import register


@register
def sea_masked_ce() -> Loss:
    """SEA's masked cross-entropy: 1/N sum over the right pixels of -log p_y."""

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return mean_where(_right(output, target) * _pixel_ce(output, target), target != IGNORE)

    return only_for(loss, "mask")


@register
def sea_balanced(weights: tuple[float, ...] | None = None) -> Loss:
    """SEA's balanced masked cross-entropy: rare classes have as much weight as frequent ones, as in mIoU.

    weights: one w per class, 1/N sum over the right pixels of -w_y log p_y; the released code has tables for two data sets,
    inverse to the classes' pixel counts. None: each image's own counts n_c of the pixels of class c, 1/K sum over its K
    classes c of 1/n_c sum over the right pixels of c of -log p_c. differs: that default needs no table, and is not in the
    paper. Raises `SpecError`, at the first output, for a table whose length is not the number of classes.
    """
    table = None if weights is None else torch.tensor(weights, dtype=torch.float64)

    def weight(output: Tensor, target: Tensor) -> Tensor:
        valid, classes = target != IGNORE, output.shape[1]
        label = torch.where(valid, target, 0)
        exact = torch.promote_types(output.dtype, torch.float32)  # half precision cannot count to 300
        if table is not None:
            if len(table) != classes:
                raise SpecError(f"sea_balanced has {len(table)} weights for {classes} classes; give one per class, or none")
            return table.to(output.device, exact)[label]
        ones, flat = valid.flatten(1).to(exact), label.flatten(1)
        counts = torch.zeros(len(output), classes, dtype=exact, device=output.device).scatter_add_(1, flat, ones)
        each = ones.sum(1) / (counts > 0).sum(1).clamp_min(1)
        return (each[:, None] / counts.clamp_min(1)).gather(1, flat).view_as(label)

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return mean_where(weight(output, target) * _right(output, target) * _pixel_ce(output, target), target != IGNORE)

    return only_for(loss, "mask")


@register
def sea_js() -> Loss:
    """SEA's Jensen-Shannon divergence of the softmax and the one-hot label, the mean over the pixels.

    Since one of the two is one-hot, it depends on q = p_y alone: log 2 + (q log q - (1 + q) log(1 + q)) / 2, so that its
    gradient vanishes by itself where a pixel is misclassified (q -> 0). differs: the released code sums over the classes,
    and is NaN where the softmax of another class underflows to 0.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        log = -_pixel_ce(output, target)
        share = log.exp()
        pixel = math.log(2) + (share * log - (1 + share) * share.log1p()) / 2
        return mean_where(pixel, target != IGNORE)

    return only_for(loss, "mask")


@register
def sea_spherical(masked: bool = True) -> Loss:
    """SEA's masked spherical loss (first preprint only): 1/N sum over the right pixels of -z_y / |z|.

    Its gradient does not vanish where a model is very confident: the length of z has no effect. masked: without the mask, it
    is what the preprint uses for tracking, under a name that its code does not have.
    """

    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        valid = target != IGNORE
        cosine = F.normalize(output, dim=1).gather(1, torch.where(valid, target, 0)[:, None]).squeeze(1)
        return mean_where(-cosine * _right(output, target) if masked else -cosine, valid)

    return only_for(loss, "mask")


def _right(output: Tensor, target: Tensor) -> Tensor:
    """1 where a pixel is classified correctly, else 0, without a gradient; pixels without a class are never right."""
    return right_pixels(output, target).to(output.dtype)


def _pixel_ce(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none", ignore_index=IGNORE)
