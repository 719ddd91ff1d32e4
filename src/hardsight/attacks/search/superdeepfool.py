"""SuperDeepFool: DeepFool to the boundary, then a projection onto the boundary's normal there, and so on; at last bisection."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.minimal import Nearest, minimizer, only_in
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.attacks.threats.l2 import L2
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, parts_and_grads
from hardsight.specs.catalog import register

KNOWN = only_in("superdeepfool", L2)
MORE = 1e-4
"""What DeepFool adds to each distance, so that it does not stop at the boundary itself."""


@register
def superdeepfool(
    steps: int = 50, rivals: int = 9, overshoot: float = 0.02, bisections: int = 10, early_exit: bool = False
) -> Search:
    """SuperDeepFool: the closest misclassified point in L2 by DeepFool and projections, counted if it is within eps.

    Needs a signed loss; margin names the gaps of all classes, of which the `rivals` largest are compared (another loss is
    its own only gap). steps: number of DeepFool steps and projections together; an image leaves when a projected point is
    misclassified. overshoot: share by which a DeepFool step goes beyond the boundary. bisections: between the image and the
    point found. early_exit: an image that is misclassified within eps leaves the batch.

    Source: Abdolahpourrostam et al., NeurIPS 2024, SDF(inf, 1), where a projection is added to the one before it as in the
    authors' code; DeepFool: Moosavi-Dezfooli et al., CVPR 2016, algorithm 2. Forward passes per image: at most steps +
    bisections + 1, each of the steps with `rivals` backward passes.
    """
    if steps < 1 or rivals < 1 or overshoot < 0 or bisections < 0:
        raise SpecError(
            f"superdeepfool: steps is {steps}, rivals {rivals}, overshoot {overshoot:g}, bisections {bisections}; "
            "steps and rivals must be at least 1, overshoot and bisections at least 0"
        )

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        KNOWN(threat)
        near = Nearest("superdeepfool", objective, x, threat, start, early_exit)
        s = SimpleNamespace(projected=near.wrong, done=near.wrong, kept=near.x_adv - x)
        ends = x.clone()
        for t in range(steps):
            if near.leave(s, s.done):
                break
            gaps: list[Tensor] = []

            def ranked(values: Tensor, gaps: list[Tensor] = gaps) -> Iterator[Tensor]:
                """One-hot weights of the largest gap, then of the next ones, which only images not yet beyond need."""
                count = min(rivals, values.shape[1] - int((values == -torch.inf).any()))
                top = values.topk(max(count, 1), dim=1)
                for place in range(max(count, 1) if bool((top.values[:, 0] <= 0).any()) else 1):
                    gaps.append(top.values[:, place])
                    yield torch.zeros_like(values).scatter(1, top.indices[:, place : place + 1], 1)

            reading, grads = parts_and_grads(near.objective, near.x_adv, ranked, t / steps)
            near.record(reading)
            s.done = near.wrong & s.projected
            ends[near.places[s.done]] = near.x_adv[s.done]
            aside = s.kept + _onto(near.delta, grads[0])
            ahead = near.delta + (1 + overshoot) * _to_closest(torch.stack(gaps), torch.stack(grads))
            near.x_adv = (near.x + tree.where(near.wrong, aside, ahead)).clamp_(0, 1)
            s.kept, s.projected = tree.where(near.wrong, aside, s.kept), near.wrong
        near.bisect(bisections, ends)
        return near.result()

    return minimizer(search, steps + bisections + 1, KNOWN, early_exit, gradients=steps * rivals)


def _onto(delta: Tensor, normal: Tensor) -> Tensor:
    """The part of each perturbation along the normal."""
    along = (delta * normal).flatten(1).sum(1) / normal.flatten(1).square().sum(1).clamp_min(1e-20)
    return per_image(along, delta) * normal


def _to_closest(gaps: Tensor, grads: Tensor) -> Tensor:
    """The step to the closest of the linearized boundaries; gaps [K, B], grads [K, B, ...]."""
    norms = grads.flatten(2).norm(dim=2).clamp_min(1e-6)
    far = gaps.abs() / norms + MORE
    place = far.argmin(0)
    each = torch.arange(far.shape[1], device=far.device)
    return per_image(far[place, each] / norms[place, each], grads[0]) * grads[place, each]
