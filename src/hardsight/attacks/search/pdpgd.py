"""Primal-dual proximal gradient descent: Adam on the margin, a proximal step on the norm, and a game over their weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.search.penalty import adam
from hardsight.attacks.search.proximal import prox_l1, prox_l2, prox_linf
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.l1 import L1
from hardsight.attacks.threats.l2 import L2
from hardsight.attacks.threats.linf import Linf
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("pdpgd", Linf, L2, L1)
PROX = {Linf: prox_linf, L2: prox_l2, L1: prox_l1}
LEAST = math.log(1e-6)
"""Bound of the logarithm of the two weights' ratio."""


@register
def pdpgd(
    steps: int = 500,
    rate: float = 0.1,
    decay: float = 0.01,
    ratio: float = 0.01,
    dual: float = 0.1,
    early_exit: bool = False,
) -> Search:
    """PDPGD: the closest misclassified point by a game between norm and margin, in Linf, L2 or L1; counted if within eps.

    Needs a signed loss, margin in the paper. rate: Adam's; the last is `decay` of it. ratio: weight of the norm over that of
    the margin at first; its logarithm falls by `dual` after a point that is not misclassified, and rises by as much after
    another one (at last by a tenth of that). early_exit: an image that is misclassified within eps leaves the batch.

    Source: Matyasko and Chau, arXiv 2106.01538, algorithm 2. Forward passes per image: steps + 1. differs: the proximal
    operators in Adam's metric are exact, where theirs are iterated five times; L0 is left out (see sigma_zero).
    """
    if steps < 2 or rate <= 0 or not 0 < decay <= 1 or ratio <= 0 or dual <= 0:
        raise SpecError(
            f"pdpgd: steps is {steps}, rate {rate:g}, decay {decay:g}, ratio {ratio:g}, dual {dual:g}; "
            "steps must be at least 2, rate, ratio and dual above 0, and decay above 0 and at most 1"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near, prox = Nearest("pdpgd", objective, x, threat, start, early_exit), PROX[type(threat)]
        heavier = torch.full_like(x.flatten(1)[:, 0], -math.log(ratio))  # log of the margin's weight over the norm's
        s = SimpleNamespace(
            mean=torch.zeros_like(x), square=torch.zeros_like(x), heavier=heavier, share=heavier.sigmoid()
        )  # share: of the margin, smoothed
        for t in range(steps):
            if near.leave(s):
                break
            grad = near.look(t / steps)
            mean, root = adam(s, per_image(-torch.sigmoid(-near.loss), x) * grad, t + 1)
            length = rate * decay ** (t / steps)
            moved = (near.x_adv - length * mean / root).clamp_(0, 1) - near.x
            weight = length * (1 - s.share) / s.share
            near.x_adv = (near.x + prox(moved, weight, root, near.x)).clamp_(0, 1)
            fade = (steps - 1 - t) / (steps - 1) * 0.9 + 0.1
            s.heavier = (s.heavier - dual * fade * near.loss.sign()).clamp(LEAST, -LEAST)
            s.share = 0.9 * s.share + 0.1 * s.heavier.sigmoid()
        return near.result()

    return minimizer(search, steps + 1, KNOWN, early_exit)
