"""The learner of all joint-embedding methods: views through one network, a criterion over their embeddings.

What distinguishes SimCLR, MoCo, BYOL, SimSiam, Barlow Twins, VICReg, SwAV, DINO and EMP-SSL is the criterion and three
switches: a predictor, a slow copy (`momentum`) and a stopped gradient (`stop`).
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.criteria.base import Criterion
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.errors import SpecError
from hardsight.methods.base import Drawn, Learner, Samples, Step
from hardsight.schedules import Schedule
from hardsight.when import When


class Joint(Learner):
    """predictor: after the projector, of the online branch alone. momentum: of a slow copy, which is then the target branch.

    stop: the target is the online branch itself before its predictor, with its gradient stopped. first: how many views go
    through the target branch, None for all; the rest, small crops, are read by the online branch alone.
    """

    def __init__(
        self, encoder: Encoder, views: Views, criterion: Criterion, projector: nn.Module,
        predictor: nn.Module | None = None, momentum: Schedule | None = None, stop: bool = False, first: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, views)
        if criterion.sees is not None and criterion.sees != views.count:
            raise SpecError(f"{type(criterion).__name__} takes {criterion.sees} views, and these views are {views.count}")
        self.criterion: Any = criterion
        self.projector = projector
        self.predictor = predictor
        self.momentum = momentum
        self.stop = stop
        self.first = first
        self.sees = criterion.sees
        self.slow: nn.ModuleList | None = None
        if momentum is not None:
            self.slow = nn.ModuleList([copy.deepcopy(encoder), copy.deepcopy(projector)]).requires_grad_(False)

    def settle(self) -> None:
        """The slow copy made equal to the online branch: once its weights are drawn."""
        if self.slow is not None:
            self.slow[0].load_state_dict(self.encoder.state_dict())
            self.slow[1].load_state_dict(self.projector.state_dict())

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        projected = through(lambda x: self.projector(self.encoder(x).pooled), views)
        target = None
        if self.slow is not None:
            encoder, projector = self.slow
            with torch.no_grad():
                target = through(lambda x: projector(encoder(x).pooled), views[: self.first])
        elif self.stop:
            target = tuple(z.detach() for z in projected[: self.first])
        online = projected if self.predictor is None else through(self.predictor, projected)
        loss = self.criterion(online, target, samples.target.get("label"), samples.places)
        remember = getattr(self.criterion, "remember", None)
        return Step(loss, getattr(self.criterion, "logs", dict)(), remember(online, target) if remember else None)

    def after_step(self, keep: Any, when: When) -> None:
        if keep is not None:
            self.criterion.keep(keep)
        if self.slow is not None and self.momentum is not None:
            share = self.momentum(when)
            follow(self.slow[0], self.encoder, share)
            follow(self.slow[1], self.projector, share)


def through(network: Any, views: Drawn) -> Drawn:
    """The network's output for each view; neighbours of one size go through it together, as one batch."""
    found: list[Tensor] = []
    for _, group in itertools.groupby(views, lambda view: view.shape):
        together = list(group)
        found += network(torch.cat(together)).chunk(len(together))
    return tuple(found)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, share: float) -> None:
    """Moves slow's weights to share * slow + (1 - share) * fast; buffers, such as batch norm's statistics, are left alone."""
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other.to(one.dtype), 1 - share)
