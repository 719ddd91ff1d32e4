"""Carlini and Wagner's attack in L2: Adam on the squared distance plus a constant times the margin, in tanh space."""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.search.penalty import adam, begin_rounds, next_round
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.l2 import L2
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("cw_l2", L2)


@register
def cw_l2(
    steps: int = 100, rounds: int = 9, rate: float = 0.01, constant: float = 0.001, early_exit: bool = False
) -> Search:
    """C&W L2: the closest misclassified point by Adam on distance^2 + c [margin]+, with c by binary search; within eps.

    Needs a signed loss, margin in the paper (f6). steps: of Adam for each value of c. rounds: number of values of c. rate:
    Adam's, on the inverse tanh of the pixels. constant: the first c. early_exit: an image that is misclassified within eps
    leaves the batch.

    Source: Carlini and Wagner, S&P 2017, sections V and VI; confidence 0. Forward passes per image: steps rounds + 1
    (10,000 steps in the paper). differs: no round ends early; their code ends one as soon as no image of the batch improves.
    """
    if steps < 1 or rounds < 1 or rate <= 0 or constant <= 0:
        raise SpecError(
            f"cw_l2: steps is {steps}, rounds {rounds}, rate {rate:g}, constant {constant:g}; "
            "steps and rounds must be at least 1, rate and constant above 0"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("cw_l2", objective, x, threat, start, early_exit)
        s = begin_rounds(x, constant)
        s.home = torch.atanh((2 * near.x_adv - 1) * (1 - 1e-6))
        s.w, s.mean, s.square = s.home, torch.zeros_like(x), torch.zeros_like(x)
        for t in range(steps * rounds):
            if near.leave(s, s.round >= rounds):
                break
            near.x_adv = (torch.tanh(s.w) + 1) / 2
            grad = near.look(t / (steps * rounds))
            s.hit = s.hit | near.wrong
            if (t + 1) % steps == 0:
                s.w, s.mean, s.square = s.home, torch.zeros_like(s.w), torch.zeros_like(s.w)
                next_round(s, torch.ones_like(s.hit))
                continue
            pull = per_image(s.c * (near.loss < 0), grad) * grad
            slope = (2 * near.delta - pull) * 2 * near.x_adv * (1 - near.x_adv)
            mean, root = adam(s, slope, t % steps + 1)
            s.w = s.w - rate * mean / root
        return near.result()

    return minimizer(search, steps * rounds + 1, KNOWN, early_exit)
