"""An attack is four independent things: a search, a threat, a loss and an aim. Here three are joined; the threat comes last.

attack(pgd(steps=50), loss=cospgd_ce)                             any search with any loss, at the task's output
attack(pgd(), loss=far_l2, where="embedding", aim=itself)         label-free, in the embedding
attack(apgd(100), loss=dlr_to, aim=rival(3))                      targeted: at the third likeliest wrong class
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hardsight.attacks.aim import Aim, label
from hardsight.attacks.search.base import Best, Search
from hardsight.attacks.search.compose import in_each
from hardsight.attacks.threats.base import Threat
from hardsight.core import tree
from hardsight.core.errors import ShapeError, SpecError
from hardsight.data.feed import check_pixels
from hardsight.losses.base import EMBEDDING, Loss, fits
from hardsight.losses.objective import AttackResult, Objective, against, still
from hardsight.losses.places import Places
from hardsight.specs.catalog import minimal, register
from hardsight.specs.syntax import calls_in, show
from hardsight.tasks.base import System, Task

Where = Literal["output", "pooled", "dense", "embedding"] | int


class Attack(Protocol):
    """What is run against a system: one search, or several in turn.

    passes: how many forward passes an image is in at most (those of a search but the last carry a backward pass too).
    """

    @property
    def passes(self) -> int: ...

    def fits(self, task: Task) -> bool:
        """Whether its losses can be raised at this task."""
        ...

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        """Attacks images x [B, 3, H, W] in [0, 1] with targets y; the system's modes, weights and gradients stay as they were."""
        ...


@dataclass(frozen=True)
class Lab:
    """What an attack may be prepared with, beside the images it will attack.

    train: (images, batch, epoch) -> batches (x, y) of that many training images, shuffled anew in every epoch. other: the
    system of another encoder, by its spec, at the same task.
    """

    system: System
    threat: Threat
    train: Callable[[int, int, int], Iterator[tuple[Tensor, Any]]]
    other: Callable[[str], System]
    rng: torch.Generator


def prepared(attack: Attack, lab: Lab) -> Attack:
    """The attack, ready to be run: what it must know beforehand is found now."""
    prepare = getattr(attack, "prepare", None)
    return attack if prepare is None else prepare(lab)


def on(attack: Any, target: str) -> Attack:
    """What runs on that target ("label", "mask", ...), of a suite that has an attack for each; else the attack itself."""
    members = getattr(attack, "members", None)
    return members.get(target, attack) if isinstance(members, dict) else attack


def searches(attack: Any, target: str) -> Iterator[tuple[Search, int]]:
    """Every search within an attack on that target ("label", "mask", ...), and how often it is run at most."""
    attack = on(attack, target)
    if (search := getattr(attack, "search", None)) is not None:
        yield search, getattr(attack, "count", 1)
    members = getattr(attack, "members", ())
    for part in (*members, *(getattr(attack, name, None) for name in ("first", "second", "attack"))):
        if part is not None and not isinstance(part, str):
            yield from searches(part, target)


def refusal(attack: Attack, threat: Threat, target: str) -> str:
    """Why the attack cannot be run in that threat, in the words of the search that can't; empty where it can."""
    for part in getattr(threat, "parts", (threat,)):
        for search, _ in searches(attack, target):
            try:
                for check in getattr(search, "checks", ()):
                    check(part)
            except SpecError as error:
                return str(error)
    return ""


def seeks_nearest(attack: Attack, threat: Threat, task: Task) -> bool:
    """Whether what it finds tells how small a perturbation fells an image: one FMN or FAB in one ball, run to its end."""
    if not isinstance(attack, Single) or attack.where != "output" or getattr(threat, "parts", ()):
        return False
    return task.target == "label" and getattr(attack.search, "nearest", False)


@dataclass(frozen=True)
class Single:
    """A search, the loss it raises, where that loss reads the system, and what it compares with.

    loss: None is the task's own training loss. where: the task's output, or the encoder's pooled or dense features;
    "embedding" is whichever of the two the task reads, and a number is the map of that layer (-1: the last). harm: whether a
    loss that leads somewhere of its own accord (depth_to) is judged by the harm done to the truth, as a suite's member is.
    """

    search: Search
    loss: Loss | None = None
    where: Where = "output"
    aim: Aim = field(default_factory=label)
    harm: bool = False

    def __post_init__(self) -> None:
        where, aim, loss = self.where, self.aim, self.loss
        if where != "output":
            if not aim.clean:
                raise SpecError(f"an embedding has no label to compare with: attack(..., where={where!r}, aim=itself)")
            if loss is None:
                raise SpecError(
                    f"an attack on the embedding needs a loss, such as far_l2: attack(..., loss=far_l2, where={where!r})"
                )
            if not fits(loss, EMBEDDING):
                raise SpecError(
                    f"{name_of(loss)} reads a task's output, not an embedding; use far_l2 or far_cosine with where={where!r}"
                )
        elif aim.clean != getattr(loss, "clean", False):
            raise SpecError(
                "aim=itself and aim=partner compare what a model makes of images, so they need where='embedding', 'pooled' or "
                "'dense'; at the output there is aim=itself with loss=kl"
                if aim.clean
                else f"{name_of(loss)} compares with the model's own clean output: attack(..., loss={name_of(loss)}, aim=itself)"
            )
        if aim.pair != getattr(loss, "pair", False):
            raise SpecError(
                f"{name_of(loss)} is targeted, so it needs aim={'partner' if aim.clean else 'rival(k) or aim=towards(class)'}"
                if not aim.pair
                else f"{name_of(loss)} only leads away; a targeted aim needs a loss that leads somewhere, such as "
                f"{'near_l2' if aim.clean else 'ce_to or dlr_to'}"
            )
        if getattr(self.search, "signed", False) and not getattr(loss, "signed", False):
            raise SpecError(
                f"{name_of(self.search)} walks to the decision boundary, where its loss must be 0, and {name_of(loss) if loss else 'the task loss'} is not; "
                f"say attack({name_of(self.search)}, loss=margin), or gap_to with aim=rival(k)"
            )
        begins = getattr(self.aim, "spec", None)
        if begins is not None and begins.name == "itself" and _starts_clean(self.search):
            raise SpecError("at the clean image the distance to itself has no gradient; let the search start 'inside'")

    @property
    def passes(self) -> int:
        return self.search.passes + self.aim.passes

    def fits(self, task: Task) -> bool:
        return self.loss is None or fits(self.loss, task.target if self.where == "output" else EMBEDDING)

    def reading(self, system: System, y: Any) -> Callable[[Tensor], Any]:
        """What its loss reads of images x with targets y: the checked output, pooled or dense features, or a layer's map."""
        where = system.task.reads if self.where == "embedding" else self.where
        if isinstance(where, int):
            return lambda x: system.encoder(x, (where,)).layers[0]
        if where == "output":
            return lambda x: shaped(system.output(x), x, y, system.task)
        return system.pooled if where == "pooled" else system.dense

    def objective(self, system: System, x: Tensor, y: Any) -> Objective:
        """What the search raises on images x with targets y; y may be None where the aim needs no label."""
        measured = getattr(system.task, "measured", None)
        y = y if y is None or measured is None else measured(y)
        read = self.reading(system, y)
        loss = self.loss or _named(lambda output, target, progress: system.task.loss(output, target), system.task.name)
        target = self.aim(read, x, y)
        if self.where != "output" or not self.aim.label or (getattr(loss, "wish", False) and not self.harm):
            return against(read, loss, None, target, y)
        if self.aim.reach:
            return against(read, loss, lambda output, wanted: 1 - system.task.error(output, wanted), target, target[1])
        return against(read, loss, system.task.error, target, y)

    def __call__(
        self,
        system: System,
        x: Tensor,
        y: Any,
        threat: Threat,
        rng: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> AttackResult:
        """start: where to begin, in place of the search's own start."""
        check_pixels(x)
        if not self.fits(system.task):
            raise SpecError(f"{name_of(self.loss)} does not read a {system.task.target}, which {system.task.name} has")
        with still(system.encoder, system.head):
            return in_each(self.search, threat)(self.objective(system, x, y), x, threat, rng, start)


@dataclass(frozen=True)
class Warm:
    """Two attacks in turn on all images: the second begins at what the first found."""

    first: Attack
    second: Single

    @property
    def passes(self) -> int:
        return self.first.passes + self.second.passes

    def fits(self, task: Task) -> bool:
        return self.first.fits(task) and self.second.fits(task)

    def prepare(self, lab: Lab) -> Warm:
        return replace(self, first=prepared(self.first, lab))

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        before = self.first(system, x, y, threat, rng)
        found = self.second(system, x, y, threat, rng, before.x_adv)
        return found._replace(
            queries=found.queries + before.queries, flat=found.flat + before.flat, halted=found.halted | before.halted
        )


@dataclass(frozen=True)
class Cascade:
    """Attacks in turn, each on the images that still stand (error below 1 at the task's output); the best point of all.

    keep: whether the result has each member's own points too, for a data set's worst case.
    """

    members: tuple[Attack, ...]
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.members:
            raise SpecError("cascade needs at least one attack: cascade([pgd(20), segpgd])")
        for member in self.members:
            if getattr(getattr(member, "loss", None), "coupled", False):
                raise SpecError(
                    f"{name_of(member.loss)} couples the images of a batch, so it cannot be one of a cascade, "  # type: ignore[attr-defined]
                    "whose members see the images that still stand; run it alone"
                )

    @property
    def passes(self) -> int:
        return sum(member.passes + 1 for member in self.members)

    def prepare(self, lab: Lab) -> Cascade:
        return replace(self, members=tuple(prepared(member, lab) for member in self.members))

    def fits(self, task: Task) -> bool:
        return all(member.fits(task) for member in self.members)

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        check_pixels(x)
        best, members = Best(x), []
        places = torch.arange(len(x), device=x.device)
        with still(system.encoder, system.head):
            for place, member in enumerate(self.members):
                if best.error is not None:
                    places = (best.error < 1).nonzero().flatten()
                if not len(places):
                    if not self.keep:
                        break
                    members.append((f"{place} {_written(member)}", best.x_adv))
                    continue
                part = tree.take(y, places)
                found = member(system, x[places], part, threat, rng)
                with torch.no_grad():
                    output = system.output(found.x_adv)
                    judged = found._replace(
                        loss=system.task.loss(output, part), error=system.task.error(output, part), queries=found.queries + 1
                    )
                best.add(judged, places)
                if self.keep:
                    points = best.x_adv.clone()
                    points[places] = found.x_adv.to(points.dtype)
                    members.append((f"{place} {_written(member)}", points))
        return best.result()._replace(members=tuple(members))


def shaped(output: Any, x: Tensor, y: Any, task: Task) -> Any:
    """The output as it is; `ShapeError`, with both shapes, where it can't answer images x of a batch that has targets y."""
    if task.target == "boxes" and not (isinstance(output, Places) and len(output) == len(x)):
        told = getattr(output, "classes", output)
        what = f"{type(output).__name__} {list(told.shape)}" if isinstance(told, Tensor) else type(output).__name__
        raise ShapeError(
            f"{task.name}: the model returns {what} for images {list(x.shape)}; it should return Places of classes [{len(x)}, P, K]"
        )
    if not isinstance(output, Tensor) or not isinstance(y, Tensor):
        return output
    count, place = len(x), list(y.shape[1:])
    wanted = {"label": [count, "K"], "mask": [count, "K", *place], "depth": [count, *place]}.get(task.target, [count])
    fits = len(output.shape) >= len(wanted) and all(
        want in ("K", have) for want, have in zip(wanted, output.shape, strict=False)
    )
    if not fits or (len(wanted) > 1 and output.dim() != len(wanted)):
        raise ShapeError(
            f"{task.name}: the model returns {list(output.shape)} for images {list(x.shape)}; "
            f"it should return [{', '.join(map(str, wanted))}]"
        )
    if task.target == "label" and len(y) and int(y.max()) >= output.shape[1]:
        raise ShapeError(
            f"{task.name}: the model tells {output.shape[1]} classes apart, and a target is class {int(y.max())}"
        )
    return output


def name_of(thing: Any) -> str:
    """The name it was registered under, or what Python calls it."""
    return getattr(getattr(thing, "spec", None), "name", None) or getattr(thing, "__name__", type(thing).__name__)


def _written(member: Attack) -> str:
    """What tells a suite's member from the others: its loss, or its own name, and its search where that sees no gradient."""
    loss, search = getattr(member, "loss", None), getattr(member, "search", None)
    spec = getattr(loss or member, "spec", None)
    text = show(minimal(spec)) if spec is not None else name_of(loss or member)
    return f"{text} by {name_of(search)}" if search is not None else text


def _named(loss: Any, name: str) -> Any:
    loss.name = f"the {name} task's own loss"
    return loss


def _starts_clean(search: Search) -> bool:
    return any(call.get("start") == "clean" for call in calls_in(getattr(search, "spec", None)))


@register
def attack(
    search: Search,
    loss: Loss | None = None,
    where: Literal["output", "pooled", "dense", "embedding"] | int = "output",
    aim: Aim = label(),
) -> Attack:
    """Any search with any loss; the task's own loss at its output unless said otherwise.

    where: what the loss reads; "embedding" is the features the task reads, and a number is the map of that layer.
    """
    return Single(search, loss, where, aim)


@register
def warm(first: Attack, second: Attack) -> Attack:
    """The second attack, begun where the first has led: warm(embed, segpgd) lets a label-free attack find the way in."""
    if not isinstance(second, Single):
        raise SpecError(f"warm hands a start to one search, and {name_of(second)} is several; name attack(search, loss=...)")
    if any(call.name == "restarts" for call in calls_in(getattr(second.search, "spec", None))):
        raise SpecError("warm hands all restarts one start, so that they repeat the first; let the first attack restart")
    return Warm(first, second)


@register
def cascade(members: tuple[Attack, ...], keep: bool = False) -> Attack:
    """Attacks in turn, each on the images that still stand, and the best point of all.

    keep: also store each member's own outcome, so that a data set's worst case (mIoU) can be put together from them.
    """
    return Cascade(members, keep)
