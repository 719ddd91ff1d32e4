"""Elastic-net attack: accelerated proximal steps on the squared L2 distance plus the margin, with the L1 norm shrunk away."""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.search.penalty import begin_rounds, next_round
from hardsight.attacks.search.proximal import prox_l1
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.l1 import L1
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("ead", L1)


@register
def ead(
    steps: int = 100, rounds: int = 9, rate: float = 0.01, beta: float = 0.01, constant: float = 0.001,
    early_exit: bool = False,
) -> Search:  # fmt: skip
    """EAD: the closest misclassified point in L1 by FISTA on L2^2 + beta L1 + c [margin]+, counted if it is within eps.

    Needs a signed loss, margin in the paper. steps: for each value of c. rounds: values of c, by binary search from
    `constant`. rate: of the first step, falling with the square root of the steps left. beta: by how much each value shrinks
    in a step. early_exit: an image that is misclassified within eps leaves the batch.

    Source: Chen et al., AAAI 2018, equations 4 to 8, with the L1 decision rule; confidence 0. Forward passes per image: at
    most 2 steps rounds + 1. differs: the extrapolated point is clipped to the pixel range, and counts too.
    """
    if steps < 1 or rounds < 1 or rate <= 0 or beta < 0 or constant <= 0:
        raise SpecError(
            f"ead: steps is {steps}, rounds {rounds}, rate {rate:g}, beta {beta:g}, constant {constant:g}; "
            "steps and rounds must be at least 1, rate and constant above 0, and beta at least 0"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("ead", objective, x, threat, start, early_exit)
        s = begin_rounds(x, constant)
        s.home, s.before, s.shrink = near.x_adv, near.x_adv, torch.full_like(s.c, beta)
        for t in range(steps * rounds):
            if near.leave(s, s.round >= rounds):
                break
            grad = near.look(t / (steps * rounds))
            slope = 2 * near.delta - per_image(s.c * (near.loss < 0), x) * grad
            length = per_image(rate * (1 - s.count / steps).sqrt(), x)
            point = (near.x + prox_l1(near.delta - length * slope, s.shrink, 1.0, near.x)).clamp_(0, 1)
            s.hit = s.hit | near.wrong | near.glance(point, t / (steps * rounds))
            ahead = (point + per_image(s.count / (s.count + 3), x) * (point - s.before)).clamp_(0, 1)
            s.count = s.count + 1
            ends = s.count >= steps
            near.x_adv, s.before = tree.where(ends, s.home, ahead), tree.where(ends, s.home, point)
            next_round(s, ends)
        return near.result()

    return minimizer(search, 2 * steps * rounds + 1, KNOWN, early_exit, gradients=steps * rounds)
