"""Questions to the gradient: is there one, is it a number, and does the loss go where it points?"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.attack import Single
from hardsight.attacks.search.compose import stay
from hardsight.losses.objective import loss_and_grad, still
from hardsight.measure.checks.base import Case, Check, Finding, judged, tensors
from hardsight.specs.catalog import register

SMALL = 1 / 255 / 32
"""A change of all pixels that any smooth model answers to, and no rounding to 8 bits survives."""


@register
def gradients(warn: float = 0.0, fail: float = 0.1) -> Check:
    """Gradients: neither zero nor NaN, at the clean images and at random points around them.

    An image that has fallen may be without one, since some losses let go of it; and at the clean image a loss that compares with
    it has none. warn, fail: the share of the other readings that may be without one.
    """

    def check(case: Case) -> Finding:
        attack = case.attack if isinstance(case.attack, Single) and case.attack.where == "output" else Single(stay())
        objective = attack.objective(case.system, case.x, case.y)
        zero, broken, count = 0, 0, 0
        with still(case.system.encoder, case.system.head):
            near = case.threat.inside(case.x, case.rng("gradients"))
            for x in (near,) if attack.aim.clean else (case.x, near):
                reading = loss_and_grad(objective, x)[0]
                assert reading.slope is not None
                fallen = case.error(x) >= 1
                broken += int((~torch.isfinite(reading.slope)).sum())
                zero += int(((reading.slope == 0) & ~fallen).sum())
                count += int((~fallen | (reading.slope != 0)).sum())
            moves = bool(zero) and bool(differences_of(case, directions=2)[0].any())
        if not count:
            return Finding("none", "every image has fallen before it is attacked, where a loss may let go of it")
        if broken:
            return Finding("fail", f"loss or gradient is not a number at {broken} of {count} readings")
        told = f"the gradient is zero at {zero} of {count} readings"
        if zero:
            told += (
                ", though the loss changes around them: something on the way lets no gradient through"
                if moves
                else ", and the loss does not change either: it is flat there (saturated, or rounded away)"
            )
        return judged(zero / count, warn, fail, told)

    return check


@register
def differences(warn: float = 0.3, fail: float = 0.6) -> Check:
    """Slope is true: what the gradient foretells agrees with finite differences, along smooth and rough directions.

    warn, fail: for the median image, |foretold - measured| over |foretold| + |measured|.
    """

    def check(case: Case) -> Finding:
        with still(case.system.encoder, case.system.head):
            measured, foretold = differences_of(case)
        size = (measured.abs() + foretold.abs()).sum(1)
        seen = size > 0
        if not bool(seen.any()):
            return Finding("none", "the loss does not change within 1/255, so there is no slope to compare")
        gap = float(((measured - foretold).abs().sum(1) / size.clamp_min(1e-30))[seen].median())
        told = f"finite differences and the gradient differ by {gap:.0%}"
        if gap > warn:
            told += ": part of the model gives no gradient, or a false one"
        return judged(gap, warn, fail, told)

    return check


@register
def plateaus() -> Check:
    """No plateaus: the output answers to changes far below one grey level; one that doesn't is rounded on the way."""

    def check(case: Case) -> Finding:
        direction = torch.randn(case.x.shape, generator=case.rng("plateaus")).sign().to(case.x.device)
        before, after = (
            torch.cat([part.flatten(1) for part in tensors(case.output(x)) if len(part) == len(x)], 1)
            for x in (case.x, (case.x + SMALL * direction).clamp(0, 1))
        )
        same = (before == after).all(1).float().mean()
        if float(same) == 0:
            return Finding("pass", "the outputs answer to changes of 1/32 of a grey level")
        return Finding(
            "fail" if float(same) > 0.1 else "warn",
            f"on {float(same):.0%} of the images the output does not change at all when each pixel moves by 1/32 of a grey level: "
            "the input or a layer is quantised, and gradients cannot see across its steps",
        )

    return check


def differences_of(case: Case, directions: int = 4) -> tuple[Tensor, Tensor]:
    """(measured, foretold), both [B, directions]: how the task's loss changes along directions, and what its gradient says.

    Half of the directions are smooth (signs of blocks of 8x8 pixels), half rough (of each value). Three lengths are tried, from
    a grey level down, and each image's best agreement counts: neither a kink nor float32's last digits shall decide.
    """
    x, objective = case.x, Single(stay()).objective(case.system, case.x, case.y)
    grad = loss_and_grad(objective, x)[1]
    rng = case.rng("differences")
    ways = [_signs(x, rng, blocks=8 if place % 2 == 0 else 1) for place in range(directions)]
    foretold = torch.stack([(grad * way).flatten(1).sum(1) for way in ways], 1)
    measured, gap = torch.zeros_like(foretold), torch.full((len(x),), torch.inf, device=x.device)
    for length in (1 / 255, 1 / 255 / 4, 1 / 255 / 16):
        with torch.no_grad():
            changes = [objective(x + length * way).loss - objective(x - length * way).loss for way in ways]
        here = torch.stack(changes, 1).float() / (2 * length)
        apart = (here - foretold).abs().sum(1) / (here.abs() + foretold.abs()).sum(1).clamp_min(1e-30)
        nearer = (apart < gap) & (here != 0).any(1)
        measured, gap = torch.where(nearer[:, None], here, measured), torch.where(nearer, apart, gap)
    return measured, foretold


def _signs(x: Tensor, rng: torch.Generator, blocks: int) -> Tensor:
    """Random signs like x, the same within each block of that many pixels a side."""
    height, width = x.shape[-2:]
    signs = torch.randn((*x.shape[:-2], -(-height // blocks), -(-width // blocks)), generator=rng).sign().to(x.device)
    return signs.repeat_interleave(blocks, -2).repeat_interleave(blocks, -1)[..., :height, :width]
