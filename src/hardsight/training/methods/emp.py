"""EMP-SSL: many crops of an image share one direction, while the batch's coding rate keeps the images apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import patches
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.coding import Coding
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class EMP:
    weight: float
    eps: float
    mode: Literal["corrected", "official"]
    widths: tuple[int, ...]
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths))
        squared = self.eps if self.mode == "official" else self.eps**2
        return Joint(encoder, self.views, Coding(self.weight, squared), projector)


@register
def emp(
    weight: float = 200.0,
    eps: float = 0.2,
    mode: Literal["corrected", "official"] = "corrected",
    widths: tuple[int, ...] = (4096, 4096, 1024),
    views: Views = patches(20),
) -> Method:
    """EMP-SSL: weight times the crops' cosines and the total coding rate (Tong et al., arXiv 2304.03977, equations 4 and 5).

    mode: the quirk `tcr_eps_is_squared`: the authors' code, and CF-AMC-SSL's, divides by eps where the formula has eps^2.
    Both papers report results of `official`, which is the formula at eps = 0.447. widths: the pre-feature's, 4096, then the
    projector's.
    differs: the pre-feature, a linear layer with batch norm and ReLU, is the projector's first layer and is not exported, so
    a probe uses the encoder's own features; with encoder `widened(ENCODER, 4096)` and widths=(4096, 1024) it belongs to the
    encoder, is exported, and is what a probe uses, as in both papers.
    """
    return EMP(weight, eps, mode, widths, views)
