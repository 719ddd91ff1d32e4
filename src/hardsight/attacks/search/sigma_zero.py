"""Sigma-zero: descent on a smooth stand-in of the number of changed places, while a threshold resets the smallest changes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.search.penalty import adam
from hardsight.attacks.threats.base import Threat, per_image, unit
from hardsight.attacks.threats.l0 import L0, L0Values
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("sigma_zero", L0, L0Values)


@register
def sigma_zero(
    steps: int = 1000, step: float = 1.0, sigma: float = 0.001, tau: float = 0.3, rate: float = 0.01,
    early_exit: bool = False,
) -> Search:  # fmt: skip
    """sigma-zero: a misclassified point with the fewest changed pixels or values, counted if it is within eps.

    Needs a signed loss, margin in the paper. step: length of a step; the last is a tenth of it. sigma: how smooth the count
    is, d^2 / (d^2 + sigma) of each place. tau: changes smaller than this are reset; it rises by `rate` of a step after a
    misclassified point and falls by as much after another one. early_exit: an image that is misclassified within eps leaves
    the batch.

    Source: Cina et al., ICLR 2025, algorithm 1, which counts values: threat l0_values. Forward passes per image: steps + 1.
    differs: with l0 it counts pixels, with the squares and the largest change of a pixel's channels in place of a value's.
    """
    if steps < 1 or step <= 0 or sigma <= 0 or not 0 <= tau <= 1 or rate <= 0:
        raise SpecError(
            f"sigma_zero: steps is {steps}, step {step:g}, sigma {sigma:g}, tau {tau:g}, rate {rate:g}; "
            "steps must be at least 1, step, sigma and rate above 0, and tau in [0, 1]"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        assert isinstance(threat, L0)
        near = Nearest("sigma_zero", objective, x, threat, start, early_exit)
        count, length = threat.together(x[:1]).numel(), step
        each = torch.zeros_like(x.flatten(1)[:, 0])
        s = SimpleNamespace(mean=torch.zeros_like(x), square=torch.zeros_like(x), tau=each + tau)
        for t in range(steps):
            if near.leave(s):
                break
            grad = near.look(t / steps)
            squares = threat.together(near.delta**2)
            fewer = 2 * sigma * near.delta / (squares + sigma) ** 2 / count
            down = unit(fewer - per_image((near.loss < 0).to(grad.dtype), grad) * grad, torch.inf)
            mean, root = adam(s, down, t + 1)
            x_adv = (near.x_adv - length * mean / root).clamp_(0, 1)
            length = step * (0.1 + 0.9 * (1 + math.cos(math.pi * t / steps)) / 2)
            s.tau = (s.tau + torch.where(near.wrong, rate * length, -rate * length)).clamp(0, 1)
            small = threat.together((x_adv - near.x) ** 2, torch.amax) < per_image(s.tau, x) ** 2
            near.x_adv = torch.where(small, near.x, x_adv)
        return near.result()

    return minimizer(search, steps + 1, KNOWN, early_exit)
