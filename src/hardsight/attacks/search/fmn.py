"""Fast Minimum-Norm: gradient ascent in a ball of its own for each image, that shrinks while the image is fallen and grows while not.

Every step costs one reading, so it is the cheapest search for a minimal perturbation, and the size it finds needs no eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.nearest import by_size, check_signed, fallen, standing, within
from hardsight.attacks.threats.base import Threat, per_image, unit
from hardsight.attacks.threats.l1 import L1
from hardsight.attacks.threats.l2 import L2
from hardsight.attacks.threats.linf import Linf
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register


@register
def fmn(steps: int = 100, step: float = 1.0, gamma: float = 0.05, beyond: float = 0.001, early_exit: bool = False) -> Search:
    """FMN: the nearest point beyond the decision boundary by plain gradient steps, counted where it lies within eps.

    It reads a signed loss, such as margin. step: the Euclidean length of the first step in any norm; the last is a hundredth of
    it. gamma: by which share a ball shrinks or grows at first; 0.001 at last. beyond: by which share the ball of an image that
    has not fallen yet reaches beyond the linearised boundary. early_exit: an image fallen within eps leaves the batch, which
    saves its passes and changes no verdict.

    The result's x_best_loss is the nearest fallen point, however far: a minimal perturbation unless early_exit is set.

    Source: Pintor et al., NeurIPS 2021, algorithm 1, without its initial points. Readings an image: steps + 1. differs: the paper
    has beyond=0, under which the points creep up to the boundary of a nearly linear model and never cross it.
    """
    if steps < 1 or step <= 0 or not 0 < gamma < 1 or beyond < 0:
        raise SpecError(
            f"fmn: steps is {steps}, step {step:g}, gamma {gamma:g}, beyond {beyond:g}; "
            "steps is at least 1, step above 0, gamma between 0 and 1, and beyond at least 0"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        check_signed(objective, "fmn")
        ball = _ball_of(threat)
        first = threat.project(start, x) if start is not None else x.detach().clone()
        best, everything = Best(x), (first, objective, x, threat)
        places, x_adv = torch.arange(len(x), device=x.device), first
        widest = threat.size(torch.maximum(x, 1 - x))
        radius = torch.full_like(widest, torch.inf)
        for t in range(steps):
            stands = standing(best, places, threat.eps if early_exit else 0.0)
            if not objective.coupled and not bool(stands.all()):
                places, objective, x, x_adv = places[stands], objective[stands], x[stands], x_adv[stands]
                widest, radius = widest[stands], radius[stands]
                if not len(places):
                    break
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            size, delta = threat.size(x_adv - x), x_adv - x
            best.see(x_adv, by_size(reading, size), places)
            fade = (1 + math.cos(math.pi * t / steps)) / 2
            length, share = step / 100 + (step - step / 100) * fade, 0.001 + (gamma - 0.001) * fade
            dual = threat.dual(grad).clamp_min(torch.finfo(grad.dtype).tiny)
            boundary = size + reading.loss.nan_to_num(0, 0, 0).abs() / dual  # where it is, if the loss is linear
            nearest, ever = -best.loss[places], best.error[places] >= 1  # type: ignore[index]
            outside = torch.where(ever, radius * (1 + share), boundary * (1 + beyond))
            radius = torch.where(fallen(reading), torch.minimum(radius * (1 - share), nearest), outside).minimum(widest)
            x_adv = (x + ball(delta + length * unit(grad, 2), radius)).clamp(0, 1)
            del grad, delta
        return within(best, *everything)

    search.signed, search.nearest = True, not early_exit
    return counted(search, steps + 1, check=_ball_of)


def _ball_of(threat: Threat) -> Callable[[Tensor, Tensor], Tensor]:
    """The projection of perturbations onto balls of radius [B], one an image; the pixel box is not part of it."""
    known = {Linf: _ball_linf, L2: _ball_l2, L1: _ball_l1}
    if type(threat) not in known:
        raise SpecError(f"fmn knows the balls of linf, l2 and l1, not of {threat.norm}; run it in one of those")
    return known[type(threat)]


def _ball_linf(delta: Tensor, radius: Tensor) -> Tensor:
    most = per_image(radius, delta)
    return delta.clamp(-most, most)


def _ball_l2(delta: Tensor, radius: Tensor) -> Tensor:
    length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    return delta * per_image((radius / length).clamp_max(1), delta)


def _ball_l1(delta: Tensor, radius: Tensor) -> Tensor:
    """Every value shrinks by the same, the greatest mean excess over the radius of the largest k values (Duchi et al., 2008)."""
    reach = delta.abs().flatten(1).sort(dim=1, descending=True).values
    count = torch.arange(1, reach.shape[1] + 1, device=delta.device)
    shrink = ((reach.cumsum(1) - radius[:, None]) / count).amax(1).clamp_min(0)
    return delta.sign() * (delta.abs() - per_image(shrink, delta)).clamp_min(0)
