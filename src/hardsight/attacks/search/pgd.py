"""Projected gradient ascent. One loop is FGSM, PGD, MI- and NI-FGSM; with other losses it is SegPGD, CosPGD, DepthPGD, EmbedAttack."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, begin, counted
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register

RISE = 0.01
"""The least rise of a loss, as a share of itself, that patience takes for one."""


@register
def pgd(
    steps: int = 20,
    step: float = 0.25,
    start: Literal["inside", "clean", "surface"] = "inside",
    momentum: float = 0.0,
    keep: Literal["best", "last"] = "best",
    early_exit: bool = False,
    nesterov: bool = False,
    patience: int = 0,
) -> Search:
    """Projected gradient ascent in any threat.

    step: a step's length as a share of eps, so that 0.25 at 8/255 is paper 002's 2/255. momentum: of gradients divided by
    their mean absolute value (Dong et al., CVPR 2018); nesterov: the gradient is taken where the momentum alone would lead
    (NI-FGSM, Lin et al., ICLR 2020; differs: that point is projected, so that every reading is of an allowed image). keep: the
    point of greatest error, then loss, or the last one.
    early_exit: an image with error 1 leaves the batch, which saves its passes and changes no verdict. patience: an image whose
    greatest loss has not risen by a hundredth in so many steps leaves too, standing as it may be (0: none does); it is the
    greater part of the passes on a robust model, and may cost strength, so hold its figure against patience=0.

    Source: Madry et al., ICLR 2018. Readings an image: steps + 1 at most.
    """
    if steps < 0 or step <= 0:
        raise SpecError(f"pgd: steps is {steps} and step is {step:g}; steps is at least 0 and step above 0")
    if nesterov and not momentum:
        raise SpecError("pgd: nesterov=True looks ahead along the momentum, and momentum is 0; NI-FGSM is momentum=1")
    if patience < 0:
        raise SpecError(f"pgd: patience is {patience}; it is a number of steps, or 0 for a search that never gives up")
    if keep == "last" and (early_exit or patience):
        other = "early_exit=True" if early_exit else f"patience={patience}"
        raise SpecError(f"pgd: keep='last' and {other} exclude each other: what leaves the batch has no last point")
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
        top, since = torch.full((len(x),), -torch.inf, device=x.device), torch.zeros(len(x), device=x.device)  # patience's
        for t in range(steps):
            ahead = threat.project(x_adv + step * threat.eps * momentum * velocity, x) if nesterov else x_adv
            reading, grad = loss_and_grad(objective, ahead, t / steps)
            best.see(ahead, reading, places)
            leaves = torch.zeros_like(reading.loss, dtype=torch.bool)
            if early_exit and reading.error is not None and not objective.coupled:
                leaves |= reading.error >= 1
            if patience and not objective.coupled:
                rose = ~(reading.loss <= top + RISE * top.abs())
                top, since = torch.where(rose, reading.loss, top), torch.where(rose, t, since)
                leaves |= t - since >= patience
            if bool(leaves.any()):
                stays = (~leaves).nonzero().flatten()
                places = stays if places is None else places[stays]
                objective, x, x_adv = objective[stays], x[stays], x_adv[stays]
                velocity, grad, top, since = velocity[stays], grad[stays], top[stays], since[stays]
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
