"""Decoupled Direction and Norm: gradient steps whose result is scaled to a length that shrinks or grows by a fixed share."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.threats.base import Threat, per_image, unit
from hardsight.attacks.threats.l2 import L2
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("ddn", L2)


@register
def ddn(steps: int = 100, radius: float = 1.0, gamma: float = 0.05, levels: int = 0, early_exit: bool = False) -> Search:
    """DDN: the closest misclassified point in L2, by steps along the gradient of any loss, counted if it is within eps.

    radius: length of the first perturbation; it is multiplied by 1 - gamma after a misclassified point, by 1 + gamma after
    another one. levels: round points to so many values of a pixel (256 in the paper; 0: not at all). early_exit: an image
    that is misclassified within eps leaves the batch.

    Source: Rony et al., CVPR 2019, algorithm 1, on cross-entropy there. Forward passes per image: steps + 1. differs: no
    rounding by default; where the gradient is zero the point stays (and is counted as flat), where theirs steps at random.
    """
    if steps < 1 or radius <= 0 or not 0 < gamma < 1 or levels < 0 or levels == 1:
        raise SpecError(
            f"ddn: steps is {steps}, radius {radius:g}, gamma {gamma:g}, levels {levels}; "
            "steps must be at least 1, radius above 0, gamma between 0 and 1, and levels 0 or at least 2"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("ddn", objective, x, threat, start, early_exit, signed=False)
        widest = threat.size(torch.maximum(x, 1 - x))
        s = SimpleNamespace(widest=widest, radius=torch.full_like(widest, radius))
        for t in range(steps):
            if near.leave(s):
                break
            grad = near.look(t / steps)
            length = 0.01 + 0.99 * (1 + math.cos(math.pi * t / steps)) / 2
            s.radius = torch.where(near.wrong, (1 - gamma) * s.radius, (1 + gamma) * s.radius).minimum(s.widest)
            moved = unit(near.delta + length * unit(grad, 2), 2)
            x_adv = (near.x + per_image(s.radius, x) * moved).clamp_(0, 1)
            near.x_adv = x_adv.mul_(levels - 1).round_().div_(levels - 1) if levels else x_adv
        return near.result()

    return minimizer(search, steps + 1, KNOWN, early_exit, signed=False)
