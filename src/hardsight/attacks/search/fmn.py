"""Fast Minimum-Norm: gradient ascent in a ball per image that shrinks while the image is misclassified and grows otherwise.

Every step costs one forward pass, so it is the cheapest search for a minimal perturbation, and the size it finds needs no
eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.minimal import by_size, check_signed, misclassified, sizes, unfinished, within
from hardsight.attacks.threats.base import Threat, few_at_a_time, per_image, unit
from hardsight.attacks.threats.l1 import L1
from hardsight.attacks.threats.l2 import L2
from hardsight.attacks.threats.linf import Linf
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register


@register
def fmn(steps: int = 100, step: float = 1.0, gamma: float = 0.05, beyond: float = 0.001, early_exit: bool = False) -> Search:
    """FMN: the closest point beyond the decision boundary by plain gradient steps, counted if it is within eps.

    Needs a signed loss, such as margin. step: Euclidean length of the first step, in any norm; the last is a hundredth of
    it. gamma: share by which a ball shrinks or grows at first; 0.001 at last. beyond: share by which the ball of an image
    that was not yet misclassified extends beyond the linearized boundary. early_exit: an image that is misclassified within
    eps leaves the batch, which saves passes without changing which images are misclassified.

    The result's x_best_loss is the closest misclassified point, at any distance: a minimal perturbation unless early_exit is
    set.

    Source: Pintor et al., NeurIPS 2021, algorithm 1, without its initial points. Forward passes per image: steps + 1.
    differs: the paper has beyond=0, with which the points approach the boundary of a nearly linear model and never cross it.
    Above 0, a value at the edge of the pixel range has no gradient out of it either: in L2 and L1 such values would take a
    part of every step, so that images with black or white pixels stop short of the boundary.
    """
    if steps < 1 or step <= 0 or not 0 < gamma < 1 or beyond < 0:
        raise SpecError(
            f"fmn: steps is {steps}, step {step:g}, gamma {gamma:g}, beyond {beyond:g}; "
            "steps must be at least 1, step above 0, gamma between 0 and 1, and beyond at least 0"
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
            active = unfinished(best, places, threat.eps if early_exit else 0.0)
            if not objective.coupled and not bool(active.all()):
                places, objective, x, x_adv = places[active], objective[active], x[active], x_adv[active]
                widest, radius = widest[active], radius[active]
                if not len(places):
                    break
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            if beyond:
                grad = grad.masked_fill_(torch.where(grad < 0, x_adv <= 0, x_adv >= 1), 0)
            size = sizes(threat, x_adv, x)
            best.see(x_adv, by_size(reading, size), places)
            fade = (1 + math.cos(math.pi * t / steps)) / 2
            length, share = step / 100 + (step - step / 100) * fade, 0.001 + (gamma - 0.001) * fade
            dual = _duals(threat, grad).clamp_min(torch.finfo(grad.dtype).tiny)
            boundary = size + reading.loss.nan_to_num(0, 0, 0).abs() / dual  # its distance, if the loss is linear
            closest, ever = -best.loss[places], best.error[places] >= 1  # type: ignore[index]
            outside = torch.where(ever, radius * (1 + share), boundary * (1 + beyond))
            radius = torch.where(misclassified(reading), torch.minimum(radius * (1 - share), closest), outside).minimum(
                widest
            )
            x_adv = _step((ball, length), x_adv, x, grad, radius)
            del grad  # otherwise it stays in memory during the next pass
        return within(best, *everything)

    search.signed, search.minimal = True, not early_exit
    return counted(search, steps + 1, check=_ball_of)


@few_at_a_time
def _step(
    settings: tuple[Callable[[Tensor, Tensor], Tensor], float], x_adv: Tensor, x: Tensor, grad: Tensor, radius: Tensor
) -> Tensor:
    """The next points: a step of that length along the gradient, then into the ball."""
    ball, length = settings
    return (x + ball(x_adv - x + length * unit(grad, 2), radius)).clamp(0, 1)


@few_at_a_time
def _duals(threat: Threat, grad: Tensor) -> Tensor:
    return threat.dual(grad)


def _ball_of(threat: Threat) -> Callable[[Tensor, Tensor], Tensor]:
    """The projection of perturbations onto balls of radius [B], one per image; the pixel range is not part of it."""
    known = {Linf: _ball_linf, L2: _ball_l2, L1: _ball_l1}
    if type(threat) not in known:
        raise SpecError(f"fmn knows linf, l2 and l1, not {threat.norm}; use one of those")
    return known[type(threat)]


def _ball_linf(delta: Tensor, radius: Tensor) -> Tensor:
    most = per_image(radius, delta)
    return delta.clamp(-most, most)


def _ball_l2(delta: Tensor, radius: Tensor) -> Tensor:
    length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    return delta * per_image((radius / length).clamp_max(1), delta)


def _ball_l1(delta: Tensor, radius: Tensor) -> Tensor:
    """Every value shrinks by the same: the largest mean excess over the radius of any top k values (Duchi et al., 2008)."""
    reach = delta.abs().flatten(1).sort(dim=1, descending=True).values
    count = torch.arange(1, reach.shape[1] + 1, device=delta.device)
    shrink = ((reach.cumsum(1) - radius[:, None]) / count).amax(1).clamp_min(0)
    return delta.sign() * (delta.abs() - per_image(shrink, delta)).clamp_min(0)
