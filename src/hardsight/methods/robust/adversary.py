"""An attack inside training: what it finds is all it leaves; modes, statistics and gradients are as they were before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.methods.base import Drawn
from hardsight.objective import Objective, Reading, still
from hardsight.search.base import Search
from hardsight.search.pgd import pgd
from hardsight.threats.base import Threat
from hardsight.threats.linf import linf
from hardsight.when import When


@dataclass(frozen=True)
class Adversary:
    search: Search
    threat: Threat
    mode: Literal["eval", "train"]

    def __call__(
        self, net: nn.Module, views: Drawn, raised: Callable[[Drawn], Tensor], when: When, start: Drawn | None = None
    ) -> Drawn:
        """The views, moved within the threat so that `raised(views)` [B] grows; small crops are left as they are.

        The views of the first one's size are moved, together: embeddings of one view repel those of another, so the
        objective couples them all.
        """
        size = views[0].shape
        moved = sum(view.shape == size for view in views)
        rest = views[moved:]

        def read(x: Tensor, target: None, progress: float) -> Reading:
            return Reading(raised((*x.chunk(moved), *rest)).repeat(moved))

        begun = None if start is None else torch.cat(start[:moved])
        raising = Objective(read, coupled=True, name="a training loss")
        return (*self.on(net, torch.cat(views[:moved]), raising, when, begun).chunk(moved), *rest)

    def on(self, net: nn.Module, x: Tensor, objective: Objective, when: When, start: Tensor | None = None) -> Tensor:
        """Images x [B, 3, H, W] moved within the threat so that the objective, a reading of `net`, grows."""
        with as_judged(net, self.mode):
            return self.search(objective, x, self.threat, when.rng, start).x_adv


@contextmanager
def as_judged(net: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """Weights frozen within, in that mode; in train mode, the buffers that its passes moved are put back."""
    kept = {name: value.clone() for name, value in net.named_buffers()} if mode == "train" else {}
    with still(net):
        net.train(mode == "train")
        yield
    with torch.no_grad():
        for name, value in net.named_buffers():
            if name in kept:
                value.copy_(kept[name])


@register
def adversary(
    search: Search = pgd(steps=5, step=0.25, keep="last"),
    threat: Threat = linf(8 / 255),
    mode: Literal["eval", "train"] = "eval",
) -> Adversary:
    """An attack inside training; mode: the network's while it is attacked. Batch norm's statistics are never moved by it."""
    return Adversary(search, threat, mode)
