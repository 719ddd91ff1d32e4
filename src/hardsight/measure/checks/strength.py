"""Questions to the attack: does it do nothing at eps 0, more at greater eps, and is nothing simpler stronger?"""

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
    """Eps 0 is clean: the attack at radius 0 leaves every error as it was."""

    def check(case: Case) -> Finding:
        few = case.part(4 if case.whole else 2)
        gap = float((few.run(radius=0.0).error - few.clean).abs().max())
        if gap <= 1e-5:
            return Finding("pass", "the attack at eps 0 changes no error")
        return Finding(
            "fail", f"the attack at eps 0 moves an error by {gap:.3f}: clean and attacked images are not measured alike"
        )

    return check


@register
def rises() -> Check:
    """Rises with eps: a quarter of eps does no more harm than eps, and a radius without bounds leaves nothing standing."""

    def check(case: Case) -> Finding:
        weak, full = float(case.run(radius=0.25).error.mean()), float(case.found.error.mean())
        told = f"mean error {weak:.2f} at eps/4, {full:.2f} at eps"
        if weak > full + case.slack:
            return Finding("fail", f"{told}: less radius did more harm, so the attack at eps is not at its end")
        radius = _without_bounds(case)
        if radius is None:
            return Finding("pass", told)
        most = float(case.run(radius=radius).error.mean())
        told += f", {most:.2f} without bounds"
        if case.whole and most < 1 - 1e-6:
            return Finding("fail", f"{told}: with any image allowed every one must fall; the attack is blind")
        return Finding("pass" if most >= full - case.slack else "warn", told)

    return check


@register
def more_steps(times: float = 2.0) -> Check:
    """More steps: `times` as many never help the model, and find little that the attack has missed."""

    def check(case: Case) -> Finding:
        longer = _with_steps(case.attack, times)
        if longer is None:
            return Finding("none", "this attack has no number of steps to raise")
        here, there = float(case.found.error.mean()), float(case.run(longer).error.mean())
        told = f"mean error {here:.2f}, with {times:g} times the steps {there:.2f}"
        if there < here - case.slack:
            return Finding("fail", f"{told}: more steps helped the model, so the attack loses what it has found")
        if there > here + max(case.slack, 0.05):
            return Finding("warn", f"{told}: the attack has not converged; raise its steps")
        return Finding("pass", told)

    return check


@register
def black_box(queries: int = 100) -> Check:
    """No black box wins: Square, which sees no gradient, breaks no image that the white-box attack leaves standing."""

    def check(case: Case) -> Finding:
        loss = complete(case.system.task.scale_free, "Loss")
        try:
            attack = build(Call("attack", (("search", Call("square", (("queries", queries),))), ("loss", loss))), "Attack")
            found = case.run(attack)
        except (SpecError, ShapeError) as error:
            return Finding("none", f"the black-box attack can't be run here: {error}")
        return _beside(case, found.error, f"Square with {queries} queries")

    return check


@register
def transferred() -> Check:
    """No transfer wins: what the attack found on other encoders does no more harm than what it found on this one."""

    def check(case: Case) -> Finding:
        if not case.others:
            return Finding("none", "no other encoder has been attacked at this task before")
        findings = [
            _beside(case, case.error(case.threat.project(points, case.x)), f"what it found on {name}")
            for name, points in case.others.items()
        ]
        order = ("fail", "warn", "pass")
        return min(findings, key=lambda finding: order.index(finding.verdict))

    return check


@register
def other_loss() -> Check:
    """No loss wins: a loss that no scale of the outputs can flatten breaks no more than the attack's own does."""

    def check(case: Case) -> Finding:
        loss = complete(case.system.task.scale_free, "Loss")
        pgd = Call("pgd", (("steps", 20), ("early_exit", case.whole)))
        attack = build(Call("attack", (("search", pgd), ("loss", loss))), "Attack")
        return _beside(case, case.run(attack).error, f"the loss {loss.name}", "the outputs are saturated; use dlr or margin")

    return check


def _without_bounds(case: Case) -> float | None:
    """How many eps it takes until the threat allows any image at all; None where it never does (a flicker, a masked one)."""
    other = torch.rand(case.x.shape, generator=case.rng("bounds")).to(case.x.device)
    size = float(case.threat.size(torch.ones_like(case.x)).max())
    if not case.threat.eps or not 0 < size < float("inf"):
        return None
    radius = size / case.threat.eps
    near = scaled(case.threat, radius).project(other, case.x)
    return radius if radius > 1 and float((near - other).abs().max()) < 1e-3 else None


def _beside(case: Case, error: Tensor, what: str, cause: str = "the gradients it follows are masked") -> Finding:
    """The attack's errors beside another's, which should not be greater: in the mean, or on images that still stand."""
    mine = case.found.error
    here, there = float(mine.mean()), float(torch.maximum(mine, error).mean())
    alone = float(error.mean())
    told = f"mean error {here:.2f}, {what} {alone:.2f}, both together {there:.2f}"
    if there > here + max(2 * case.slack, 0.1):
        return Finding("fail", f"{told}: {cause}")
    if there > here + case.slack:
        return Finding("warn", f"{told}: the attack has missed some")
    return Finding("pass", told)


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
