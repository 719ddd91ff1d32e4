"""Ensembles to report robustness with: complementary attacks in sequence, cheap ones first, each on the images still robust.

autoattack         classification: APGD-CE, APGD-T, FAB-T, Square (Croce and Hein, ICML 2020), or its plus and rand versions
sea                segmentation: four losses under APGD in shrinking balls (Croce, Singh and Hein, ECCV 2024)
dense_autoattack   ours, for segmentation, depth and detection: losses under APGD in shrinking balls, and a black-box attack
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.attacks.aim import rival
from hardsight.attacks.attack import Attack, Cascade, Single
from hardsight.attacks.quick import quick
from hardsight.attacks.search.apgd import apgd
from hardsight.attacks.search.base import Best, Search, counted
from hardsight.attacks.search.compose import eot, in_each, restarts, stay
from hardsight.attacks.search.fab import fab
from hardsight.attacks.search.shrink import shrinking, split
from hardsight.attacks.search.square import square
from hardsight.attacks.threats.base import Threat, within
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.base import Loss, fits
from hardsight.losses.boxes import dag, detection
from hardsight.losses.classify import RANKED, RANKED_TO, ce, dlr, dlr_to, gap_to, margin, or_else
from hardsight.losses.dense import cospgd_ce, pixel_margin, segpgd_ce
from hardsight.losses.depth import depth_loss, depth_rmse, depth_to, scale_invariant
from hardsight.losses.objective import AttackResult, Objective, against
from hardsight.losses.sea import sea_balanced, sea_js, sea_masked_ce, sea_spherical
from hardsight.losses.tracked import tracked
from hardsight.specs.catalog import register
from hardsight.tasks.base import System, Task


@dataclass(frozen=True)
class EachTarget:
    """A targeted search for each image's most likely wrong classes in order, on the images that are still robust.

    One clean forward pass determines all target classes.
    """

    search: Search
    loss: Loss
    count: int = 9

    @property
    def passes(self) -> int:
        return 1 + self.count * self.search.passes

    def fits(self, task: Task) -> bool:
        return fits(self.loss, task.target)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        with quick(system, x):
            best = Best(x)
            with torch.no_grad():
                clean = system.output(x)
            classes, places = clean.shape[1], torch.arange(len(x), device=x.device)
            for k in range(1, min(self.count, classes - 1) + 1):
                if best.error is not None:
                    places = (best.error < 1).nonzero().flatten()
                if not len(places):
                    break
                label, logits = tree.take(y, places), clean[places]
                pair = rival(k)(lambda _, logits=logits: logits, x[places], label)
                objective = against(system.output, self.loss, system.task.error, pair, label)
                best.add(in_each(self.search, threat)(objective, x[places], threat, rng), places)
        found = best.result()
        return found._replace(queries=found.queries + 1)


@dataclass(frozen=True)
class ByTarget:
    """One attack per kind of target: a single name for the strongest attack on labels, masks, depth maps and boxes."""

    members: dict[str, Attack]

    @property
    def passes(self) -> int:
        return max(member.passes for member in self.members.values())

    def fits(self, task: Task) -> bool:
        return task.target in self.members

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        if system.task.target not in self.members:
            raise SpecError(f"this suite has no attack on a {system.task.target}; it has one on: {', '.join(self.members)}")
        return self.members[system.task.target](system, x, y, threat, rng)


def wide_in_l1(steps: int) -> Search:
    """APGD with early exit; in L1 in balls of 3, 2 and 1 eps, as AutoAttack runs it (Croce and Hein, ICML 2021)."""
    plain = apgd(steps, early_exit=True)
    first, second, last = split(steps)
    wide = shrinking((apgd(first), apgd(second), apgd(last, early_exit=True)), (3.0, 2.0, 1.0), "loss")

    def search(
        objective: Objective, x: Tensor, threat: Threat, rng: torch.Generator | None = None, start: Tensor | None = None
    ) -> AttackResult:
        return (wide if within(threat).norm == "L1" else plain)(objective, x, threat, rng, start)

    return counted(search, wide.passes, gradients=steps)


@register
def autoattack(
    version: Literal["standard", "plus", "rand"] = "standard", steps: int = 100, queries: int = 5000, targets: int = 9
) -> Attack:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square in sequence, each on the images that are still robust.

    plus: adds APGD-DLR and restarts of APGD. rand: APGD-CE and APGD-DLR on the mean of 20 forward passes, for models with
    random outputs. steps: of APGD and FAB. queries: of Square. targets: number of wrong classes that the targeted members
    try.

    Source: Croce and Hein, ICML 2020; for L1, ICML 2021. As there, misclassified images are not attacked. differs: plus
    leaves out untargeted FAB (FAB-T on every wrong class covers it); models with fewer than 4 classes are attacked too, by
    the difference of logits; with fewer wrong classes than `targets`, all of them are tried.
    """
    if steps < 1 or queries < 1 or targets < 1:
        raise SpecError(f"autoattack: steps {steps}, queries {queries} and targets {targets} must be at least 1")
    clean, search, ratio = Single(stay()), wide_in_l1(steps), or_else(dlr(), RANKED, margin())
    apgd_t = EachTarget(search, or_else(dlr_to(), RANKED_TO, gap_to()), targets)
    fab_t = EachTarget(fab(steps, early_exit=True), gap_to(), targets)
    black_box = Single(square(queries + 1), margin())  # AutoAttack does not count the first point
    members: tuple[Attack, ...]
    if version == "rand":
        members = (clean, Single(eot(search, 20), ce()), Single(eot(search, 20), ratio))
    elif version == "plus":
        members = (clean, Single(restarts(search, 5), ce()), Single(restarts(search, 5), ratio), fab_t, black_box, apgd_t)
    else:
        members = (clean, Single(search, ce()), apgd_t, fab_t, black_box)
    return Cascade(members)


@register
def sea(version: Literal["all", "eccv", "preprint"] = "all", steps: int = 300) -> Attack:
    """SEA: complementary losses under APGD in balls of 2, 1.5 and 1 eps; worst case per image, and for the mIoU of the set.

    version: eccv has the losses of the paper (class-balanced, masked and Jensen-Shannon), preprint those of its first
    version (masked, SegPGD's, Jensen-Shannon, spherical), all the four different kinds among them. steps: of each loss.

    Source: Croce, Singh and Hein, ECCV 2024, and arXiv 2306.12941v1; released code of both. differs: the worst case over the
    set is derived from the stored counts (`metrics.worst`); among points with the same error, theirs passes on the last.
    """
    search = _shrunk(steps)
    masked, balanced, js = tracked(sea_masked_ce()), tracked(sea_balanced()), tracked(sea_js())
    spherical = tracked(sea_spherical(), by=sea_spherical(masked=False))
    losses = {
        "all": (balanced, masked, js, spherical),
        "eccv": (balanced, masked, js),
        "preprint": (masked, tracked(segpgd_ce()), js, spherical),
    }
    return Cascade(tuple(Single(search, loss) for loss in losses[version]), keep=True)


@register
def dense_autoattack(steps: int = 100, queries: int = 200) -> Attack:
    """DenseAutoAttack: complementary losses under APGD in shrinking balls, then a black-box attack; worst per image and set.

    steps: of each loss, in balls of 2, 1.5 and 1 eps. queries: of Square, which reveals misleading gradients.
    """
    search, black_box = _shrunk(steps), square(queries, rescale=True)
    mask = (tracked(cospgd_ce()), tracked(sea_balanced()), sea_js(), pixel_margin(5.0))
    depth = (depth_rmse(), depth_loss(), scale_invariant(), depth_to("farther"), depth_to("nearer"))
    boxes = (detection(), detection(boxes=0.0, centre=0.0), tracked(dag(), by=detection()))
    members = {
        "boxes": Cascade((*(Single(search, loss) for loss in boxes), Single(black_box, detection())), keep=True),
        "mask": Cascade((*(Single(search, loss) for loss in mask), Single(black_box, pixel_margin())), keep=True),
        "depth": Cascade(
            (*(Single(search, loss, by_error=True) for loss in depth), Single(black_box, depth_rmse())), keep=True
        ),
        "label": autoattack(steps=steps, queries=queries),
    }
    return ByTarget(members)  # type: ignore[return-value]


def _shrunk(steps: int) -> Search:
    first, second, last = split(steps)
    return shrinking((apgd(first), apgd(second), apgd(last)), (2.0, 1.5, 1.0))
