"""LORE: minimizes FARE's shift under attack, while clean embeddings may move by at most a given share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.embed import distance, far_l2
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step, mlp
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary


class DualNetwork(nn.Module):
    """The frozen encoder's features [B, D] -> the Lagrange multiplier [B], above 0, of an image that moves too far."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net = mlp((dim, width, 1), norm=False)

    def forward(self, wanted: Tensor) -> Tensor:
        unit = F.normalize(wanted, dim=1) * wanted.shape[1] ** 0.5
        return F.softplus(self.net(unit).squeeze(1))


class LoreLearner(HardeningLearner):
    """Each batch is attacked once and trained on `replays` times; after the last one the multipliers make an ascent step.

    rho: the share of the squared length by which a clean embedding may move. rate: step size of the multipliers' network.
    """

    def __init__(
        self, encoder: Encoder, views: Views, adversary: Adversary, dual: DualNetwork, rho: float, replays: int, rate: float
    ) -> None:
        super().__init__(encoder, views, adversary)
        self.dual = dual
        self.rho = rho
        self.replays = replays
        self.rate = rate
        self._pair: tuple[Tensor, Tensor, Tensor] | None = None
        self._ascent: dict[nn.Parameter, Tensor] = {}

    def forward(self, samples: Samples, when: When) -> Step:
        if when.replay == 0 or self._pair is None:
            (x,) = self.draw(samples, when)
            wanted = self.teacher_features(x)
            self._pair = x, self.attack(x, far_l2(), wanted, when), wanted
        x, x_adv, wanted = self._pair
        calm, firm = self.encoder(torch.cat([x, x_adv])).pooled.chunk(2)
        lengths = wanted.square().sum(1)
        unit = lengths.mean()
        moved = distance(firm, wanted) / unit
        excess = (distance(calm, wanted) - self.rho * lengths) / unit
        price = self.dual(wanted)
        loss = moved + price.detach() * excess
        if when.replay == self.replays - 1:
            loss = loss + (price - price.detach()) * excess.detach()  # its value is 0, its gradient the multipliers'
        logs = {"moved": moved, "excess": excess, "price": price}
        return Step(loss.mean(), {name: one.detach().mean() for name, one in logs.items()})

    def after_backward(self, when: When) -> None:
        """Takes the multipliers' gradient from the engine's optimizer, which would minimize where they need ascent."""
        for weight in self.dual.parameters():
            if weight.grad is not None:
                ascent = torch.where(weight.grad.isfinite().all(), weight.grad, 0.0)
                self._ascent[weight] = self._ascent.get(weight, 0) + ascent
            weight.grad = None

    def after_step(self, keep: Any, when: When) -> None:
        with torch.no_grad():
            for weight, ascent in self._ascent.items():
                weight.add_(ascent, alpha=self.rate)
        self._ascent = {}


@dataclass(frozen=True)
class Lore:
    adversary: Adversary
    rho: float
    replays: int
    rate: float
    width: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        dual = DualNetwork(encoder.card.dim, self.width)
        return LoreLearner(encoder, self.views, self.adversary, dual, self.rho, self.replays, self.rate)


@register
def lore(
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(4 / 255)),
    rho: float = 0.1,
    replays: int = 5,
    rate: float = 0.1,
    width: int = 128,
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """Like LORE (Khodabandeh et al., 2025): min |S(x') - T(x)|^2 subject to |S(x) - T(x)|^2 <= rho |T(x)|^2 for every x.

    The Lagrangian (equation 7, algorithm 1) is minimized by `replays` steps of the encoder on each attacked batch, then
    raised by one step of size `rate` of the multipliers, a network on the frozen features; width: of its hidden layer.
    differs: both terms are divided by the batch's mean |T(x)|^2, so that multipliers mean the same for every encoder, and
    their step is plain gradient ascent.
    """
    if rho < 0 or replays < 1 or rate <= 0:
        raise SpecError(
            f"lore: rho is {rho:g}, replays {replays}, rate {rate:g}; they must be at least 0, at least 1, above 0"
        )
    return Lore(adversary, rho, replays, rate, width, views)
