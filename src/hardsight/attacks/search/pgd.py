"""Projected gradient ascent: one loop is FGSM, PGD, MI- and NI-FGSM; by the loss SegPGD, CosPGD, DepthPGD, EmbedAttack."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, begin, counted
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register

ASKS = 5
"""On a GPU the host waits to learn which images have left the batch: it asks after so many steps, and those count no longer."""
RISE = 0.01
"""Smallest relative increase of a loss that `patience` counts as progress."""


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

    step: step size as a share of eps, so that 0.25 at 8/255 is paper 002's 2/255. momentum: of gradients divided by their
    mean absolute value (Dong et al., CVPR 2018); nesterov: the gradient is taken at the point that the momentum alone would
    reach (NI-FGSM, Lin et al., ICLR 2020; differs: that point is projected, so that only allowed images are evaluated).
    keep: the point of highest error, then loss, or the last one. early_exit: an image with error 1 leaves the batch, which
    saves passes without changing which images are misclassified. patience: an image whose highest loss has not risen by 1%
    in so many steps leaves too, misclassified or not (0: off); this saves most of the passes on a robust model but may
    weaken the attack, so compare its result with patience=0.

    Source: Madry et al., ICLR 2018. Forward passes per image: at most steps + 1.
    """
    if steps < 0 or step <= 0:
        raise SpecError(f"pgd: steps is {steps} and step is {step:g}; steps must be at least 0 and step above 0")
    if nesterov and not momentum:
        raise SpecError("pgd: nesterov=True looks ahead along the momentum, but momentum is 0; NI-FGSM has momentum=1")
    if patience < 0:
        raise SpecError(f"pgd: patience is {patience}; it must be a number of steps, or 0 to switch it off")
    if keep == "last" and (early_exit or patience):
        other = "early_exit=True" if early_exit else f"patience={patience}"
        raise SpecError(f"pgd: keep='last' and {other} exclude each other: an image that leaves the batch has no last point")
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
        places = among = None
        exits, every = not objective.coupled and bool(early_exit or patience), 1 if x.device.type == "cpu" else ASKS
        velocity = torch.zeros_like(x) if momentum else x[:, :0]
        top, since = torch.full((len(x),), -torch.inf, device=x.device), torch.zeros(len(x), device=x.device)  # for patience
        for t in range(steps):
            ahead = threat.project(x_adv + step * threat.eps * momentum * velocity, x) if nesterov else x_adv
            reading, grad = loss_and_grad(objective, ahead, t / steps)
            best.see(ahead, reading, places, among=among)
            if exits:
                leaves = torch.zeros_like(reading.loss, dtype=torch.bool)
                if early_exit and reading.error is not None:
                    leaves |= reading.error >= 1
                if patience:
                    rose = ~(reading.loss <= top + RISE * top.abs())
                    top, since = torch.where(rose, reading.loss, top), torch.where(rose, t, since)
                    leaves |= t - since >= patience
                among = ~leaves if among is None else among & ~leaves
                if (t + 1) % every == 0:
                    stays, among = among.nonzero().flatten(), None
                    if len(stays) < len(x):
                        places = stays if places is None else places[stays]
                        objective, x, x_adv = objective[stays], x[stays], x_adv[stays]
                        velocity, grad, top, since = velocity[stays], grad[stays], top[stays], since[stays]
                    if not len(stays):
                        return best.result()
            if momentum:
                grad = velocity = momentum * velocity + grad / per_image(
                    grad.abs().flatten(1).mean(1).clamp_min(1e-30), grad
                )
            ahead = (step * threat.eps * threat.steepest(grad, x_adv)).add_(x_adv)
            del grad  # otherwise it stays in memory and raises the peak of the next pass
            x_adv = threat.project(ahead, x)
        with torch.no_grad():
            reading = objective(x_adv)
        best.see(x_adv, reading, places, among=among)
        if keep == "last":
            return best.result()._replace(x_adv=x_adv, loss=reading.loss, error=reading.error)
        return best.result()

    return counted(search, steps + 1)
