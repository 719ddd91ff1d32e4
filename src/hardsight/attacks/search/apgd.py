"""Auto-PGD: ascent without a step size to choose, since each image's own climb decides when its steps become shorter.

One walk serves all threats: a reading, now and then a check that may send an image back to its best point, and a step. How
long the steps are and what a check looks at is the walk's pace: `Halving` wherever there is a steepest step, `Sparse` for L1,
where it matters more how many values move at once than how far.
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
    """Auto-PGD in any threat: an image's steps are halved when it has stopped climbing, and it goes on from its best point.

    rho: the share of the steps since the last check that must have raised the loss. early_exit: an image with error 1 leaves
    the batch, which saves its passes and changes no verdict; a coupled objective has to keep it.

    Source: Croce and Hein, ICML 2020, algorithm 1; for L1 "Mind the box!", ICML 2021, algorithm 1. differs, as their code
    does: a share of exactly rho is too small, and the first step counts as a rise where its loss is above 0. The point that
    comes back is that of greatest error, then loss; theirs is the last misclassified one. Readings an image: steps + 1.
    """
    if steps < 0 or not 0 < rho <= 1:
        raise SpecError(
            f"apgd: steps is {steps} and rho is {rho:g}; steps is at least 0, and rho a share above 0, at most 1"
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
        pace = _pace(threat, x, rho)
        x_adv = begin(where if start is None else start, x, threat, rng)
        if start is not None:
            pace.begin(x_adv, x)
        best = Best(x_adv)
        places, before, best_grad = torch.arange(len(x), device=x.device), x_adv, torch.zeros_like(x)
        checks = pace.checks(steps)
        for t in range(steps):
            reading, grad = loss_and_grad(objective, x_adv, t / steps)
            louder = torch.isfinite(reading.loss) & (reading.loss > best.greatest[places])
            best_grad = tree.where(louder, grad, best_grad)
            best.see(x_adv, reading, places)
            if t:
                pace.note(reading.loss)
            if t in checks:
                top = best.x_best_loss[places]
                back = pace.check(checks[t], best.greatest[places], top, x) & ~best.halted[places]
                x_adv, grad = tree.where(back, top, x_adv), tree.where(back, best_grad, grad)
                del top
            there = pace.step(threat, x, x_adv, before if t else None, grad)
            before, x_adv = x_adv, tree.where(best.halted[places], x_adv, there)
            del grad, there  # or they are held through the next pass, whose peak they would raise
            if early_exit and best.error is not None and not objective.coupled:
                stands = (best.error[places] < 1) & ~best.halted[places]
                left = int(stands.sum())
                if not left:
                    return best.result()
                if left < len(stands):
                    objective, pace = objective[stands], _take(pace, stands)
                    places, x, x_adv, before, best_grad = tree.take((places, x, x_adv, before, best_grad), stands)
        with torch.no_grad():
            best.see(x_adv, objective(x_adv), places)
        return best.result()

    return counted(search, steps + 1)


@dataclass
class Halving:
    """Steps of at first 2 eps, with momentum; halved where too few of them climbed, or the best loss has stood still.

    All [B]. length: in eps. rises: how many steps since the last check climbed. last: the last loss. mark: the best loss at
    the last check; halved: whether the step was halved there.
    """

    rho: float
    length: Tensor
    rises: Tensor
    last: Tensor
    mark: Tensor
    halved: Tensor

    def begin(self, x_adv: Tensor, x: Tensor) -> None:
        """The same from any start."""

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
    """L1: steps of at first eps on the largest gradients; how many, follows from how many values the best point moves.

    All [B]. length: in eps. share: of the values, how many a step moves. moved: how many the best point moved at the last
    check. values: of an image, how many may move.
    """

    length: Tensor
    share: Tensor
    moved: Tensor
    values: int

    def begin(self, x_adv: Tensor, x: Tensor) -> None:
        """A start that is given tells how many values to move."""
        self._follow(x_adv, x)

    def checks(self, steps: int) -> dict[int, int]:
        period = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(period, steps, period), period)

    def note(self, loss: Tensor) -> None:
        """How often an image climbed doesn't matter here."""

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
        """The clean image itself, which moves no value, tells nothing."""
        moved = (point != x).flatten(1).sum(1).to(self.moved.dtype)
        self.share = torch.where(moved > 0, moved / self.values / 1.5, self.share)
        self.moved = torch.where(moved > 0, moved, self.moved)


def _pace(threat: Threat, x: Tensor, rho: float) -> Halving | Sparse:
    zeros = torch.zeros(len(x), device=x.device)
    if within(threat).norm == "L1":
        values = threat.values(x)  # type: ignore[attr-defined]
        return Sparse(zeros + 1, zeros + 0.2, zeros + values, values)
    return Halving(rho, zeros + 2, zeros, zeros, zeros, zeros == 0)


def _take(pace: Any, stands: Tensor) -> Any:
    """The pace of some images."""
    values = {one.name: getattr(pace, one.name) for one in fields(pace)}
    return replace(pace, **tree.take(values, stands))


def _check(threat: Threat, begin: str) -> None:
    for verb in ("eps", "project", "steepest", begin):
        if not hasattr(threat, verb):
            name = getattr(getattr(threat, "spec", None), "name", type(threat).__name__)
            raise SpecError(f"apgd cannot walk in {name}, which has no '{verb}'; a search that only proposes points may")
