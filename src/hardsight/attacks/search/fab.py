"""Fast Adaptive Boundary: steps onto the linearised decision boundary, drawn back to the clean image all the while.

Both the iterate and the image itself are projected onto the plane where the linearised loss is 0; the next point lies between
the two, a little beyond. What falls there is pulled back towards the image, so that the points come nearer and nearer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.nearest import by_size, check_signed, fallen, standing, within
from hardsight.attacks.threats.base import Threat, per_image, planeless
from hardsight.core import tree
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
    """FAB: the nearest point beyond the decision boundary, counted where it lies within eps.

    It reads a signed loss: gap_to with aim=rival(k) is FAB-T against one class, a cascade of those is FAB-T. alpha_max: the
    greatest share of the image's own projection in a step. eta: how far beyond the plane a step goes. beta: how much of a
    fallen point's perturbation is kept. start: the image, or halfway to a random point at distance eps, for restarts.
    early_exit: an image fallen within eps leaves the batch, which saves its passes and changes no verdict.

    The result's x_best_loss is the nearest fallen point, however far: a minimal perturbation unless early_exit is set.

    Source: Croce and Hein, ICML 2020, algorithm 1, as AutoAttack runs it (no final search). Readings an image: 2 steps + 1.
    differs: a point that was pulled back and has still fallen counts too, and theirs doesn't look; an image wrong from the start
    is its own nearest point and costs 3 readings; halfway is cut off at the pixel box before it is halved.
    """
    if steps < 1 or not 0 <= alpha_max <= 1 or eta < 1 or not 0 < beta <= 1:
        raise SpecError(
            f"fab: steps is {steps}, alpha_max {alpha_max:g}, eta {eta:g}, beta {beta:g}; "
            "steps and eta are at least 1, alpha_max lies in [0, 1] and beta in (0, 1]"
        )
    where = start

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        check_signed(objective, "fab")
        first = threat.project(start, x) if start is not None else _first(where, x, threat, rng)
        best, everything = Best(x), (first, objective, x, threat)
        places, x_adv = torch.arange(len(x), device=x.device), first
        for t in range(steps):
            stands = standing(best, places, threat.eps if early_exit else 0.0)
            if not objective.coupled and not bool(stands.all()):
                places, objective, x, x_adv = places[stands], objective[stands], x[stands], x_adv[stands]
                if not len(places):
                    break
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            best.see(x_adv, by_size(reading, threat.size(x_adv - x)), places)
            plane = (grad * x_adv).flatten(1).sum(1) - reading.loss.nan_to_num(0, 0, 0)
            here, home = threat.to_plane(x_adv, grad, plane), threat.to_plane(x, grad, plane)
            del grad
            near, far = threat.size(here).clamp_min(1e-8), threat.size(home).clamp_min(1e-8)
            alpha = per_image((near / (near + far)).clamp_max(alpha_max), x)
            home = (eta * home).add_(x).mul_(alpha)
            x_adv = (eta * here).add_(x_adv).mul_(1 - alpha).add_(home).clamp_(0, 1)
            del here, home  # or they are held through the next pass
            with torch.no_grad():
                reading = objective(x_adv, (t + 1) / steps)
            best.see(x_adv, by_size(reading, threat.size(x_adv - x)), places)
            x_adv = tree.where(fallen(reading), x + beta * (x_adv - x), x_adv)
        return within(best, *everything)

    search.signed, search.nearest = True, not early_exit
    return counted(search, 2 * steps + 1, gradients=steps, check=_has_planes)


def _has_planes(threat: Threat) -> None:
    for one in (threat, getattr(threat, "threat", threat)):
        if not getattr(one, "planes", True):
            raise planeless(one.norm)


def _first(where: str, x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    if where == "clean":
        return x.detach().clone()
    return x + (threat.surface(x, rng) - x) / 2
