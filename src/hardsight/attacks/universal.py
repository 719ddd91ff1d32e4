"""Universal perturbations: one perturbation for a whole data set, found on training images.

They must be prepared first: `prepared(attack, lab)` is an attack like any other, and `bench` does this before it measures a
cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.attacks.aim import Aim, label
from hardsight.attacks.attack import Attack, Lab, Single
from hardsight.attacks.search.base import Best
from hardsight.attacks.search.compose import stay
from hardsight.attacks.targets import arrived
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.data.feed import check_pixels
from hardsight.losses.base import Loss
from hardsight.losses.objective import AttackResult, loss_and_grad, still
from hardsight.specs.catalog import register
from hardsight.tasks.base import System, Task


@dataclass(frozen=True)
class Universal:
    """One perturbation for a whole data set, found on training images."""

    images: int
    epochs: int
    step: float
    batch: int
    single: Single = field(repr=False)

    @property
    def passes(self) -> int:
        return 1

    def fits(self, task: Task) -> bool:
        return self.single.fits(task)

    def prepare(self, lab: Lab) -> Fixed:
        """Maximizes the batches' mean loss with one projected step per batch, on one perturbation that all images share."""
        delta: Tensor | None = None
        with still(lab.system.encoder, lab.system.head):
            for epoch in range(self.epochs):
                for x, y in lab.train(self.images, self.batch, epoch):
                    grey = torch.full_like(x[:1], 0.5)
                    if delta is None:
                        delta = lab.threat.inside(grey, lab.rng) - grey
                    x_adv = lab.threat.project(x + delta, x)
                    grad = loss_and_grad(self.single.objective(lab.system, x, y), x_adv)[1].sum(0, keepdim=True)
                    moved = delta + self.step * lab.threat.eps * lab.threat.steepest(grad)
                    # projected from black where a value rises, from white where it falls, so that nothing is clipped
                    edge = (moved < 0).to(moved.dtype)
                    delta = lab.threat.project(edge + moved, edge) - edge
        if delta is None:
            raise SpecError("universal needs training images, but this data set has none")
        return Fixed(delta, self.single)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        raise SpecError("a universal perturbation must first be found on training images: prepared(universal(), lab)")


@dataclass(frozen=True)
class Fixed:
    """One perturbation [1, ...], added to every image as far as the threat and the pixel range allow."""

    delta: Tensor
    single: Single

    passes = 1

    def fits(self, task: Task) -> bool:
        return self.single.fits(task)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        x = check_pixels(x)
        with still(system.encoder, system.head), torch.no_grad():
            x_adv = threat.project(x + self.delta.to(x.device), x)
            best = Best(x_adv)
            best.see(x_adv, self.single.objective(system, x, y)(x_adv))
            found = best.result()
            return found if self.single.aim.wanted is None else arrived(found, self.single, system, x, y)


def learns(attack: Any) -> bool:
    """Whether the attack, or one that it is put together from, is found on training images."""
    members = getattr(attack, "members", ())
    inner = (getattr(attack, "first", None), getattr(attack, "attack", None), *getattr(members, "values", lambda: members)())
    return isinstance(attack, Universal) or any(learns(one) for one in inner if one is not None)


@register
def universal(
    loss: Loss | None = None,
    where: Literal["output", "pooled", "dense", "embedding"] | int = "output",
    aim: Aim = label(),
    images: int = 256,
    epochs: int = 20,
    step: float = 0.1,
    batch: int = 32,
) -> Attack:
    """Universal: one perturbation for all images, found on training images by projected steps on the batches' mean loss.

    images: number of training images used. step: step size as a share of eps. batch: number of images per step.

    Source: Moosavi-Dezfooli et al., CVPR 2017 (the threat); Shafahi et al., AAAI 2020, algorithm 2 (the search). differs:
    their loss is clipped so that no image dominates the mean; ours is the loss that is given.
    """
    if images < 1 or epochs < 1 or step <= 0 or batch < 1:
        raise SpecError(
            f"universal: images {images}, epochs {epochs} and batch {batch} must be at least 1, and step {step:g} above 0"
        )
    return Universal(images, epochs, step, batch, Single(stay(), loss, where, aim))
