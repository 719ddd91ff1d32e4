"""Checks of the gradient: is it nonzero, is it finite, and does it predict the change of the loss?"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.attack import Single
from hardsight.attacks.search.compose import stay
from hardsight.losses.objective import loss_and_grad, still
from hardsight.measure.checks.base import Case, Check, Finding, by_threshold, tensors
from hardsight.specs.catalog import register

SMALL = 1 / 255 / 32
"""A change of all pixels that changes the output of any smooth model, but is lost by rounding to 8 bits."""


@register
def gradients(warn: float = 0.0, fail: float = 0.1) -> Check:
    """Gradients: neither zero nor NaN, at the clean images and at random points around them.

    Zero gradients are not counted at misclassified images, where some losses are constant; nor at the clean images for a
    loss that compares with them. warn, fail: the largest share of zero gradients among the others.
    """

    def check(case: Case) -> Finding:
        attack = case.really.attack
        attack = attack if isinstance(attack, Single) and attack.where == "output" else Single(stay())
        objective = attack.objective(case.really.under, case.x, case.y)
        zero, broken, count = 0, 0, 0
        with still(case.system.encoder, case.system.head):
            near = case.threat.inside(case.x, case.rng("gradients"))
            for x in (near,) if attack.aim.clean else (case.x, near):
                reading = loss_and_grad(objective, x)[0]
                assert reading.slope is not None
                wrong = case.error(x) >= 1
                broken += int((~torch.isfinite(reading.slope)).sum())
                zero += int(((reading.slope == 0) & ~wrong).sum())
                count += int((~wrong | (reading.slope != 0)).sum())
            changes = bool(zero) and bool(differences_of(case, directions=2)[0].any())
        if not count:
            return Finding("none", "every image is misclassified before the attack, where the loss may have zero gradient")
        if broken:
            return Finding("fail", f"loss or gradient is not finite in {broken} of {count} forward passes")
        reason = f"the gradient is zero in {zero} of {count} forward passes"
        if zero:
            reason += (
                ", although the loss changes around these points: some operation blocks the gradient"
                if changes
                else ", and the loss does not change either: it is constant there (saturated, or rounded)"
            )
        return by_threshold(zero / count, warn, fail, reason)

    return check


@register
def differences(warn: float = 0.3, fail: float = 0.6) -> Check:
    """Slope is true: the gradient agrees with finite differences along smooth and rough directions.

    warn, fail: thresholds on |predicted - measured| / (|predicted| + |measured|) of the median image.
    """

    def check(case: Case) -> Finding:
        with still(case.system.encoder, case.system.head):
            measured, predicted = differences_of(case)
        size = (measured.abs() + predicted.abs()).sum(1)
        nonzero = size > 0
        if not bool(nonzero.any()):
            return Finding("none", "the loss does not change within 1/255, so there is no slope to compare")
        gap = float(((measured - predicted).abs().sum(1) / size.clamp_min(1e-30))[nonzero].median())
        reason = f"finite differences and the gradient differ by {gap:.0%}"
        if gap > warn:
            reason += ": part of the model gives no gradient, or a wrong one"
        return by_threshold(gap, warn, fail, reason)

    return check


@register
def plateaus() -> Check:
    """No plateaus: the output changes with pixel changes far below one grey level; otherwise something is quantised."""

    def check(case: Case) -> Finding:
        direction = torch.randn(case.x.shape, generator=case.rng("plateaus")).sign().to(case.x.device)
        before, after = (
            torch.cat([part.flatten(1) for part in tensors(case.output(x)) if len(part) == len(x)], 1)
            for x in (case.x, (case.x + SMALL * direction).clamp(0, 1))
        )
        same = (before == after).all(1).float().mean()
        if float(same) == 0:
            return Finding("pass", "the outputs change with pixel changes of 1/32 of a grey level")
        return Finding(
            "fail" if float(same) > 0.1 else "warn",
            f"on {float(same):.0%} of the images the output does not change if each pixel changes by 1/32 of a grey level: "
            "the input or a layer is quantised, and gradients do not show its steps",
        )

    return check


def differences_of(case: Case, directions: int = 4) -> tuple[Tensor, Tensor]:
    """(measured, predicted), both [B, directions]: slopes of the task loss by finite differences and by its gradient.

    Half of the directions are smooth (signs of blocks of 8x8 pixels), half rough (of each value). Three step lengths are
    tried, from one grey level down, and each image's best agreement counts, so that neither a kink nor rounding in float32
    decides.
    """
    x, objective = case.x, Single(stay()).objective(case.really.under, case.x, case.y)
    grad = loss_and_grad(objective, x)[1]
    rng = case.rng("differences")
    ways = [_signs(x, rng, blocks=8 if place % 2 == 0 else 1) for place in range(directions)]
    predicted = torch.stack([(grad * way).flatten(1).sum(1) for way in ways], 1)
    measured, gap = torch.zeros_like(predicted), torch.full((len(x),), torch.inf, device=x.device)
    for length in (1 / 255, 1 / 255 / 4, 1 / 255 / 16):
        with torch.no_grad():
            changes = [objective(x + length * way).loss - objective(x - length * way).loss for way in ways]
        here = torch.stack(changes, 1).float() / (2 * length)
        apart = (here - predicted).abs().sum(1) / (here.abs() + predicted.abs()).sum(1).clamp_min(1e-30)
        nearer = (apart < gap) & (here != 0).any(1)
        measured, gap = torch.where(nearer[:, None], here, measured), torch.where(nearer, apart, gap)
    return measured, predicted


def _signs(x: Tensor, rng: torch.Generator, blocks: int) -> Tensor:
    """Random signs of the shape of x, constant within blocks of blocks x blocks pixels."""
    height, width = x.shape[-2:]
    signs = torch.randn((*x.shape[:-2], -(-height // blocks), -(-width // blocks)), generator=rng).sign().to(x.device)
    return signs.repeat_interleave(blocks, -2).repeat_interleave(blocks, -1)[..., :height, :width]
