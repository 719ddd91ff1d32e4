"""The learner of all joint-embedding methods: views go through one network, and a criterion compares their embeddings.

SimCLR, MoCo, BYOL, SimSiam, Barlow Twins, VICReg, SwAV, DINO and EMP-SSL differ in the criterion and in three switches: a
predictor, a momentum network (`momentum`) and a stopped gradient (`stop`).
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.specs.schedules import Schedule
from hardsight.training.criteria.base import Criterion
from hardsight.training.methods.base import Drawn, Learner, Samples, Step


class Joint(Learner):
    """predictor: after the projector, online branch only. momentum: of a momentum network, which is then the target branch.

    stop: the target is the online branch itself before its predictor, with its gradient stopped. first: how many views go
    through the target branch, None for all; the rest, small crops, go through the online branch only. apart: the online
    branch leaves out the views that the target branch gets. late: a part whose weights are frozen in the first `resting`
    epochs.

    differs: views of one size go through a network as one batch, so batch norm computes its statistics over all of them
    together, where the authors' codes, except SimCLR's, SwAV's and DINO's, process one view after the other.
    """

    def __init__(
        self, encoder: Encoder, views: Views, criterion: Criterion, projector: nn.Module,
        predictor: nn.Module | None = None, momentum: Schedule | None = None, stop: bool = False, first: int | None = None,
        apart: bool = False, late: nn.Module | None = None, resting: int = 1,
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
        self.apart = apart
        self.resting = resting
        self.late = [] if late is None else list(late.parameters())
        self.sees = criterion.sees
        self.slow: nn.ModuleList | None = None
        if momentum is not None:
            self.slow = nn.ModuleList([copy.deepcopy(encoder), copy.deepcopy(projector)]).requires_grad_(False)
        heads = [part for head in (projector, predictor) if head is not None for part in head.modules()]
        self.normed = any(isinstance(part, nn.BatchNorm1d) for part in heads)

    def settle(self) -> None:
        """Copies the online branch's weights to the momentum network: after they are initialized."""
        if self.slow is not None:
            self.slow[0].load_state_dict(self.encoder.state_dict())
            self.slow[1].load_state_dict(self.projector.state_dict())

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        name = type(self.criterion).__name__
        if self.training and self.normed and len(views[0]) < 2:
            raise SpecError(f"{name}: batch norm in the projector needs a batch of at least 2, and this one has 1 image")
        projected = embedded(self.encoder, self.projector, views[self.first :] if self.apart else views)
        target = None
        if self.slow is not None:
            with torch.no_grad():
                target = embedded(self.slow[0], self.slow[1], views[: self.first])
        elif self.stop:
            target = tuple(z.detach() for z in projected[: self.first])
        online = projected if self.predictor is None else through(self.predictor, projected)
        with torch.autocast(online[0].device.type, enabled=False):
            online = tuple(single(z) for z in online)
            target = None if target is None else tuple(single(z) for z in target)
            criterion = self.criterion.at(when) if hasattr(self.criterion, "at") else self.criterion
            loss = criterion(online, target, samples.target.get("label"), samples.places)
            remember = getattr(self.criterion, "remember", None)
            keep = remember(online, target) if remember else None
        return Step(loss, getattr(self.criterion, "logs", dict)(), keep)

    def after_backward(self, when: When) -> None:
        if when.epoch < self.resting:
            for parameter in self.late:
                parameter.grad = None

    def after_step(self, keep: Any, when: When) -> None:
        if keep is not None:
            self.criterion.keep(keep)
        if self.slow is not None and self.momentum is not None:
            share = self.momentum(when)
            follow(self.slow[0], self.encoder, share)
            follow(self.slow[1], self.projector, share)


def embedded(encoder: Any, projector: Any, views: Drawn) -> Drawn:
    """Each view's projection [B, D]; the projector gets views of all sizes together."""
    return through(projector, through(lambda x: encoder(x).pooled, views))


def single(z: Tensor) -> Tensor:
    """z in float32 if it is in half precision."""
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


def through(network: Any, views: Drawn) -> Drawn:
    """The network's output for each view; consecutive views of one size go through it together, as one batch."""
    found: list[Tensor] = []
    for _, group in itertools.groupby(views, lambda view: view.shape):
        together = list(group)
        found += network(torch.cat(together)).chunk(len(together))
    return tuple(found)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, share: float) -> None:
    """Moves slow's weights to share * slow + (1 - share) * fast; buffers, such as batch norm statistics, are not changed."""
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other.to(one.dtype), 1 - share)
