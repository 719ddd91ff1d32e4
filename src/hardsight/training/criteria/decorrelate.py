"""Features that agree between views and are not redundant; for more than two views, the mean over their pairs."""

from __future__ import annotations

from torch import Tensor

from hardsight.training.criteria.gather import gather
from hardsight.training.criteria.pairs import among, mean, need_batch


class CrossCorrelation:
    """The squared distance of two views' cross-correlation matrix from the identity; `weight`: of its off-diagonal terms.

    Source: Zbontar et al., ICML 2021 (Barlow Twins), equation 1. The loss is of the whole batch.
    """

    sees = None

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        views = tuple(_standard(gather(z)) for z in online)
        return mean([self._pair(one, two) for one, two in among(views)]).expand(len(online[0]))

    def _pair(self, one: Tensor, two: Tensor) -> Tensor:
        correlation = one.T @ two / len(one)
        diagonal = correlation.diagonal()
        others = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + self.weight * others


def _standard(z: Tensor) -> Tensor:
    """Each feature of z [B, D] with mean 0 and variance 1 over the batch; 1e-5 is batch norm's eps."""
    need_batch(z, "Barlow Twins")
    return (z - z.mean(0)) * (z.var(0, correction=0) + 1e-5).rsqrt()


class Regularized:
    """Squared distance between views, feature variance kept above 1, covariance kept at 0; each term has its weight.

    Source: Bardes et al., ICLR 2022 (VICReg), equations 1 to 6, the variance term halved as in the authors' code. The
    distance is per image, the other two terms are of the whole batch.
    """

    sees = None

    def __init__(self, near: float, spread: float, apart: float) -> None:
        self.near, self.spread, self.apart = near, spread, apart

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        near = mean([(one - two).square().mean(1) for one, two in among(online)])
        whole = [gather(z) for z in online]
        narrow, repeated = (mean([term(z) for z in whole]) for term in (_narrow, _repeated))
        return self.near * near + self.spread * narrow + 2 * self.apart * repeated


def _narrow(z: Tensor) -> Tensor:
    """How far the features' standard deviations are below 1, on average over features."""
    need_batch(z, "VICReg")
    return (1 - (z.var(0) + 1e-4).sqrt()).relu().mean()


def _repeated(z: Tensor) -> Tensor:
    """The sum of squared covariances of different features, divided by the number of features."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
