"""Auto-PGD: ascent without a step size to choose, since the progress of each image decides when its steps become shorter.

One loop serves all threats: an evaluation, at some steps a check that may reset an image to its best point, and a step. The
step schedule decides how long steps are and what a check looks at: `Halving` for every threat with a steepest step, `Sparse`
for L1, where the number of values that move at once matters more than how far they move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, begin, counted
from hardsight.attacks.threats.base import Threat, per_image, within
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, loss_and_grad
from hardsight.specs.catalog import register


@register
def apgd(
    steps: int = 100,
    rho: float = 0.75,
    start: Literal["surface", "inside", "clean"] = "surface",
    early_exit: bool = False,
) -> Search:
    """Auto-PGD in any threat: if the loss of an image stops rising, its step is halved and it resumes from its best point.

    rho: share of the steps since the last check that must have raised the loss. early_exit: an image with error 1 leaves the
    batch, which saves passes without changing which images are misclassified; a coupled objective has to keep it.

    Source: Croce and Hein, ICML 2020, algorithm 1; for L1 "Mind the box!", ICML 2021, algorithm 1. differs, as their code
    does: a share of exactly rho is too small, and the first step counts as a rise if its loss is above 0. The point returned
    is that of highest error, then loss; theirs is the last misclassified one. Forward passes per image: steps + 1.
    """
    if steps < 0 or not 0 < rho <= 1:
        raise SpecError(
            f"apgd: steps is {steps} and rho is {rho:g}; steps must be at least 0, and rho a share above 0, at most 1"
        )
    where = start

    def search(
        objective: Objective,
        x: Tensor,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult:
        _check(threat, where if start is None and where != "clean" else "project")
        schedule = _schedule(threat, x, rho)
        x_adv = begin(where if start is None else start, x, threat, rng)
        if start is not None:
            schedule.begin(x_adv, x)
        best = Best(x_adv)
        places, before, best_grad = torch.arange(len(x), device=x.device), x_adv, torch.zeros_like(x)
        checks = schedule.checks(steps)
        for t in range(steps):
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            higher = torch.isfinite(reading.loss) & (reading.loss > best.greatest[places])
            best_grad = tree.where(higher, grad, best_grad)
            best.see(x_adv, reading, places)
            if t:
                schedule.note(reading.loss)
            if t in checks:
                top = best.x_best_loss[places]
                back = schedule.check(checks[t], best.greatest[places], top, x) & ~best.halted[places]
                x_adv, grad = tree.where(back, top, x_adv), tree.where(back, best_grad, grad)
                del top
            there = schedule.step(threat, x, x_adv, before if t else None, grad)
            before, x_adv = x_adv, tree.where(best.halted[places], x_adv, there)
            del grad, there  # otherwise they stay in memory and raise the peak of the next pass
            if early_exit and best.error is not None and not objective.coupled:
                active = (best.error[places] < 1) & ~best.halted[places]
                left = int(active.sum())
                if not left:
                    return best.result()
                if left < len(active):
                    objective, schedule = objective[active], _take(schedule, active)
                    places, x, x_adv, before, best_grad = tree.take((places, x, x_adv, before, best_grad), active)
        with torch.no_grad():
            best.see(x_adv, objective(x_adv), places)
        return best.result()

    return counted(search, steps + 1)


@dataclass
class Halving:
    """Steps of 2 eps at first, with momentum; halved if too few of them raised the loss, or if the best loss has not risen.

    All [B]. length: step size in eps. rises: number of steps since the last check that raised the loss. last: the last loss.
    mark: the best loss at the last check; halved: whether the step was halved there.
    """

    rho: float
    length: Tensor
    rises: Tensor
    last: Tensor
    mark: Tensor
    halved: Tensor

    def begin(self, x_adv: Tensor, x: Tensor) -> None:
        """A given start changes nothing here."""

    def checks(self, steps: int) -> dict[int, int]:
        period, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
        found, t = {}, period
        while t < steps:
            found[t] = period
            period = max(period - less, least)
            t += period
        return found

    def note(self, loss: Tensor) -> None:
        self.rises, self.last = self.rises + (loss > self.last), loss

    def check(self, period: int, greatest: Tensor, top: Tensor, x: Tensor) -> Tensor:
        self.halved = (self.rises <= self.rho * period) | (~self.halved & (greatest <= self.mark))
        self.length = torch.where(self.halved, self.length / 2, self.length)
        self.mark, self.rises = greatest, torch.zeros_like(self.rises)
        return self.halved

    def step(self, threat: Threat, x: Tensor, x_adv: Tensor, before: Tensor | None, grad: Tensor) -> Tensor:
        step = per_image(self.length * threat.eps, x) * threat.steepest(grad, x_adv)
        there = threat.project(step.add_(x_adv), x)
        if before is None:
            return there
        return threat.project((there - x_adv).mul_(0.75).add_(x_adv).add_((x_adv - before).mul_(0.25)), x)


@dataclass
class Sparse:
    """L1: steps of eps at first on the largest gradients; how many depends on how many values the best point has changed.

    All [B]. length: step size in eps. share: share of the values that a step moves. moved: number of values that the best
    point had changed at the last check. values: number of values of an image that may move.
    """

    length: Tensor
    share: Tensor
    moved: Tensor
    values: int

    def begin(self, x_adv: Tensor, x: Tensor) -> None:
        """A given start determines how many values to move."""
        self._follow(x_adv, x)

    def checks(self, steps: int) -> dict[int, int]:
        period = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(period, steps, period), period)

    def note(self, loss: Tensor) -> None:
        """The number of steps that increased the loss is not used here."""

    def check(self, period: int, greatest: Tensor, top: Tensor, x: Tensor) -> Tensor:
        before = self.moved
        self._follow(top, x)
        sparser = self.moved < 0.95 * before
        self.length = torch.where(sparser, 1.0, (self.length / 1.5).clamp_min(0.1))
        return sparser

    def step(self, threat: Threat, x: Tensor, x_adv: Tensor, before: Tensor | None, grad: Tensor) -> Tensor:
        step = threat.largest(grad, self.share)  # type: ignore[attr-defined]
        return threat.project(x_adv + per_image(self.length * threat.eps, x) * step, x)

    def _follow(self, point: Tensor, x: Tensor) -> None:
        """The clean image itself, which changes no value, is ignored."""
        moved = (point != x).flatten(1).sum(1).to(self.moved.dtype)
        self.share = torch.where(moved > 0, moved / self.values / 1.5, self.share)
        self.moved = torch.where(moved > 0, moved, self.moved)


def _schedule(threat: Threat, x: Tensor, rho: float) -> Halving | Sparse:
    zeros = torch.zeros(len(x), device=x.device)
    if within(threat).norm == "L1":
        values = threat.values(x)  # type: ignore[attr-defined]
        return Sparse(zeros + 1, zeros + 0.2, zeros + values, values)
    return Halving(rho, zeros + 2, zeros, zeros, zeros, zeros == 0)


def _take(schedule: Any, active: Tensor) -> Any:
    """The schedule of some images."""
    values = {one.name: getattr(schedule, one.name) for one in fields(schedule)}
    return replace(schedule, **tree.take(values, active))


def _check(threat: Threat, begin: str) -> None:
    for verb in ("eps", "project", "steepest", begin):
        if not hasattr(threat, verb):
            name = getattr(getattr(threat, "spec", None), "name", type(threat).__name__)
            raise SpecError(f"apgd does not support {name}, which has no '{verb}'; a black-box search may")
