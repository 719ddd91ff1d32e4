"""Checks of the attack: has it no effect at eps 0, is it stronger at larger eps, and is no simpler attack stronger?"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Single
from hardsight.attacks.threats.base import scaled
from hardsight.core.errors import ShapeError, SpecError
from hardsight.measure.checks.base import Case, Check, Finding
from hardsight.specs.catalog import build, complete, register
from hardsight.specs.syntax import Call, override


@register
def at_zero() -> Check:
    """Eps 0 is clean: the attack at radius 0 changes no error."""

    def check(case: Case) -> Finding:
        few = case.part(4 if case.whole else 2)
        gap = float((few.run(radius=0.0).error - few.clean).abs().max())
        if gap <= 1e-5:
            return Finding("pass", "the attack at eps 0 changes no error")
        return Finding(
            "fail", f"the attack at eps 0 changes an error by {gap:.3f}: clean and attacked images are evaluated differently"
        )

    return check


@register
def rises() -> Check:
    """Rises with eps: the error at eps/4 is no larger than at eps; with an unbounded radius every image is misclassified."""

    def check(case: Case) -> Finding:
        weak, full = float(case.run(radius=0.25).error.mean()), float(case.found.error.mean())
        reason = f"mean error {weak:.2f} at eps/4, {full:.2f} at eps"
        if weak > full + case.slack:
            return Finding("fail", f"{reason}: a smaller radius gave a larger error, so the attack at eps has not converged")
        radius = _without_bounds(case)
        if radius is None:
            return Finding("pass", reason)
        most = float(case.run(radius=radius).error.mean())
        reason += f", {most:.2f} without bounds"
        if case.whole and most < 1 - 1e-6:
            return Finding(
                "fail", f"{reason}: with any image allowed, every one must be misclassified; the search finds no direction"
            )
        return Finding("pass" if most >= full - case.slack else "warn", reason)

    return check


@register
def more_steps(times: float = 2.0) -> Check:
    """More steps: `times` as many steps never reduce the error, and find few images that the attack has missed."""

    def check(case: Case) -> Finding:
        longer = _with_steps(case.attack, times)
        if longer is None:
            return Finding("none", "this attack has no number of steps to increase")
        own, more = float(case.found.error.mean()), float(case.run(longer).error.mean())
        reason = f"mean error {own:.2f}, with {times:g} times the steps {more:.2f}"
        if more < own - case.slack:
            return Finding("fail", f"{reason}: more steps reduced the error, so the attack does not keep its best point")
        if more > own + max(case.slack, 0.05):
            return Finding("warn", f"{reason}: the attack has not converged; increase its steps")
        return Finding("pass", reason)

    return check


@register
def black_box(queries: int = 100) -> Check:
    """No black box wins: Square, which uses no gradient, misclassifies no image on which the white-box attack fails."""

    def check(case: Case) -> Finding:
        loss = complete(case.system.task.scale_free, "Loss")
        try:
            attack = build(Call("attack", (("search", Call("square", (("queries", queries),))), ("loss", loss))), "Attack")
            found = case.run(attack)
        except (SpecError, ShapeError) as error:
            return Finding("none", f"the black-box attack can't be run here: {error}")
        return _compared(case, found.error, f"Square with {queries} queries")

    return check


@register
def transferred() -> Check:
    """No transfer wins: adversarial examples from other encoders are no stronger than those found on this one."""

    def check(case: Case) -> Finding:
        if not case.others:
            return Finding("none", "no other encoder has been attacked on this task before")
        findings = [
            _compared(case, case.error(case.threat.project(points, case.x)), f"transferred from {name}")
            for name, points in case.others.items()
        ]
        order = ("fail", "warn", "pass")
        return min(findings, key=lambda finding: order.index(finding.verdict))

    return check


@register
def other_loss() -> Check:
    """No loss wins: a loss that is invariant to the scale of the outputs is no stronger than the attack's own loss."""

    def check(case: Case) -> Finding:
        loss = complete(case.system.task.scale_free, "Loss")
        pgd = Call("pgd", (("steps", 20), ("early_exit", case.whole)))
        attack = build(Call("attack", (("search", pgd), ("loss", loss))), "Attack")
        found = case.run(attack)
        return _compared(case, found.error, f"the loss {loss.name}", "the outputs are saturated; use dlr or margin")

    return check


def _without_bounds(case: Case) -> float | None:
    """The multiple of eps at which the threat allows every image; None if there is none (a flicker, a masked threat)."""
    other = torch.rand(case.x.shape, generator=case.rng("bounds")).to(case.x.device)
    size = float(case.threat.size(torch.ones_like(case.x)).max())
    if not case.threat.eps or not 0 < size < float("inf"):
        return None
    radius = size / case.threat.eps
    near = scaled(case.threat, radius).project(other, case.x)
    return radius if radius > 1 and float((near - other).abs().max()) < 1e-3 else None


def _compared(case: Case, error: Tensor, what: str, cause: str = "the gradients it follows are masked") -> Finding:
    """Compares the attack with another: the image-wise maximum of both errors should not be larger than its own error."""
    own, other = case.found.error, float(error.mean())
    mean, both = float(own.mean()), float(torch.maximum(own, error).mean())
    reason = f"mean error {mean:.2f}, {what} {other:.2f}, both together {both:.2f}"
    if both > mean + max(2 * case.slack, 0.1):
        return Finding("fail", f"{reason}: {cause}")
    if both > mean + case.slack:
        return Finding("warn", f"{reason}: the attack has missed some images")
    return Finding("pass", reason)


def _with_steps(attack: Attack, times: float) -> Attack | None:
    spec = getattr(attack, "spec", None)
    if not isinstance(attack, Single) or spec is None:
        return None
    for path in ("steps", "search.steps"):
        part: object = spec
        for name in path.split("."):
            part = part.get(name) if isinstance(part, Call) else None
        if isinstance(part, int):
            return build(override(spec, path, round(part * times)), "Attack")
    return None
