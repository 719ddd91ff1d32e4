"""Shared by hardening methods: the encoder is the student, and its teacher is a frozen copy of the encoder at the start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.losses.objective import against
from hardsight.training.methods.base import Learner
from hardsight.training.methods.robust.adversary import Adversary


class HardeningLearner(Learner):
    """The student gets one view per image; the teacher stays in eval mode and is never updated."""

    def __init__(self, encoder: Encoder, views: Views, adversary: Adversary) -> None:
        super().__init__(encoder, views)
        if views.count != 1:
            raise SpecError(f"hardening takes one view per image, and these views are {views.count}; give views(1)")
        self.teacher = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.adversary = adversary

    def train(self, mode: bool = True) -> HardeningLearner:
        super().train(mode)
        self.teacher.eval()
        return self

    def teacher_features(self, x: Tensor) -> Tensor:
        """The teacher's pooled features of images x, without a graph."""
        with torch.no_grad():
            return self.teacher(x).pooled.float()

    def attack(
        self, x: Tensor, loss: Callable[..., Tensor], target: Any, when: When, head: nn.Module | None = None
    ) -> Tensor:
        """Images x perturbed to raise `loss(output, target, progress)` [B]; output: the pooled features, or a head's."""

        def output(x: Tensor) -> Tensor:
            pooled = self.encoder(x).pooled.float()
            return pooled if head is None else head(pooled)

        return self.adversary.on(self.encoder, x, against(output, loss, target=target), when)
