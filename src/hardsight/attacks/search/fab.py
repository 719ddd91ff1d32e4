"""Fast Adaptive Boundary: steps onto the linearized decision boundary, with a pull towards the clean image in every step.

Both the iterate and the image itself are projected onto the hyperplane where the linearized loss is 0; the next point is
between the two, slightly beyond it. A misclassified point is pulled back towards the image, so that the points come closer
and closer.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.minimal import by_size, check_signed, misclassified, sizes, unfinished, within
from hardsight.attacks.threats.base import Threat, few_at_a_time, no_hyperplane, per_image
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register


@register
def fab(
    steps: int = 100,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    start: Literal["clean", "halfway"] = "clean",
    early_exit: bool = False,
) -> Search:
    """FAB: the closest point beyond the decision boundary, counted if it is within eps.

    Needs a signed loss: gap_to with aim=rival(k) is FAB-T for one class, a cascade of those is FAB-T. alpha_max: largest
    share of the image's own projection in a step. eta: how far beyond the hyperplane a step goes. beta: share of a
    misclassified point's perturbation that is kept. start: the image, or halfway to a random point at distance eps, for
    restarts. early_exit: an image that is misclassified within eps leaves the batch, which saves passes without changing
    which images are misclassified.

    The result's x_best_loss is the closest misclassified point, at any distance: a minimal perturbation unless early_exit is
    set.

    Source: Croce and Hein, ICML 2020, algorithm 1, as AutoAttack runs it (no final search). Forward passes per image: 2
    steps + 1. differs: a point that was pulled back and is still misclassified counts too, where theirs does not evaluate
    it; an image that is misclassified from the start is its own closest point and costs 3 passes; halfway is clipped to the
    pixel range before it is halved.
    """
    if steps < 1 or not 0 <= alpha_max <= 1 or eta < 1 or not 0 < beta <= 1:
        raise SpecError(
            f"fab: steps is {steps}, alpha_max {alpha_max:g}, eta {eta:g}, beta {beta:g}; "
            "steps and eta must be at least 1, alpha_max in [0, 1] and beta in (0, 1]"
        )
    where = start

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        check_signed(objective, "fab")
        first = threat.project(start, x) if start is not None else _first(where, x, threat, rng)
        best, everything = Best(x), (first, objective, x, threat)
        places, x_adv, step = torch.arange(len(x), device=x.device), first, partial(_step, (threat, alpha_max, eta))
        for t in range(steps):
            active = unfinished(best, places, threat.eps if early_exit else 0.0)
            if not objective.coupled and not bool(active.all()):
                places, objective, x, x_adv = places[active], objective[active], x[active], x_adv[active]
                if not len(places):
                    break
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            best.see(x_adv, by_size(reading, sizes(threat, x_adv, x)), places)
            x_adv = step(x_adv, x, grad, reading.loss)
            del grad  # otherwise it stays in memory during the next pass
            with torch.no_grad():
                reading = objective(x_adv, (t + 1) / steps)
            best.see(x_adv, by_size(reading, sizes(threat, x_adv, x)), places)
            back = misclassified(reading).nonzero().flatten()
            x_adv[back] = x[back] + beta * (x_adv[back] - x[back])
        return within(best, *everything)

    search.signed, search.minimal = True, not early_exit
    return counted(search, 2 * steps + 1, gradients=steps, check=_check_hyperplanes)


@few_at_a_time
def _step(settings: tuple[Threat, float, float], x_adv: Tensor, x: Tensor, grad: Tensor, loss: Tensor) -> Tensor:
    """The next points, before any is pulled back."""
    threat, alpha_max, eta = settings
    offset = (grad * x_adv).flatten(1).sum(1) - loss.nan_to_num(0, 0, 0)
    here, home = threat.to_hyperplane(x_adv, grad, offset), threat.to_hyperplane(x, grad, offset)
    near, far = threat.size(here).clamp_min(1e-8), threat.size(home).clamp_min(1e-8)
    alpha = per_image((near / (near + far)).clamp_max(alpha_max), x)
    home = (eta * home).add_(x).mul_(alpha)
    return (eta * here).add_(x_adv).mul_(1 - alpha).add_(home).clamp_(0, 1)


def _check_hyperplanes(threat: Threat) -> None:
    for one in (threat, getattr(threat, "threat", threat)):
        if not getattr(one, "hyperplanes", True):
            raise no_hyperplane(one.norm)


def _first(where: str, x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    if where == "clean":
        return x.detach().clone()
    return x + (threat.surface(x, rng) - x) / 2
