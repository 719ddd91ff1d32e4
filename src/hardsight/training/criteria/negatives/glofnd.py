"""GloFND's detector: each image learns its own threshold over the whole training split, one batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.training.criteria.gather import gather
from hardsight.training.criteria.negatives.base import Negatives, Pairs, Treated, without

BETAS, EPS = (0.9, 0.98), 1e-8


class Thresholds(nn.Module):
    """For each image of the training split, the cosine that a `share` of all other images' views exceed."""

    threshold: Tensor
    slope: Tensor
    square: Tensor
    visits: Tensor

    def __init__(self, images: int, share: float, rate: float, wait: int) -> None:
        super().__init__()
        self.share, self.rate, self.wait = share, rate, wait
        self.register_buffer("threshold", torch.ones(images))
        self.register_buffer("slope", torch.zeros(images))
        self.register_buffer("square", torch.zeros(images))
        self.register_buffer("visits", torch.zeros(images, dtype=torch.int32))

    def forward(self, pairs: Pairs) -> Treated:
        """Suspects are above their row's threshold; a row whose image was seen in fewer than `wait` steps has none."""
        with torch.no_grad():
            met = self.visits[pairs.places[0]].repeat(2)[:, None] >= self.wait
            suspects = pairs.other & met & (pairs.cosine > self._of(pairs).repeat(2)[:, None])
        return without(pairs, suspects, refill=True)

    @torch.no_grad()
    def notice(self, pairs: Pairs) -> Tensor:
        """[2, B]: the share of each image's negatives above its threshold, and that threshold."""
        threshold = self._of(pairs)
        above = pairs.other & (pairs.cosine > threshold.repeat(2)[:, None])
        return torch.stack([_over_views(above.sum(1) / pairs.other.sum(1).clamp_min(1)), threshold])

    @torch.no_grad()
    def keep(self, places: Tensor, noticed: Tensor) -> None:
        """One Adam step of each image's threshold along share - (share of its negatives above), within [-1, 1]."""
        at, (above, begun) = gather(places), gather(noticed.T.contiguous()).T
        visits = self.visits[at] + 1
        slope = self.slope[at].lerp(self.share - above, 1 - BETAS[0])
        square = self.square[at].lerp((self.share - above).square(), 1 - BETAS[1])
        rise = (slope / (1 - BETAS[0] ** visits)) / ((square / (1 - BETAS[1] ** visits)).sqrt() + EPS)
        self.threshold[at] = (begun - self.rate * rise).clamp(-1, 1)
        self.slope[at], self.square[at], self.visits[at] = slope, square, visits

    def _of(self, pairs: Pairs) -> Tensor:
        """[B]: the learned thresholds; for an image not seen before, the quantile over the current negatives."""
        at = pairs.places[0]
        negatives = pairs.cosine.float().masked_fill(~pairs.other, -1)
        above = int(self.share * (negatives.shape[1] - 2))
        here = _over_views(negatives.topk(above + 1, dim=1).values[:, -1])
        return torch.where(self.visits[at] > 0, self.threshold[at], here)


def _over_views(value: Tensor) -> Tensor:
    return value.view(2, -1).mean(0)


@register
def glofnd(share: float = 0.1, rate: float = 0.05, wait: int = 1) -> Negatives:
    """GloFND: negatives above the anchor's own threshold, which is learned over all of the data, are false.

    share: of all images, how many are treated as false negatives of an anchor; about one over the number of classes (0.01
    for ImageNet-100). rate: lr of the thresholds' Adam. wait: in how many steps an image must be seen before its suspects
    are removed; these are epochs, where each shows it once. The push of the remaining negatives is scaled up to the number
    of all.
    Source: Balmaseda et al., ICML 2025, algorithm 1, with vibalcam/GloFND's Adam of decay 0.9 and 0.98. differs: a threshold
    starts as the first batch's quantile rather than as 1; Adam's bias correction counts steps per image, not epochs; a step
    uses the thresholds from before it, so that computing a loss changes no state.
    """
    if not 0 < share < 1 or rate <= 0 or wait < 0:
        raise SpecError(
            f"glofnd: share {share}, rate {rate} and wait {wait}; they must be within (0, 1), above 0, at least 0"
        )
    return Negatives(lambda images, dim: Thresholds(images, share, rate, wait))
