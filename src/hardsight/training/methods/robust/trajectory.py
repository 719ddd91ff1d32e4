"""Trajectory: the weights are trained on every pass of the attack, not only on its last point.

This is what the released multi-step code of CF-AMC-SSL does: the attack's backward passes leave their gradients in the
weights, and the optimizer's step uses the sum. Its paper describes `replace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.attacks.search.base import begin as start_at
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.adversary import Faces, Which, attacked, facing, put
from hardsight.training.methods.robust.base import WrappedLearner, begin


class TrajectoryLearner(WrappedLearner):
    def __init__(
        self, inner: Learner, threat: Threat, steps: int, step: float, start: str, which: Which, faces: Faces
    ) -> None:
        super().__init__(inner)
        self.threat = threat
        self.steps = steps
        self.step = step
        self.start = start
        self.which: Which = which
        self.faces: Faces = faces

    def forward(self, samples: Samples, when: When) -> Step:
        views = self.draw(samples, when)
        part = attacked(views, self.which)
        x = torch.cat(views[part])
        x_adv = start_at(self.start, x, self.threat, when.rng)
        weights = [one for one in self.inner.parameters() if one.requires_grad]
        gradients: list[Tensor | None] = [None] * len(weights)
        past = torch.zeros((), device=x.device)
        for _ in range(self.steps):
            x_adv = x_adv.detach().requires_grad_(True)
            loss = self.inner.read(facing(views, part, x, x_adv, self.faces), samples, when).loss.mean()
            grad, *found = torch.autograd.grad(loss, [x_adv, *weights], allow_unused=True)
            gradients = [
                one if more is None else more if one is None else one + more
                for one, more in zip(gradients, found, strict=True)
            ]
            past = past + loss.detach()
            if grad is not None:
                x_adv = self.threat.project(x_adv + self.step * self.threat.eps * self.threat.steepest(grad, x_adv), x)
        step = self.inner.read(put(views, part, x_adv.detach()), samples, when)
        last = step.loss.mean()
        return step._replace(
            loss=last + StoredGradients.apply(past, gradients, *weights), logs={**step.logs, "last": last.detach()}
        )


class StoredGradients(torch.autograd.Function):
    """A loss whose weight gradients were computed before: backward passes them on, so that scaling and averaging over
    processes treat them as any other gradient, and no graph of the attack's passes is kept.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if one is None else grads[0].to(one.dtype) * one for one in ctx.gradients))


@dataclass(frozen=True)
class Trajectory:
    method: Method
    threat: Threat
    steps: int
    step: float
    start: Literal["clean", "inside", "surface"]
    which: Which
    faces: Faces

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        inner = begin("trajectory", self.method, encoder, data, images)
        return TrajectoryLearner(inner, self.threat, self.steps, self.step, self.start, self.which, self.faces)


@register
def trajectory(
    method: Method,
    threat: Threat = linf(8 / 255),
    steps: int = 5,
    step: float = 0.31875,
    start: Literal["clean", "inside", "surface"] = "clean",
    which: Literal["all", "first", "last"] = "all",
    faces: Literal["others", "itself"] = "others",
) -> Method:
    """Training on the sum of losses along a projected gradient ascent: the clean point, each step's, and the last one.

    step: as a share of eps; 0.31875 at 8/255 is the 1e-2 of CF-AMC-SSL. which: of the views with the first one's size, those
    that are perturbed. faces: what a perturbed view is compared with during the attack, the others or its own clean copy.
    The network is in train mode throughout, so every pass updates batch norm statistics.

    Source: the released code of Ghofrani and Jamshidi 2025, its quirks accumulate_attack_grads and attack_bn=train; the
    trajectory costs as much as `replace` with the same number of steps.
    """
    if steps < 0 or step <= 0:
        raise SpecError(f"trajectory: steps is {steps} and step is {step:g}; steps must be at least 0 and step above 0")
    return Trajectory(method, threat, steps, step, start, which, faces)
