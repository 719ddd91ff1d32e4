"""An attack inside training: only the perturbed views remain; modes, statistics and gradients are restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core.when import When
from hardsight.losses.objective import Objective, Reading, still
from hardsight.specs.catalog import register
from hardsight.training.criteria.gather import alone
from hardsight.training.methods.base import Drawn

Which = Literal["all", "first", "last"]
Faces = Literal["others", "itself"]


@dataclass(frozen=True)
class Adversary:
    search: Search
    threat: Threat
    mode: Literal["eval", "train"] = "eval"
    buffers: Literal["still", "moved"] = "still"
    which: Which = "all"
    faces: Faces = "others"

    def __call__(
        self, net: nn.Module, views: Drawn, raised: Callable[[Drawn], Tensor], when: When, start: Drawn | None = None
    ) -> Drawn:
        """The views, perturbed within the threat to raise `raised(views)` [B]; small crops are not changed.

        All perturbed views are optimized together: embeddings of one view repel those of another, so the objective couples
        them.
        """
        part = attacked(views, self.which)
        count = part.stop - part.start
        clean = torch.cat(views[part])

        def read(x: Tensor, target: None, progress: float) -> Reading:
            return Reading(raised(facing(views, part, clean, x, self.faces)).repeat(count))

        begun = None if start is None else torch.cat(start[part])
        raising = Objective(read, coupled=True, name="a training loss")
        return put(views, part, self.on(net, clean, raising, when, begun))

    def on(self, net: nn.Module, x: Tensor, objective: Objective, when: When, start: Tensor | None = None) -> Tensor:
        """Images x [B, 3, H, W] perturbed within the threat to raise the objective, which is computed with `net`.

        With several processes each one attacks its own share of the batch, against its own negatives. In train mode batch
        norm couples the images, even where the objective does not.
        """
        if self.mode == "train":
            objective = replace(objective, coupled=True)
        with alone(), attack_mode(net, self.mode, self.buffers):
            return self.search(objective, x, self.threat, when.rng, start).x_adv


def attacked(views: Drawn, which: Which) -> slice:
    """Which views are perturbed: of those of the first one's size, all, the first or the last."""
    size = views[0].shape
    count = next((n for n, view in enumerate(views) if view.shape != size), len(views))
    return {"all": slice(0, count), "first": slice(0, 1), "last": slice(count - 1, count)}[which]


def put(views: Drawn, part: slice, x: Tensor) -> Drawn:
    """The views, with x [views B, ...] in place of those of `part`."""
    return (*views[: part.start], *x.chunk(part.stop - part.start), *views[part.stop :])


def facing(views: Drawn, part: slice, clean: Tensor, x: Tensor, faces: Faces) -> Drawn:
    """The views that an attack compares: x with the other views as they are, or with its own clean view."""
    if faces == "itself":
        size = views[0].shape
        views = tuple(clean.chunk(part.stop - part.start)[-1] if view.shape == size else view for view in views)
    return put(views, part, x)


@contextmanager
def attack_mode(
    net: nn.Module, mode: Literal["eval", "train"], buffers: Literal["still", "moved"] = "still"
) -> Iterator[None]:
    """Within it weights are frozen, `net` is in that mode, and nothing is gathered from other processes; buffers that
    forward passes changed are restored, unless `buffers` is "moved".
    """
    keep = mode == "train" and buffers == "still"
    kept = {name: value.clone() for name, value in net.named_buffers()} if keep else {}
    try:
        with still(net), alone():
            net.train(mode == "train")
            yield
    finally:
        with torch.no_grad():
            for name, value in net.named_buffers():
                if name in kept:
                    value.copy_(kept[name])


@register
def adversary(
    search: Search = pgd(steps=5, step=0.25, keep="last"),
    threat: Threat = linf(8 / 255),
    mode: Literal["eval", "train"] = "eval",
    buffers: Literal["still", "moved"] = "still",
    which: Literal["all", "first", "last"] = "all",
    faces: Literal["others", "itself"] = "others",
) -> Adversary:
    """An attack inside training, which changes no weight's gradient.

    mode: of the network while it is attacked. buffers: whether batch norm statistics are restored after forward passes in
    train mode ("still"), or stay changed, which is the quirk attack_bn=train of released codes. which: of the views with the
    first one's size, those that are perturbed. faces: what a perturbed view is compared with in the attack: the others or,
    the quirk simclr_attack_pair=self, its own clean copy.
    """
    return Adversary(search, threat, mode, buffers, which, faces)
