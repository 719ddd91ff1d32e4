"""Transfer attacks: found on a surrogate encoder at the same task, and evaluated on the attacked encoder.

They must be prepared first: `prepared(attack, lab)` is an attack like any other, and `bench` does this before it measures a
cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, Lab, name_of, prepared
from hardsight.attacks.inputs import checked
from hardsight.attacks.search.base import Best
from hardsight.attacks.targets import judged
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Reading, still
from hardsight.specs.catalog import register
from hardsight.tasks.base import System, Task


@dataclass(frozen=True)
class Transfer:
    """An attack found on a surrogate (source) encoder at the same task, and evaluated on this one."""

    attack: Attack
    source: str
    other: System | None = None

    @property
    def passes(self) -> int:
        return self.attack.passes + 1

    def fits(self, task: Task) -> bool:
        return self.attack.fits(task)

    def prepare(self, lab: Lab) -> Transfer:
        other = lab.other(self.source)
        return replace(self, attack=prepared(self.attack, replace(lab, system=other)), other=other)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        if self.other is None:
            raise SpecError(f"transfer first needs {self.source} with a head at the same task: prepared(transfer(...), lab)")
        x, y = checked(x, y, system.task)
        found = self.attack(self.other, x, y, threat, rng)
        with still(system.encoder, system.head), torch.no_grad():
            best = Best(x)
            output = system.output(found.x_adv)
            counted, left_out = judged(self.attack, y)
            best.see(found.x_adv, Reading(system.task.loss(output, counted), system.task.error(output, counted)))
        queries = found.queries + 1
        return best.result()._replace(queries=queries, flat=found.flat, halted=found.halted, left_out=left_out)


@register
def transfer(attack: Attack, source: str) -> Attack:
    """Transfer: found on a surrogate encoder (source='timm:resnet18') with its own head, and evaluated on this encoder."""
    if name_of(attack) == "transfer":
        raise SpecError("transfer of a transfer would only use the inner source; use one transfer")
    return Transfer(attack, source)
