"""The joint between an attack's four parts: an `Objective` reads a batch of images and answers a loss and an error each.

It is a read function and the target that goes with the images; it can be indexed by a mask, which a closure cannot, and
without that neither restarts, early exit nor "only on the survivors" can be written once for every search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardsight import tree


class Reading(NamedTuple):
    """One look at a batch: loss [B], raised by a search; error [B] in [0, 1], 1 = broken, None where no label tells."""

    loss: Tensor
    error: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """What a search raises.

    read: (x [B, 3, H, W], target, progress in [0, 1]) -> Reading. target: a tree that is indexed with the images.
    coupled: images of a batch depend on one another (NT-Xent, coding rate), so it may not be indexed.
    signed: the loss is zero on the decision boundary.
    """

    read: Callable[[Tensor, Any, float], Reading]
    target: Any = None
    coupled: bool = False
    signed: bool = False

    def __call__(self, x: Tensor, progress: float = 1.0) -> Reading:
        return self.read(x, self.target, progress)

    def __getitem__(self, index: Tensor) -> Objective:
        """The objective of the images that `index` (a mask [B] or positions) selects; `ValueError` if coupled."""
        if self.coupled:
            raise ValueError("this objective couples the images of a batch, so no part of the batch can be taken alone")
        return replace(self, target=tree.take(self.target, index))


class AttackResult(NamedTuple):
    """What a search found, per image.

    x_adv [B, 3, H, W]; loss [B] and error [B] (or None) of it; x_best_loss: the point of greatest loss, where that is
    another one; queries [B]: how many readings each image was in.
    """

    x_adv: Tensor
    loss: Tensor
    error: Tensor | None
    x_best_loss: Tensor
    queries: Tensor


def against(
    model: Callable[[Tensor], Any],
    loss: Callable[[Any, Any, float], Tensor],
    error: Callable[[Any, Any], Tensor] | None = None,
    target: Any = None,
) -> Objective:
    """The objective "raise `loss(model(x), target, progress)`", judged by `error(model(x), target)`, both [B]."""

    def read(x: Tensor, target: Any, progress: float) -> Reading:
        output = model(x)
        judged = None
        if error is not None:
            with torch.no_grad():
                judged = error(output, target)
        return Reading(loss(output, target, progress), judged)

    return Objective(read, target)


def loss_and_grad(objective: Objective, x: Tensor, progress: float = 1.0) -> tuple[Reading, Tensor]:
    """The reading at x and the gradient of the summed loss to x alone; no parameter's `.grad` is touched.

    A loss that does not depend on x has gradient zero: the audit's business, not an exception in the middle of a run.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        reading = objective(x, progress)
        total = reading.loss.sum()
        grad = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    error = None if reading.error is None else reading.error.detach()
    return Reading(reading.loss.detach(), error), torch.zeros_like(x) if grad is None else grad.detach()


def averaged(objective: Objective, draws: int) -> Objective:
    """Expectation over a model's own randomness (EOT): loss and error are means over `draws` readings."""

    def read(x: Tensor, target: Any, progress: float) -> Reading:
        readings = [objective.read(x, target, progress) for _ in range(draws)]
        loss = torch.stack([r.loss for r in readings]).mean(0)
        errors = [r.error for r in readings if r.error is not None]
        return Reading(loss, torch.stack(errors).mean(0) if errors else None)

    return replace(objective, read=read)


@contextmanager
def still(*modules: nn.Module) -> Iterator[None]:
    """Eval mode and frozen weights within; every module's mode and every parameter's `requires_grad` as before after it."""
    modes = {part: part.training for module in modules for part in module.modules()}
    asked = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    try:
        for module in modules:
            module.eval()
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in asked:
            parameter.requires_grad_(flag)
