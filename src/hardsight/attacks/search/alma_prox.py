"""ALMA prox: an augmented Lagrangian with one constraint a pixel, and proximal steps on the Linf norm."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.search.proximal import prox_linf
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.linf import Linf
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, parts_and_grads
from hardsight.specs.catalog import register

KNOWN = only_in("alma_prox", Linf)
CHECKS, IMPROVES, GROWS = 10, 0.95, 2.0
"""Every so many steps, a pixel's penalty parameter doubles where its constraint has not improved by a twentieth."""
LEAST, WIDENS = 0.1, 0.02
"""Smallest scale of the constraints, and the share by which it changes in a step."""
BEYOND = 1e-4
"""How far beyond the boundary a constraint leads, in the unit of the loss."""


@register
def alma_prox(
    steps: int = 500, share: float = 0.99, rate: float = 0.001, decay: float = 0.1, alpha: float = 0.8,
    early_exit: bool = False,
) -> Search:  # fmt: skip
    """ALMA prox: the smallest Linf perturbation that misclassifies a share of the pixels, counted if it is within eps.

    Needs a loss that tells its pixels apart, pixel_dlr in the paper, or for labels a signed one. share: of the pixels with a
    class. rate: length of a step; it falls to `decay` of it from the step at which the share was first reached. alpha: decay
    of the means of the multipliers and of the squared gradient. early_exit: an image whose share is reached within eps
    leaves the batch. Within eps the result is the point with the most misclassified pixels.

    Source: Rony et al., CVPR 2023, algorithm 1. Forward passes per image: steps + 1. differs: a signed loss is one
    constraint, so that labels are attacked too.
    """
    if steps < 2 or not 0 < share <= 1 or rate <= 0 or not 0 < decay < 1 or not 0 < alpha < 1:
        raise SpecError(
            f"alma_prox: steps is {steps}, share {share:g}, rate {rate:g}, decay {decay:g}, alpha {alpha:g}; "
            "steps must be at least 2, share above 0 and at most 1, rate above 0, decay and alpha between 0 and 1"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("alma_prox", objective, x, threat, start, early_exit, objective.signed, share)
        each = torch.zeros_like(x.flatten(1)[:, 0])
        s = SimpleNamespace(square=torch.zeros_like(x), scale=each + 1, found=each + steps // 2)

        def pushed(values: Tensor) -> Iterator[Tensor]:
            yield _push(values, s, t, steps, share, alpha)

        for t in range(steps):
            if near.leave(s):
                break
            reading, (grad,) = parts_and_grads(near.objective, near.x_adv, pushed, t / steps, whole=objective.signed)
            early = ~near.ever
            near.record(reading)
            early &= near.wrong & torch.full_like(early, t < steps // 2)
            s.found = torch.where(early, t, s.found)
            bend = decay / (1 - decay) * (steps - s.found).clamp_min(1)
            length = rate * bend / ((t - s.found).clamp_min(0) + bend)
            s.square = alpha * s.square + (1 - alpha) * grad**2
            metric = (s.square / (1 - alpha ** (t + 1))).sqrt_().clamp_min_(1e-8)
            moved = near.delta - per_image(length, x) * grad / metric
            near.x_adv = (near.x + prox_linf(moved, length, metric, near.x)).clamp_(0, 1)
        return near.result()

    made = minimizer(search, steps + 1, KNOWN, early_exit, signed=False, share=share)
    made.parted = True  # type: ignore[attr-defined]
    return made


def _push(values: Tensor, s: SimpleNamespace, t: int, steps: int, share: float, alpha: float) -> Tensor:
    """[B, P]: the weight of each part's gradient, the derivative of its penalty; updates the state of the constraints.

    Up to 1 - share of the parts, those that are farthest from the boundary, are given up, the more the later the step.
    """
    counted, wrong = torch.isfinite(values), values > 0
    if t == 0:
        ones = torch.ones_like(values, dtype=torch.float64)
        s.mu, s.rho, s.seen = ones, 0.01 * ones, torch.zeros_like(wrong)
    total = counted.sum(1)
    s.seen = s.seen | wrong
    enough = (wrong & counted).sum(1) >= share * total
    s.scale = (s.scale / torch.where(enough, 1 + WIDENS, 1 - WIDENS)).clamp(LEAST, 1)
    gap = s.scale[:, None] * (BEYOND - torch.where(counted, values, 0.0))
    kept, spare = counted, ((1 - share) * total * (t / (steps - 1))).long()
    if bool(spare.any()):
        top = gap.masked_fill(~counted, -torch.inf).topk(int(spare.max()), dim=1).values
        bound = top.gather(1, (spare[:, None] - 1).clamp_min(0))
        kept = counted & ((gap <= bound) | (spare[:, None] == 0))
    if t == 0:
        s.before = gap
    elif (t + 1) % CHECKS == 0:
        stuck = ~s.seen & (gap * kept > IMPROVES * s.before)
        s.rho, s.before, s.seen = torch.where(stuck, GROWS * s.rho, s.rho), gap, torch.zeros_like(wrong)
    exact = gap.double()
    if t:
        s.mu = s.mu.lerp(torch.where(kept, _slope(exact, s.rho, s.mu), 0.0), 1 - alpha).clamp_(1e-12, 1)
    return torch.where(kept, -_slope(exact, s.rho, s.mu), 0.0).to(values.dtype) * s.scale[:, None]


def _slope(gap: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative of the penalty: mu y + mu rho y^2 + rho^2 y^3 / 6 where y > 0, mu y / (1 - max(rho, 1) y) elsewhere."""
    above = mu + 2 * mu * rho * gap + rho**2 * gap**2 / 2
    return torch.where(gap >= 0, above, mu / (1 - rho.clamp_min(1) * gap.clamp_max(0)) ** 2)
