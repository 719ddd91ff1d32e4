"""What a search is, and the bookkeeping all of them share: which point found so far is the best, image by image."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hardsight import tree
from hardsight.objective import AttackResult, Objective, Reading
from hardsight.threats.base import Threat


class Search(Protocol):
    """Looks for the allowed image that the objective reads highest.

    passes: how many readings an image is in at most. rng draws whatever is random; start is where to begin instead.
    """

    passes: int

    def __call__(
        self,
        objective: Objective,
        x: Tensor,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult: ...


def better(new: Reading, old: Reading) -> Tensor:
    """Mask [B]: where `new` has the greater error or, at equal error, the greater loss. A loss that is NaN is never better."""
    louder = new.loss > old.loss
    if new.error is None or old.error is None:
        return louder
    return (new.error > old.error) | ((new.error == old.error) & louder)


class Best:
    """The best point seen of each of B images, and the point of greatest loss, over any number of `see`s."""

    def __init__(self, x: Tensor) -> None:
        self.x_adv = x.detach().clone()
        self.x_best_loss = self.x_adv.clone()
        self.loss = torch.full((len(x),), -torch.inf, device=x.device)
        self.greatest = self.loss.clone()
        self.error: Tensor | None = None
        self.queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def see(self, x_adv: Tensor, reading: Reading, places: Tensor | None = None) -> None:
        """Takes note of a reading at x_adv, of all images or of those at `places`."""
        if places is None:
            places = torch.arange(len(self.loss), device=self.loss.device)
        loss = reading.loss.detach().to(self.loss.dtype)
        if reading.error is not None and self.error is None:
            self.error = torch.full_like(self.loss, -1.0)
        error = None if reading.error is None else reading.error.to(self.loss.dtype)
        old = Reading(self.loss[places], None if self.error is None else self.error[places])
        wins = better(Reading(loss, error), old)
        self.x_adv[places] = tree.where(wins, x_adv, self.x_adv[places])
        self.loss[places] = torch.where(wins, loss, old.loss)
        if error is not None and self.error is not None and old.error is not None:
            self.error[places] = torch.where(wins, error, old.error)
        louder = loss > self.greatest[places]
        self.x_best_loss[places] = tree.where(louder, x_adv, self.x_best_loss[places])
        self.greatest[places] = torch.where(louder, loss, self.greatest[places])
        self.queries[places] += 1

    def result(self) -> AttackResult:
        return AttackResult(self.x_adv, self.loss, self.error, self.x_best_loss, self.queries)
