"""What the searches for minimal perturbations (FAB, FMN) share: how they rank points, and what they return.

They search at any distance and do not use eps; an attack within eps asks whether the closest point found is in its ball.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best
from hardsight.attacks.threats.base import Threat
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading


def check_signed(objective: Objective, search: str) -> None:
    """Raises `SpecError` if the sign of the loss does not show on which side of the decision boundary a point is."""
    if not objective.signed:
        raise unsigned(search, objective.name)


def unsigned(search: str, loss: str) -> SpecError:
    """The error of a search for the decision boundary with a loss that is not 0 there."""
    return SpecError(
        f"{search} searches for the decision boundary, where its loss must be 0, and {loss} is not; "
        f"use attack({search}, loss=margin), or gap_to with aim=rival(k)"
    )


def misclassified(reading: Reading) -> Tensor:
    """Mask [B]: beyond the boundary (loss above 0), or misclassified as any other class (error 1)."""
    beyond = reading.loss > 0
    return beyond if reading.error is None else beyond | (reading.error >= 1)


def by_size(reading: Reading, size: Tensor) -> Reading:
    """The reading as `Best` should rank it: misclassified points before others, smaller perturbations before larger ones."""
    loss = torch.where(torch.isfinite(reading.loss), -size, torch.nan)
    return Reading(loss, misclassified(reading).to(size.dtype), reading.slope)


def unfinished(best: Best, places: Tensor, enough: float) -> Tensor:
    """Mask of `places`: images still to be searched, neither stopped (not finite) nor misclassified within size `enough`."""
    if best.error is None:
        return torch.ones_like(places, dtype=torch.bool)
    near = (best.error[places] >= 1) & (-best.loss[places] <= enough)
    return ~near & ~best.halted[places]


def within(best: Best, start: Tensor, objective: Objective, x: Tensor, threat: Threat) -> AttackResult:
    """The closest misclassified point if it is within eps, else the start; evaluated once more for its own loss and error.

    x_best_loss is the closest misclassified point, at any distance; the start if none was found.
    """
    found = torch.zeros_like(best.halted) if best.error is None else best.error >= 1
    closest = tree.where(found, best.x_adv, start)
    x_adv = tree.where(threat.size(closest - x) <= threat.eps, closest, start)
    with torch.no_grad():
        reading = objective(x_adv)
    halted = best.halted | ~torch.isfinite(reading.loss)
    return AttackResult(x_adv, reading.loss, reading.error, closest, best.queries + 1, best.flat, halted)
