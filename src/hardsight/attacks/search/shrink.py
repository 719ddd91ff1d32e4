"""Searches in balls that shrink to the threat's own: ascent is easier in a larger ball and finds a good point to start from.

The stages can be any searches; each starts from the result of the one before it, projected into the smaller ball. Only the
last stage's points are allowed, so only those count.
"""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.attacks.search.apgd import apgd
from hardsight.attacks.search.base import Search, counted
from hardsight.attacks.threats.base import Threat, scaled
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective
from hardsight.specs.catalog import register


def split(steps: int, shares: tuple[float, ...] = (0.3, 0.3, 0.4)) -> tuple[int, ...]:
    """`steps` in whole parts of these shares, rounded up; the last part is the remainder: 100 -> (30, 30, 40)."""
    parts = [math.ceil(round(share * steps, 6)) for share in shares[:-1]]
    if sum(parts) >= steps:
        raise SpecError(f"{steps} steps are too few for {len(shares)} stages")
    return (*parts, steps - sum(parts))


@register
def shrinking(
    stages: tuple[Search, ...] = (apgd(90), apgd(90), apgd(120)),
    radii: tuple[float, ...] = (2.0, 1.5, 1.0),
    hand: Literal["error", "loss"] = "error",
) -> Search:
    """Searches one after another in balls of radius 2 eps, 1.5 eps and eps, each from the result of the one before it.

    radii: one per stage, in eps, decreasing to 1. hand: the point that is passed on: that of highest error and then loss, or
    of highest loss alone. The first start is drawn at the largest radius: a stage's own `start` is not used.

    Source: Croce, Singh and Hein, ECCV 2024 (SEA, 300 steps; among points with the same error, theirs passes on the last).
    With radii (3, 2, 1) and hand="loss" it is how AutoAttack runs APGD in L1 (Croce and Hein, ICML 2021).
    """
    if not stages or len(stages) != len(radii):
        raise SpecError(
            f"shrinking: {len(stages)} stages and {len(radii)} radii; it needs at least one stage, and one radius per stage"
        )
    if list(radii) != sorted(radii, reverse=True) or radii[-1] != 1:
        raise SpecError(
            f"shrinking: the radii are {list(radii)}; they must decrease to 1, the threat's own eps, such as [2, 1.5, 1]"
        )

    def search(
        objective: Objective,
        x: Tensor,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult:
        balls = [_scaled(threat, radius) for radius in radii]
        begin = balls[0].surface(x, rng) if start is None else start
        found: list[AttackResult] = []
        for stage, ball in zip(stages, balls, strict=True):
            found.append(stage(objective, x, ball, rng, begin))
            begin = found[-1].x_adv if hand == "error" else found[-1].x_best_loss
        return found[-1]._replace(
            queries=torch.stack([one.queries for one in found]).sum(0),
            flat=torch.stack([one.flat for one in found]).sum(0),
            halted=torch.stack([one.halted for one in found]).any(0),
        )

    gradients = sum(stage.gradients for stage in stages)
    return counted(search, sum(stage.passes for stage in stages), *stages, gradients=gradients)


def _scaled(threat: Any, radius: float) -> Any:
    """The same threat with `radius` times its eps."""
    if not is_dataclass(threat):
        name = getattr(getattr(threat, "spec", None), "name", type(threat).__name__)
        raise SpecError(f"shrinking needs a threat with a radius to change, but {name} has none")
    return threat if radius == 1 else scaled(threat, radius)
