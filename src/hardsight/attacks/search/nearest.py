"""What searches for the nearest adversarial point share (FAB, FMN): how they rank points, and what they hand back.

They look as far as they must and never at eps; an attack within eps asks whether the nearest point found lies in its ball.
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
    """Raises `SpecError` where the loss doesn't tell the decision boundary by its sign."""
    if not objective.signed:
        raise SpecError(
            f"{search} walks to the decision boundary, where its loss must be 0, and {objective.name} is not; "
            f"say attack({search}, loss=margin), or gap_to with aim=rival(k)"
        )


def fallen(reading: Reading) -> Tensor:
    """Mask [B]: beyond the boundary (loss above 0), or broken by any other class (error 1)."""
    beyond = reading.loss > 0
    return beyond if reading.error is None else beyond | (reading.error >= 1)


def by_size(reading: Reading, size: Tensor) -> Reading:
    """The reading as `Best` is to rank it: fallen points before others, the smaller perturbation before the greater."""
    loss = torch.where(torch.isfinite(reading.loss), -size, torch.nan)
    return Reading(loss, fallen(reading).to(size.dtype), reading.slope)


def standing(best: Best, places: Tensor, enough: float) -> Tensor:
    """Mask of `places`: images still to be searched, neither halted nor fallen at a size of at most `enough`."""
    if best.error is None:
        return torch.ones_like(places, dtype=torch.bool)
    near = (best.error[places] >= 1) & (-best.loss[places] <= enough)
    return ~near & ~best.halted[places]


def within(best: Best, start: Tensor, objective: Objective, x: Tensor, threat: Threat) -> AttackResult:
    """The nearest fallen point where it lies within eps, else the start; read once more, so that loss and error are its own.

    x_best_loss is the nearest fallen point, however far; the start where none was found.
    """
    found = torch.zeros_like(best.halted) if best.error is None else best.error >= 1
    nearest = tree.where(found, best.x_adv, start)
    x_adv = tree.where(threat.size(nearest - x) <= threat.eps, nearest, start)
    with torch.no_grad():
        reading = objective(x_adv)
    halted = best.halted | ~torch.isfinite(reading.loss)
    return AttackResult(x_adv, reading.loss, reading.error, nearest, best.queries + 1, best.flat, halted)
