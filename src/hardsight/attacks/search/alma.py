"""ALMA: an augmented Lagrangian of the distance and of the one constraint that the image be misclassified."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.threats.base import Threat, per_image, unit
from hardsight.attacks.threats.l1 import L1
from hardsight.attacks.threats.l2 import L2
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register

KNOWN = only_in("alma", L2, L1)
FIRST = {L2: 0.1, L1: 0.5}
"""Distance of the first step."""
CHECKS, IMPROVES, GROWS = 10, 0.95, 1.2
"""Every so many steps, the penalty's parameter grows by a fifth where the constraint has not improved by a twentieth."""
BEYOND = 1e-4
"""How far beyond the boundary the constraint leads, in the unit of the loss."""


@register
def alma(
    steps: int = 1000, alpha: float = 0.9, first: float | None = None, decay: float = 0.01, early_exit: bool = False
) -> Search:
    """ALMA: the closest misclassified point in L2 or L1, by an augmented Lagrangian, counted if it is within eps.

    Needs a signed loss, dlr in the paper. alpha: decay of the multiplier's mean, and of the two means of RMSProp. first:
    distance of the first step (None: 0.1 in L2, 0.5 in L1). decay: the last step's length as a share of the first's; it
    falls from the step at which the image was first misclassified. early_exit: an image that is misclassified within eps
    leaves the batch.

    Source: Rony et al., ICCV 2021, algorithm 1, with penalty P2. Forward passes per image: steps + 1. differs: only L2 and
    L1 of its five distances; for Linf see alma_prox.
    """
    if steps < 2 or not 0 < alpha < 1 or not 0 < decay <= 1 or (first is not None and first <= 0):
        raise SpecError(
            f"alma: steps is {steps}, alpha {alpha:g}, first {first}, decay {decay:g}; "
            "steps must be at least 2, alpha between 0 and 1, first above 0, and decay above 0 and at most 1"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("alma", objective, x, threat, start, early_exit)
        each = torch.zeros_like(x.flatten(1)[:, 0])
        s = SimpleNamespace(
            square=torch.ones_like(x), velocity=torch.zeros_like(x), rate=each, mu=each + 1, rho=each + 1,
            before=each, found=each + steps + 1,
        )  # fmt: skip
        for t in range(steps):
            if near.leave(s):
                break
            grad = near.look(t / steps)
            gap, early = BEYOND - near.loss, near.ever & (s.found > steps)
            s.found = torch.where(early, t, s.found)
            if t == 0:
                s.before = gap
            elif (t + 1) % CHECKS == 0:
                stuck = ~near.ever & (gap >= IMPROVES * s.before)
                s.rho, s.before = torch.where(stuck, GROWS * s.rho, s.rho), gap
            if t:
                s.mu = s.mu.lerp(slope(gap, s.rho, s.mu), 1 - alpha).clamp(1e-6, 1e12)
            down = -per_image(slope(gap, s.rho, s.mu), x) * grad
            if t == 0:
                s.rate = reaching(near.x, down, threat, FIRST[type(threat)] if first is None else first)
            else:
                down = down + (unit(near.delta, 2) if type(threat) is L2 else near.delta.sign())
            s.square = alpha * s.square + (1 - alpha) * down**2
            s.velocity = alpha * s.velocity + down / (s.square.sqrt() + 1e-8)
            rate = s.rate * decay ** ((t - s.found).clamp_min(0) / (steps - s.found))
            near.x_adv = (near.x_adv - per_image(rate, x) * s.velocity).clamp_(0, 1)
        return near.result()

    return minimizer(search, steps + 1, KNOWN, early_exit)


def slope(gap: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative of the penalty P2 of a constraint gap <= 0, which is the multiplier's next value.

    P2 is mu y + mu rho y^2 + rho^2 y^3 / 6 where y > 0, and mu y / (1 - rho y) elsewhere.
    """
    above = mu + 2 * mu * rho * gap + rho**2 * gap**2 / 2
    return torch.where(gap >= 0, above, mu / (1 - rho * gap.clamp_max(0)) ** 2)


def reaching(x: Tensor, down: Tensor, threat: Threat, size: float) -> Tensor:
    """[B]: how far to go from x against `down` until the perturbation within the pixel range has that size; by halving."""

    def beyond(rate: Tensor) -> Tensor:
        return threat.size((x - per_image(rate, x) * down).clamp(0, 1) - x) > size

    low, high = torch.zeros_like(x.flatten(1)[:, 0]), torch.ones_like(x.flatten(1)[:, 0])
    for _ in range(40):  # 2 ** 40: a gradient of 1e-12 is none
        short = ~beyond(high)
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    for _ in range(20):
        middle = (low + high) / 2
        far = beyond(middle)
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return (low + high) / 2
