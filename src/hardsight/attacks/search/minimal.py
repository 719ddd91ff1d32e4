"""What the searches for minimal perturbations share: how they rank points, which images leave, and what they return.

They search at any distance and do not use eps; an attack within eps asks whether the closest point found is in its ball.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.threats.base import Threat, few_at_a_time, scaled
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading, loss_and_grad


def check_signed(objective: Objective, search: str) -> None:
    """Raises `SpecError` if the sign of the loss does not show on which side of the decision boundary a point is."""
    if not objective.signed:
        raise unsigned(search, objective.name)


def unsigned(search: str, loss: str) -> SpecError:
    """The error of a search for the decision boundary with a loss that is not 0 there."""
    return SpecError(
        f"{search} searches for the decision boundary, where its loss must be 0, and {loss} is not; "
        f"use attack({search}, loss=margin), or gap_to with aim=rival(k)"
    )


def share_of(search: Any) -> float:
    """The error from which on a point counts as misclassified for a search; 1 for all that have no share."""
    return getattr(search, "share", 1.0)


def check_loss(search: Any, loss: Any, names: tuple[str, str], judged: bool) -> None:
    """Raises `SpecError` if the search needs a signed loss, or one made of parts, or an error, and does not get it.

    names: of the two. judged: whether an error says which outputs are wrong.
    """
    is_signed = getattr(loss, "signed", False)
    if getattr(search, "signed", False) and not is_signed:
        raise unsigned(*names)
    if getattr(search, "parted", False) and not (is_signed or hasattr(loss, "parts")):
        raise SpecError(
            f"{names[0]} has a constraint for each pixel, and {names[1]} does not tell the pixels apart; "
            "use pixel_dlr or pixel_margin, or for labels margin or dlr"
        )
    if getattr(search, "judged", False) and not judged:
        raise unjudged(names[0])


def misclassified(reading: Reading) -> Tensor:
    """Mask [B]: beyond the boundary (loss above 0), or misclassified as any other class (error 1)."""
    beyond = reading.loss > 0
    return beyond if reading.error is None else beyond | (reading.error >= 1)


@few_at_a_time
def sizes(threat: Threat, x_adv: Tensor, x: Tensor) -> Tensor:
    """The size of each perturbation, [B]."""
    return threat.size(x_adv - x)


def by_size(reading: Reading, size: Tensor) -> Reading:
    """The reading as `Best` should rank it: misclassified points before others, smaller perturbations before larger ones."""
    loss = torch.where(torch.isfinite(reading.loss), -size, torch.nan)
    return Reading(loss, misclassified(reading).to(size.dtype), reading.slope)


def unfinished(best: Best, places: Tensor, enough: float) -> Tensor:
    """Mask of `places`: images still to be searched, neither stopped (not finite) nor misclassified within size `enough`."""
    if best.error is None:
        return torch.ones_like(places, dtype=torch.bool)
    near = (best.error[places] >= 1) & (-best.loss[places] <= enough)
    return ~near & ~best.halted[places]


def within(best: Best, start: Tensor, objective: Objective, x: Tensor, threat: Threat) -> AttackResult:
    """The closest misclassified point if it is within eps, else the start; evaluated once more for its own loss and error.

    x_best_loss is the closest misclassified point, at any distance; the start if none was found.
    """
    found = torch.zeros_like(best.halted) if best.error is None else best.error >= 1
    closest = tree.where(found, best.x_adv, start)
    x_adv = tree.where(sizes(threat, closest, x) <= threat.eps, closest, start)
    with torch.no_grad():
        reading = objective(x_adv)
    halted = best.halted | ~torch.isfinite(reading.loss)
    return AttackResult(x_adv, reading.loss, reading.error, closest, best.queries + 1, best.flat, halted)


class Nearest:
    """The images that a search for minimal perturbations still has at work, and the closest misclassified point of each.

    Of the images at work: places [B] in the batch, x, x_adv (where the search is now), and after `look` or `record` of that
    point delta, size [B], loss [B] and wrong [B], whether it is misclassified. signed: whether the loss tells that by its
    sign, or the error alone does, from `share` on. early_exit: whether an image leaves that is misclassified within eps.
    """

    def __init__(
        self, name: str, objective: Objective, x: Tensor, threat: Threat, start: Tensor | None,
        early_exit: bool = False, signed: bool = True, share: float = 1.0,
    ) -> None:  # fmt: skip
        if signed:
            check_signed(objective, name)
        first = threat.project(start, x) if start is not None else x.detach().clone()
        self.name, self.threat, self.signed, self.share = name, threat, signed, share
        self.enough = threat.eps if early_exit else 0.0
        self.objective, self.x, self.x_adv = objective, x, first
        self.best, self.inside = Best(x), Best(first) if share < 1 else None
        self.places, self._everything = torch.arange(len(x), device=x.device), (first, objective, x, threat)
        self.delta, self.size, self.loss = torch.zeros_like(x), torch.zeros_like(x[:, 0].flatten(1)[:, 0]), x[:, 0]
        self.wrong = torch.zeros_like(self.places, dtype=torch.bool)

    @property
    def ever(self) -> Tensor:
        """Mask [B]: whether a misclassified point has been found."""
        found = self.best.error
        return torch.zeros_like(self.wrong) if found is None else found[self.places] >= 1

    @property
    def closest(self) -> Tensor:
        """[B]: the size of the smallest perturbation found; infinite where there is none."""
        return torch.where(self.ever, -self.best.loss[self.places], torch.inf)

    def leave(self, state: SimpleNamespace, done: Tensor | None = None) -> bool:
        """Takes finished images out of the search and of its state, tensors [B, ...]; True if none remains.

        Finished: `done` [B], not finite, misclassified at size 0, or within eps if that is enough.
        """
        active = unfinished(self.best, self.places, self.enough)
        active = active if done is None else active & ~done
        if self.objective.coupled:
            return False
        if not bool(active.all()):
            self.places, self.objective = self.places[active], self.objective[active]
            for held in (self, state):
                for key, value in vars(held).items():
                    if isinstance(value, Tensor) and len(value) == len(active) and key != "places":
                        setattr(held, key, value[active])
        return not len(self.places)

    def look(self, progress: float) -> Tensor:
        """Records the reading at x_adv; returns the gradient of the loss there."""
        reading, grad = loss_and_grad(self.objective, self.x_adv, progress)
        self.record(reading)
        return grad

    def glance(self, x_adv: Tensor, progress: float) -> Tensor:
        """Mask [B]: whether these points are misclassified; they are recorded too, and x_adv stays where it is."""
        with torch.no_grad():
            reading = self.objective(x_adv, progress)
        return self._see(x_adv, reading, self.threat.size(x_adv - self.x))

    def record(self, reading: Reading) -> None:
        """Records the reading at x_adv."""
        self.delta = self.x_adv - self.x
        self.size, self.loss = self.threat.size(self.delta), reading.loss.nan_to_num(0, 0, 0)
        self.wrong = self._see(self.x_adv, reading, self.size)

    def _see(self, x_adv: Tensor, reading: Reading, size: Tensor) -> Tensor:
        if self.signed:
            wrong = misclassified(reading)
        elif reading.error is None:
            raise unjudged(self.name)
        else:
            wrong = reading.error >= self.share
        ranked = by_size(reading, size)._replace(error=wrong.to(size.dtype))
        self.best.see(x_adv, ranked, self.places)
        if self.inside is not None:
            self.inside.see(x_adv, reading, self.places, among=size <= self.threat.eps * (1 + 1e-6))
        return wrong

    def bisect(self, count: int, ends: Tensor) -> None:
        """Halves `count` times what lies between x and the misclassified `ends` [B, ...] of all images, where there is one.

        An image whose end is x itself has its closest point for an end.
        """
        _, objective, x, _ = self._everything
        if self.best.error is None or not count:
            return
        at = ((self.best.error >= 1) & (self.best.loss < 0)).nonzero().flatten()
        if objective.coupled:
            at = torch.arange(len(x), device=x.device)
        elif len(at) < len(x):
            objective, x = objective[at], x[at]
        if not len(at):
            return
        self.places, self.objective, self.x = at, objective, x
        same = (ends[at] == x).flatten(1).all(1)
        right, wrong = x, tree.where(same, self.best.x_adv[at], ends[at])
        for place in range(count):
            middle = (right + wrong) / 2
            beyond = self.glance(middle, 1 - 1 / (place + 2))
            right, wrong = tree.where(beyond, right, middle), tree.where(beyond, middle, wrong)

    def result(self) -> AttackResult:
        """The closest misclassified point if it is within eps, else the start; of a share of places, the worst point within."""
        first, objective, x, threat = self._everything
        if self.inside is None:
            return within(self.best, first, objective, x, threat)
        return within(self.best, self.inside.x_adv, objective, x, scaled(threat, 0.0))


def unjudged(search: str) -> SpecError:
    """The error of a search for misclassified points where nothing says which points those are."""
    return SpecError(
        f"{search} searches for misclassified points, so it needs the output and its labels; use aim=label, rival or towards"
    )


def only_in(name: str, *threats: type) -> Callable[[Threat], None]:
    """The check of a search that knows these threats alone."""

    def check(threat: Threat) -> None:
        if type(threat) not in threats:
            norms = [one.norm.lower() for one in threats]  # type: ignore[attr-defined]
            known = " and ".join([", ".join(norms[:-1]), norms[-1]] if len(norms) > 1 else norms)
            raise SpecError(f"{name} knows {known}, not {threat.norm}; use one of those" if len(norms) > 1 else
                            f"{name} knows {known} alone, not {threat.norm}")  # fmt: skip

    return check


def minimizer(
    search: Callable[..., AttackResult], passes: int, check: Callable[[Threat], object], early_exit: bool,
    gradients: int | None = None, signed: bool = True, share: float = 1.0,
) -> Search:  # fmt: skip
    """The function as a `Search` for minimal perturbations: what it requires of a loss, a threat and an aim."""
    search.minimal, search.judged, search.share = not early_exit, True, share  # type: ignore[attr-defined]
    if signed:
        search.signed = True  # type: ignore[attr-defined]
    return counted(search, passes, gradients=gradients, check=check)
