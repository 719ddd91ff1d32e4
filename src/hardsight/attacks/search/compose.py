"""Searches made of other searches: each combinator changes one aspect of any search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, averaged
from hardsight.specs.catalog import register
from hardsight.specs.syntax import calls_in


@register
def stay() -> Search:
    """No search at all: the clean image, evaluated once."""

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        best = Best(x)
        with torch.no_grad():
            best.see(x, objective(x))
        return best.result()

    return counted(search, 1, gradients=0)


@register
def best_of(searches: tuple[Search, ...]) -> Search:
    """Each search on the images that are still robust after those before it (error below 1); keeps the best point of all.

    A coupled objective, or one without an error, cannot be split: then every search gets the whole batch.
    """
    if not searches:
        raise SpecError("best_of needs at least one search: best_of([pgd(10), pgd(10, momentum=1)])")

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        return _in_sequence([(member, threat) for member in searches], objective, x, rng, start)

    gradients = sum(member.gradients for member in searches)
    return counted(search, sum(member.passes for member in searches), *searches, gradients=gradients)


@register
def restarts(search: Search, count: int = 5) -> Search:
    """The search `count` times from new starts, on the images that are still robust; keeps the best point of all.

    The search must have a random start: one that starts at the clean image does the same every time.
    """
    if count < 1:
        raise SpecError(f"restarts: count is {count}, but it must be at least 1")
    if count > 1 and any(call.get("start") == "clean" for call in calls_in(getattr(search, "spec", None))):
        raise SpecError("restarts of a search that starts at the clean image would repeat it; use a random start")
    return best_of((search,) * count)


@register
def eot(search: Search, draws: int = 10) -> Search:
    """The search on the mean of `draws` forward passes per evaluation, for models with random outputs.

    Source: Athalye et al., ICML 2018 (expectation over transformation).
    """
    if draws < 1:
        raise SpecError(f"eot: draws is {draws}, but it must be at least 1")

    def run(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        found = search(averaged(objective, draws), x, threat, rng, start)
        return found._replace(queries=found.queries * draws)

    found = counted(run, search.passes * draws, search, gradients=search.gradients * draws)
    found.draws = draws  # type: ignore[attr-defined]
    return found


def adaptive(search: Search, encoder: Any) -> Search:
    """The search itself or, on a random defence, on the mean of the encoder's own number of draws; one with `eot` keeps its own.

    Raises `SpecError` for a search with gradients on an encoder through which none passes.
    """
    if search.gradients and getattr(getattr(encoder, "body", None), "black_box", False):
        raise SpecError(blind(encoder.card.name))
    draws = getattr(encoder, "draws", 1)
    return eot(search, draws) if draws > 1 and getattr(search, "draws", 1) == 1 else search


def blind(name: str) -> str:
    """Why a search that uses gradients cannot run on that encoder."""
    return f"no gradient passes through {name}; attack it with a black-box search, such as attack(square)"


def in_each(search: Search, threat: Threat) -> Search:
    """The search itself or, for a union of threats, the search in each of them in sequence: the worst case per image."""
    parts = getattr(threat, "parts", ())
    if not parts:
        return search

    def run(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        return _in_sequence([(search, part) for part in parts], objective, x, rng, start)

    return counted(run, search.passes * len(parts), search, gradients=search.gradients * len(parts))


def _in_sequence(
    pairs: list[tuple[Search, Threat]], objective: Objective, x: Tensor, rng: torch.Generator | None, start: Tensor | None
) -> AttackResult:
    """Each search in its threat, on the images that are still robust; keeps the best point of all."""
    best = Best(x)
    places = torch.arange(len(x), device=x.device)
    for search, threat in pairs:
        if best.error is not None and not objective.coupled:
            places = (best.error < 1).nonzero().flatten()
        if not len(places):
            break
        everything = len(places) == len(x)
        part = objective if everything else objective[places]
        begin = start if start is None or everything else start[places]
        best.add(search(part, x[places], threat, rng, begin), places)
    return best.result()
