"""One branch predicts the output of the other, stop-gradient branch for another view; there are no negatives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hardsight.training.criteria.pairs import across, mean


def agreement(online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None) -> Tensor:
    """The mean cosine [B] of each prediction with every other view's target."""
    return mean([F.cosine_similarity(one, two.detach(), dim=1) for one, two in across(online, target or ())])


class Regressed:
    """The squared distance of unit vectors, both directions summed, mean over pairs of views: 4 - 4 cos.

    Source: Grill et al., NeurIPS 2020 (BYOL), equation 2 and the sum below it.
    """

    sees = None

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        return 4 - 4 * agreement(online, target)


class Aligned:
    """Minus the cosine, mean over both directions and pairs of views. Source: Chen and He, CVPR 2021 (SimSiam), equation 2."""

    sees = None

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        return -agreement(online, target)
