"""Free: one backward pass gives the gradients of weights and perturbation; each batch is replayed several times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step
from hardsight.training.methods.robust.adversary import Which, attacked, put
from hardsight.training.methods.robust.base import WrappedLearner, begin


class FreeLearner(WrappedLearner):
    """delta: the perturbation, kept from replay to replay and from batch to batch, by position in the batch."""

    def __init__(
        self, inner: Learner, threat: Threat, step: float, replays: int, which: Which, first: Literal["clamped", "loose"]
    ) -> None:
        super().__init__(inner)
        self.threat = threat
        self.step = step
        self.replays = replays
        self.which: Which = which
        self.first = first
        self.delta: Tensor | None = None
        self._drawn: Drawn | None = None
        self._leaf: Tensor | None = None

    def get_extra_state(self) -> Tensor:
        return torch.empty(0) if self.delta is None else self.delta

    def set_extra_state(self, state: Tensor) -> None:
        self.delta = state if state.numel() else None

    def forward(self, samples: Samples, when: When) -> Step:
        if when.replay == 0 or self._drawn is None:
            self._drawn = self.draw(samples, when)
        views = self._drawn
        part = attacked(views, self.which)
        x = torch.cat(views[part])
        delta = torch.zeros_like(x) if self.delta is None or self.delta.shape != x.shape else self.delta.to(x)
        loose = self.first == "loose" and when.replay == 0
        self._leaf = (x + delta if loose else self.threat.project(x + delta, x)).detach().requires_grad_(True)
        step = self.inner.read(put(views, part, self._leaf), samples, when)
        return step._replace(loss=step.loss.mean())

    def after_backward(self, when: When) -> None:
        super().after_backward(when)
        leaf, views = self._leaf, self._drawn
        if leaf is None or leaf.grad is None or views is None:
            raise SpecError("free: the images have no gradient; call 'after_backward' after a forward and a backward pass")
        x = torch.cat(views[attacked(views, self.which)])
        with torch.no_grad():
            climbed = leaf + self.step * self.threat.eps * self.threat.steepest(leaf.grad, leaf)
            self.delta = self.threat.project(climbed, x) - x
        self._leaf = None


@dataclass(frozen=True)
class Free:
    method: Method
    threat: Threat
    step: float
    replays: int
    which: Which
    first: Literal["clamped", "loose"]

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        inner = begin("free", self.method, encoder, data, images)
        return FreeLearner(inner, self.threat, self.step, self.replays, self.which, self.first)


@register
def free(
    method: Method,
    threat: Threat = linf(8 / 255),
    step: float = 0.31875,
    replays: int = 3,
    which: Literal["all", "first", "last"] = "all",
    first: Literal["clamped", "loose"] = "clamped",
) -> Method:
    """Free adversarial training of a method: each pass updates weights and perturbation at once.

    step: as a share of eps; 0.31875 at 8/255 is the 1e-2 of CF-AMC-SSL. replays: optimizer steps on each batch, all on the
    same views. which: of the views with the first one's size, those that are perturbed. first: whether the perturbation from
    the last batch is clamped to the new images' pixel range before their first replay.

    Source: Shafahi et al., NeurIPS 2019; Ghofrani and Jamshidi 2025 (CF-AMC-SSL). differs: the released code is first=loose,
    so that the first of every batch's replays has values outside of [0, 1].
    """
    if replays < 1 or step <= 0:
        raise SpecError(f"free: replays is {replays} and step is {step:g}; replays must be at least 1 and step above 0")
    return Free(method, threat, step, replays, which, first)
