"""The interface of a search, and the bookkeeping that all searches share: the best point found so far, image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat
from hardsight.core import tree
from hardsight.losses.objective import AttackResult, Objective, Reading


class Search(Protocol):
    """Looks for the allowed image with the highest objective.

    passes: maximum number of forward passes per image; gradients: how many of them also have a backward pass. rng: for
    everything random; start: where to start instead.
    """

    passes: int
    gradients: int

    def __call__(
        self,
        objective: Objective,
        x: Tensor,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult: ...


def counted(
    search: Callable[..., AttackResult],
    passes: int,
    *inner: Search,
    gradients: int | None = None,
    check: Callable[[Threat], object] | None = None,
) -> Search:
    """The function as a `Search` with that many passes; it inherits what its inner searches require of a loss or a threat.

    gradients: by default all passes but the last, which needs no gradient. check: raises `SpecError` for a threat that the
    search does not support.
    """
    search.passes = passes  # type: ignore[attr-defined]
    search.gradients = max(passes - 1, 0) if gradients is None else gradients  # type: ignore[attr-defined]
    search.checks = (*([check] if check else []), *(one for part in inner for one in getattr(part, "checks", ())))  # type: ignore[attr-defined]
    search.draws = max((getattr(one, "draws", 1) for one in inner), default=1)  # type: ignore[attr-defined]
    if any(getattr(one, "signed", False) for one in inner):
        search.signed = True  # type: ignore[attr-defined]
    return search  # type: ignore[return-value]


def begin(where: str | Tensor, x: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    """The start of a search on images x: given points, projected, or "clean", "inside" or on the "surface"."""
    if isinstance(where, Tensor):
        return threat.project(where, x)
    return x.detach().clone() if where == "clean" else getattr(threat, where)(x, rng)


def better(new: Reading, old: Reading) -> Tensor:
    """Mask [B]: where `new` has the higher error or, at equal error, the higher loss. A non-finite loss never wins."""
    finite = torch.isfinite(new.loss)
    higher = (new.loss > old.loss) & finite
    if new.error is None or old.error is None:
        return higher
    return ((new.error > old.error) & finite) | ((new.error == old.error) & higher)


class Best:
    """The best point seen for each of B images, and the point of highest loss, over any number of calls of `see`.

    It also counts model evaluations, gradients that were zero, and images with a loss or gradient that was not finite.
    """

    def __init__(self, x: Tensor) -> None:
        self.x_adv = x.detach().clone()
        self.x_best_loss = self.x_adv
        self.loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        self.greatest = self.loss.clone()
        self.error: Tensor | None = None
        self.queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.flat = torch.zeros_like(self.queries)
        self.halted = torch.zeros_like(self.queries, dtype=torch.bool)

    def see(
        self, x_adv: Tensor, reading: Reading, places: Tensor | None = None, queries: int | Tensor = 1,
        among: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Records an evaluation at x_adv, of all images or of those at `places`; queries: how many passes it took.

        among: mask of those that count, if some have left the search and are evaluated all the same.
        """
        at = slice(None) if places is None else places
        loss = reading.loss.detach().to(self.loss.dtype)
        if reading.error is not None and self.error is None:
            self.error = torch.full_like(self.loss, -1.0)
        error = None if reading.error is None else reading.error.to(self.loss.dtype)
        old = Reading(self.loss[at], None if self.error is None else self.error[at])
        wins = better(Reading(loss, error), old)
        higher = torch.isfinite(loss) & (loss > self.greatest[at])
        one = self.x_best_loss is self.x_adv and (self.error is None or tree.equal(wins, higher))
        if among is not None:
            wins, higher = wins & among, higher & among
        self.x_adv = _updated(self.x_adv, x_adv, wins, places)
        self.x_best_loss = self.x_adv if one else _updated(self.x_best_loss, x_adv, higher, places)
        if error is not None and self.error is not None and old.error is not None:
            self.error[at] = torch.where(wins, error, old.error)
        self.loss[at] = torch.where(wins, loss, old.loss)
        self.greatest[at] = torch.where(higher, loss, self.greatest[at])
        halted, flat = ~torch.isfinite(loss), torch.zeros_like(loss, dtype=torch.bool)
        if reading.slope is not None:
            halted, flat = halted | ~torch.isfinite(reading.slope), reading.slope == 0
        if among is not None:
            queries, halted, flat = queries * among, halted & among, flat & among
        self.queries[at] += queries
        self.halted[at] |= halted
        self.flat[at] += flat

    def add(self, found: AttackResult, places: Tensor | None = None) -> None:
        """Records the result of another search, of all images or of those at `places`, with its counts."""
        self.see(found.x_adv, Reading(found.loss, found.error), places, found.queries)
        at = slice(None) if places is None else places
        self.flat[at] += found.flat
        self.halted[at] |= found.halted

    def result(self) -> AttackResult:
        error = None if self.error is None else self.error.clamp_min(0)
        return AttackResult(self.x_adv, self.loss, error, self.x_best_loss, self.queries, self.flat, self.halted)


def _updated(kept: Tensor, x_adv: Tensor, mask: Tensor, places: Tensor | None) -> Tensor:
    """`kept` with the images of x_adv where `mask` is True; not in place, since other code may hold the same tensors."""
    if not tree.some(mask):
        return kept
    if places is None:
        return tree.where(mask, x_adv, kept)
    if mask.device.type != "cpu":  # how many have won is not asked
        return kept.index_copy(0, places, tree.where(mask, x_adv.to(kept.dtype), kept[places]))
    won = mask.nonzero().flatten()
    return kept.index_copy(0, places[won], x_adv.index_select(0, won).to(kept.dtype))
