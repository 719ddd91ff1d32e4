"""Projected gradient ascent. One loop is FGSM, PGD, MI- and NI-FGSM; with other losses it is SegPGD, CosPGD, DepthPGD, EmbedAttack."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.catalog import register
from hardsight.errors import SpecError
from hardsight.objective import AttackResult, Objective, loss_and_grad
from hardsight.search.base import Best, Search, begin, counted
from hardsight.threats.base import Threat, per_image


@register
def pgd(
    steps: int = 20,
    step: float = 0.25,
    start: Literal["inside", "clean", "surface"] = "inside",
    momentum: float = 0.0,
    keep: Literal["best", "last"] = "best",
    early_exit: bool = False,
    nesterov: bool = False,
) -> Search:
    """Projected gradient ascent in any threat.

    step: a step's length as a share of eps, so that 0.25 at 8/255 is paper 002's 2/255. momentum: of gradients divided by
    their mean absolute value (Dong et al., CVPR 2018); nesterov: the gradient is taken where the momentum alone would lead
    (NI-FGSM, Lin et al., ICLR 2020; differs: that point is projected, so that every reading is of an allowed image). keep: the
    point of greatest error, then loss, or the last one.
    early_exit: an image with error 1 leaves the batch, which saves its passes and changes no verdict.

    Source: Madry et al., ICLR 2018. Readings an image: steps + 1.
    """
    if steps < 0 or step <= 0:
        raise SpecError(f"pgd: steps is {steps} and step is {step:g}; steps is at least 0 and step above 0")
    if nesterov and not momentum:
        raise SpecError("pgd: nesterov=True looks ahead along the momentum, and momentum is 0; NI-FGSM is momentum=1")
    if keep == "last" and early_exit:
        raise SpecError("pgd: keep='last' and early_exit=True exclude each other: what leaves the batch has no last point")
    where = start

    def search(
        objective: Objective,
        x: Tensor,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult:
        x_adv = begin(where if start is None else start, x, threat, rng)
        best = Best(x_adv)
        places = None
        velocity = torch.zeros_like(x) if momentum else x[:, :0]
        for t in range(steps):
            ahead = threat.project(x_adv + step * threat.eps * momentum * velocity, x) if nesterov else x_adv
            reading, grad = loss_and_grad(objective, ahead, t / steps)
            best.see(ahead, reading, places)
            if early_exit and reading.error is not None and bool((reading.error >= 1).any()):
                stands = (reading.error < 1).nonzero().flatten()
                places = stands if places is None else places[stands]
                objective, x, x_adv, velocity, grad = (
                    objective[stands],
                    x[stands],
                    x_adv[stands],
                    velocity[stands],
                    grad[stands],
                )
                if not len(places):
                    return best.result()
            if momentum:
                grad = velocity = momentum * velocity + grad / per_image(
                    grad.abs().flatten(1).mean(1).clamp_min(1e-30), grad
                )
            ahead = (step * threat.eps * threat.steepest(grad, x_adv)).add_(x_adv)
            del grad  # or it is held through the next pass, whose peak it would raise
            x_adv = threat.project(ahead, x)
        with torch.no_grad():
            reading = objective(x_adv)
        best.see(x_adv, reading, places)
        if keep == "last":
            return best.result()._replace(x_adv=x_adv, loss=reading.loss, error=reading.error)
        return best.result()

    return counted(search, steps + 1)
