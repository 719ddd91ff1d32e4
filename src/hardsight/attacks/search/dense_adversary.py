"""Dense adversary generation: normalized gradient steps on the pixels that are still right, until a share of them is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.threats.base import Threat, unit
from hardsight.attacks.threats.linf import Linf
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("dense_adversary", Linf)


@register
def dense_adversary(steps: int = 200, share: float = 0.99, step: float = 0.5 / 255) -> Search:
    """DAG: steps along the gradient until a share of the pixels is misclassified, counted if that is within eps.

    The loss should end at each pixel's boundary: pixel_margin(0.0), as in the paper. share: of the pixels with a class, at
    which an image leaves. step: how far the strongest value moves. Within eps the result is the point with the most
    misclassified pixels.

    Source: Xie et al., ICCV 2017, algorithm 1 (gamma 0.5 on pixels from 0 to 255). Forward passes per image: at most steps +
    1. differs: they attack until every target is wrong; each point is clipped to the pixel range.
    """
    if steps < 1 or not 0 < share <= 1 or step <= 0:
        raise SpecError(
            f"dense_adversary: steps is {steps}, share {share:g}, step {step:g}; "
            "steps must be at least 1, share above 0 and at most 1, and step above 0"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("dense_adversary", objective, x, threat, start, signed=False, share=share)
        state = SimpleNamespace()
        for t in range(steps):
            if near.leave(state, near.wrong):
                break
            grad = near.look(t / steps)
            near.x_adv = (near.x_adv + step * unit(grad, torch.inf)).clamp_(0, 1)
        return near.result()

    return minimizer(search, steps + 1, KNOWN, early_exit=False, signed=False, share=share)
