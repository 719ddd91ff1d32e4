"""The gradient of one loss with the value of another: the loss that drives an attack need not measure its progress.

A search with step control (APGD) shortens its steps and turns back by the value. Losses that ignore misclassified pixels, as
SEA's do, decrease when they succeed, and a weighted one changes with progress, so their value misleads the search.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import Loss, only_for
from hardsight.losses.classify import ce
from hardsight.losses.sea import sea_masked_ce
from hardsight.specs.catalog import register

MARKS = ("pair", "clean", "coupled")
"""The attributes of a loss that describe its target and its batch; they must be the same for both losses."""


@register
def tracked(loss: Loss = sea_masked_ce(), by: Loss = ce()) -> Loss:
    """The gradient of one loss and the value of another, `by`, whose own gradient is not used.

    Source: Croce, Singh and Hein, ECCV 2024, whose released code tracks all of SEA's losses by cross-entropy. Raises
    `SpecError` if the two cannot read the same target.
    """
    pair = (loss, by)
    names = [getattr(getattr(one, "spec", None), "name", "the loss") for one in pair]
    targets = [one.targets for one in pair if hasattr(one, "targets")]  # type: ignore[attr-defined]
    shared = [kind for kind in targets[0] if all(kind in other for other in targets)] if targets else []
    if targets and not shared:
        raise SpecError(f"tracked: {names[0]} and {names[1]} read no target in common")
    for mark in MARKS:
        if getattr(loss, mark, False) != getattr(by, mark, False):
            raise SpecError(
                f"tracked: {names[0]} and {names[1]} compare with different targets, so they have no aim in common"
            )

    def combined(output: Any, target: Any, progress: float = 1.0) -> Tensor:
        raised = loss(output, target, progress)
        return by(output, target, progress).detach() + (raised - raised.detach())

    for mark in MARKS:
        setattr(combined, mark, getattr(loss, mark, False))
    return only_for(combined, *shared) if targets else combined
