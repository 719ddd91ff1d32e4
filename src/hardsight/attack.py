"""An attack is four independent things: a search, a threat, a loss and an aim. Here three are joined; the threat comes last.

attack(pgd(steps=50), loss=cospgd_ce)                             any search with any loss, at the task's output
attack(pgd(), loss=far_l2, where="embedding", aim="itself")       label-free, in the embedding
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight import tree
from hardsight.catalog import register
from hardsight.data.feed import check_pixels
from hardsight.errors import SpecError
from hardsight.losses.base import EMBEDDING, Loss, fits
from hardsight.objective import AttackResult, Objective, Reading, against, still
from hardsight.search.base import Best, Search
from hardsight.spec import calls_in
from hardsight.tasks.base import System, Task
from hardsight.threats.base import Threat

Where = Literal["output", "pooled", "dense", "embedding"]


@dataclass(frozen=True)
class Attack:
    """A search, the loss it raises, where that loss reads the system, and what it compares with.

    loss: None is the task's own training loss. where: the task's output, or the encoder's pooled or dense features;
    "embedding" is whichever of the two the task reads. aim: "label", or "itself", the model's own clean reading.
    """

    search: Search
    loss: Loss | None = None
    where: Where = "output"
    aim: Literal["label", "itself"] = "label"

    @property
    def passes(self) -> int:
        """How many forward passes an image is in at most (those of a search but the last carry a backward pass too)."""
        return self.search.passes + (self.aim == "itself")

    def fits(self, task: Task) -> bool:
        """Whether its loss can be raised at this task."""
        return self.loss is None or fits(self.loss, task.target if self.where == "output" else EMBEDDING)

    def objective(self, system: System, x: Tensor, y: Any) -> Objective:
        """What the search raises on images x with targets y; y may be None where the aim is the model's own reading."""
        where = system.task.reads if self.where == "embedding" else self.where
        read: Callable[[Tensor], Any] = {"output": system.output, "pooled": system.pooled, "dense": system.dense}[where]
        target = y
        if self.aim == "itself":
            with torch.no_grad():
                target = tree.each(read(x), Tensor.detach)
        elif y is None:
            raise SpecError("this attack needs the images' labels; without them use one with aim='itself', such as embed")
        loss = self.loss or (lambda output, target, progress: system.task.loss(output, target))
        judged = system.task.error if where == "output" and self.aim == "label" else None
        return against(read, loss, judged, target)

    def __call__(
        self,
        system: System,
        x: Tensor,
        y: Any,
        threat: Threat,
        rng: torch.Generator | None = None,
    ) -> AttackResult:
        """Attacks images x [B, 3, H, W] in [0, 1] with targets y; the system's modes, weights and gradients stay as they were."""
        check_pixels(x)
        with still(system.encoder, system.head):
            return self.search(self.objective(system, x, y), x, threat, rng)


@dataclass(frozen=True)
class Cascade:
    """Attacks in turn, each on the images that still stand (error below 1 at the task's output); the best point of all."""

    members: tuple[Attack | Cascade, ...]

    @property
    def passes(self) -> int:
        return sum(member.passes + 1 for member in self.members)

    def fits(self, task: Task) -> bool:
        return all(member.fits(task) for member in self.members)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        check_pixels(x)
        best = Best(x)
        queries = torch.zeros_like(best.queries)
        places = torch.arange(len(x), device=x.device)
        with still(system.encoder, system.head):
            for member in self.members:
                if best.error is not None:
                    places = (best.error < 1).nonzero().flatten()
                if not len(places):
                    break
                part = tree.take(y, places)
                found = member(system, x[places], part, threat, rng)
                with torch.no_grad():
                    output = system.output(found.x_adv)
                    judged = Reading(system.task.loss(output, part), system.task.error(output, part))
                best.see(found.x_adv, judged, places)
                queries[places] += found.queries + 1
        return best.result()._replace(queries=queries)


@register
def attack(
    search: Search,
    loss: Loss | None = None,
    where: Literal["output", "pooled", "dense", "embedding"] = "output",
    aim: Literal["label", "itself"] = "label",
) -> Attack:
    """Any search with any loss; the task's own loss at its output unless said otherwise."""
    if where != "output" and aim == "label":
        raise SpecError(f"an embedding has no label to compare with: attack(..., where='{where}', aim='itself')")
    if where != "output" and loss is not None and not fits(loss, EMBEDDING):
        raise SpecError(f"this loss reads a task's output, not an embedding; use far_l2 or far_cosine with where='{where}'")
    if aim == "itself" and where == "output":
        raise SpecError("aim='itself' compares embeddings, so it needs where='embedding', 'pooled' or 'dense'")
    if aim == "itself" and any(call.get("start") == "clean" for call in calls_in(getattr(search, "spec", None))):
        raise SpecError(
            "at the clean image an embedding's distance to itself has no gradient; let the search start 'inside'"
        )
    if where != "output" and loss is None:
        raise SpecError(
            f"an attack on the embedding needs a loss, such as far_l2: attack(..., loss=far_l2, where='{where}')"
        )
    return Attack(search, loss, where, aim)


@register
def cascade(members: tuple[Attack, ...]) -> Attack:
    """Attacks in turn, each on the images that still stand, and the best point of all."""
    if not members:
        raise SpecError("cascade needs at least one attack: cascade([pgd(20), segpgd])")
    return Cascade(members)  # type: ignore[return-value]
