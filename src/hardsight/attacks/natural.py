"""Image changes without an adversary, to compare attacks with: common corruptions, and random noise of the same size.

Neither uses the model. A corruption is not bounded by eps, so it brings its own threat, in which every image is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Single
from hardsight.attacks.corruptions import names
from hardsight.attacks.corruptions.base import Corruption
from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.compose import stay
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.core.seeds import generator
from hardsight.data.feed import check_pixels
from hardsight.losses.objective import AttackResult, Objective, still
from hardsight.specs.catalog import build, register
from hardsight.specs.syntax import Call
from hardsight.tasks.base import System, Task


@dataclass(frozen=True)
class Corrupt:
    """A common corruption in place of an attack.

    title: its name in tables. threat: the spec of the threat that it brings, for one cell instead of one per eps. natural:
    it is not an adversary, so there is nothing to audit.
    """

    corruption: Corruption
    title: str

    passes = 1
    threat = "rms"
    natural = True

    def fits(self, task: Task) -> bool:
        return True

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        """rng is not used: an image has one corrupted version, as in a data set, for every encoder and batch."""
        x = check_pixels(x)
        x_adv = self.corruption(x, generator("natural"))
        if bool((threat.size(x_adv - x) > threat.eps * (1 + 1e-4)).any()):
            raise SpecError(
                f"{self.title} changes images by more than {threat.norm} {threat.eps:.4g}; it needs the threat {self.threat}"
            )
        with still(system.encoder, system.head), torch.no_grad():
            best = Best(x_adv)
            best.see(x_adv, Single(stay()).objective(system, x, y)(x_adv))
        return best.result()


@dataclass(frozen=True)
class Every:
    """Corruptions that are planned as one cell each, by the specs in `each`; run together, the worst one per image."""

    each: tuple[str, ...]
    members: tuple[Corrupt, ...]

    threat = "rms"
    natural = True

    @property
    def passes(self) -> int:
        return len(self.members)

    def fits(self, task: Task) -> bool:
        return True

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        best = Best(x)
        for member in self.members:
            best.add(member(system, x, y, threat, rng))
        return best.result()


def points(draws: int) -> Search:
    """Random points at distance eps; returns the best of them, without the clean image."""

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        best = None
        for _ in range(draws):
            there = threat.project(threat.surface(x, rng), x)
            best = best or Best(there)
            with torch.no_grad():
                best.see(there, objective(there))
        assert best is not None
        return best.result()

    search.natural = True  # type: ignore[attr-defined]
    return counted(search, draws, gradients=0)


@register
def corrupt(name: str, severity: int = 3) -> Attack:
    """Corruption: one of the 15 common ones at severity 1 to 5, `corrupt(fog, 3)` (Hendrycks and Dietterich, ICLR 2019).

    Images change and targets do not: elastic_transform and zoom_blur move pixels away from their mask or depth. In a clip,
    each frame is corrupted separately.
    """
    return Corrupt(build(Call(name, (("severity", severity),)), "Corruption"), f"{name} {severity}")


@register
def corruptions(severities: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Attack:
    """corruptions: all 15 common ones at these severities, one cell each; a report shows their mean."""
    if not severities:
        raise SpecError("corruptions needs at least one severity: corruptions([3])")
    each = tuple(f"corrupt({name}, {severity})" for name in names() for severity in severities)
    return Every(each, tuple(build(spec, "Attack") for spec in each))


@register
def noise(draws: int = 1) -> Attack:
    """noise: a random point at distance eps, the baseline of equal norm; the worst of `draws` points."""
    if draws < 1:
        raise SpecError(f"noise: draws is {draws}, but it must be at least 1")
    return Single(points(draws))
