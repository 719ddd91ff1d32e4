"""An attack has four independent parts: search, threat, loss and aim. Three are combined here; the threat is passed later.

attack(pgd(steps=50), loss=cospgd_ce)                             any search with any loss, on the task's output
attack(pgd(), loss=far_l2, where="embedding", aim=itself)         label-free, on the embedding
attack(apgd(100), loss=dlr_to, aim=rival(3))                      targeted at the third most likely wrong class
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hardsight.attacks.aim import Aim, label
from hardsight.attacks.inputs import checked, greatest_class, shaped, target_of
from hardsight.attacks.quick import quick
from hardsight.attacks.search.base import Best, Search
from hardsight.attacks.search.compose import adaptive, in_each
from hardsight.attacks.search.minimal import check_loss, share_of
from hardsight.attacks.targets import arrived, judged
from hardsight.attacks.threats.base import Threat
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.base import EMBEDDING, Loss, fits
from hardsight.losses.objective import AttackResult, Objective, against, still
from hardsight.specs.catalog import minimal, register
from hardsight.specs.syntax import calls_in, show
from hardsight.tasks.base import System, Task

Where = Literal["output", "pooled", "dense", "embedding"] | int


class Attack(Protocol):
    """What is run against a system: one search, or several in sequence.

    passes: maximum number of forward passes per image (all but the last one of a search also have a backward pass).
    """

    @property
    def passes(self) -> int: ...

    def fits(self, task: Task) -> bool:
        """Whether its losses can be used for this task."""
        ...

    def __call__(
        self, system: System, x: Tensor, y: Any, threat: Threat, rng: torch.Generator | None = None
    ) -> AttackResult:
        """Attacks images x [B, 3, H, W] in [0, 1] with targets y; the system's modes, weights, gradients are unchanged.

        x_adv is float32 also for images in fp16 or bf16, in which a point on the surface of a ball would be rounded out of
        it. Raises `DataError` for images and targets, and `ShapeError` for outputs, that cannot be attacked.
        """
        ...


@dataclass(frozen=True)
class Lab:
    """What an attack can use for its preparation, in addition to the images that it will attack.

    train: (images, batch, epoch) -> batches (x, y) of that many training images, reshuffled in every epoch. other: returns
    the system of another encoder, given by its spec, for the same task.
    """

    system: System
    threat: Threat
    train: Callable[[int, int, int], Iterator[tuple[Tensor, Any]]]
    other: Callable[[str], System]
    rng: torch.Generator


def prepared(attack: Attack, lab: Lab) -> Attack:
    """The attack, ready to run: anything that it must compute beforehand is computed now."""
    prepare = getattr(attack, "prepare", None)
    return attack if prepare is None else prepare(lab)


def on(attack: Any, target: str) -> Attack:
    """The attack on that target ("label", "mask", ...) of a suite that has one for each; for any other attack, itself."""
    members = getattr(attack, "members", None)
    return members.get(target, attack) if isinstance(members, dict) else attack


def searches(attack: Any, target: str) -> Iterator[tuple[Search, int]]:
    """Every search within an attack on that target ("label", "mask", ...), with the maximum number of times that it runs."""
    attack = on(attack, target)
    if (search := getattr(attack, "search", None)) is not None:
        yield search, getattr(attack, "count", 1)
    members = getattr(attack, "members", ())
    for part in (*members, *(getattr(attack, name, None) for name in ("first", "second", "attack"))):
        if part is not None and not isinstance(part, str):
            yield from searches(part, target)


def refusal(attack: Attack, threat: Threat, target: str) -> str:
    """Why the attack cannot run in that threat, as the error message of the search that cannot; empty if it can."""
    for part in getattr(threat, "parts", (threat,)):
        for search, _ in searches(attack, target):
            try:
                for check in getattr(search, "checks", ()):
                    check(part)
            except SpecError as error:
                return str(error)
    return ""


def misfit(attack: Any, target: str, count: int) -> str:
    """Why the attack on that target cannot run on a batch of `count` images, which it relates to each other; empty if it can."""
    attack = on(attack, target)
    shift = getattr(getattr(attack, "aim", None), "shift", 0)
    if shift and shift % count == 0:
        return f"partner(shift={shift}) in a batch of {count} makes each image its own partner"
    if count == 1 and _coupled(attack):
        return f"{name_of(attack.loss)} compares the images of a batch, and this one has one image"
    parts = (
        *getattr(attack, "members", ()),
        *(getattr(attack, name, None) for name in ("first", "second", "attack", "single")),
    )
    found = (misfit(part, target, count) for part in parts if part is not None and not isinstance(part, str))
    return next(filter(None, found), "")


def _coupled(attack: Any) -> bool:
    return getattr(getattr(attack, "loss", None), "coupled", False)


def seeks_nearest(attack: Attack, threat: Threat, task: Task) -> bool:
    """Whether the attack finds minimal perturbations (of masks, of a share of pixels): one such search in a single ball."""
    if not isinstance(attack, Single) or attack.where != "output" or getattr(threat, "parts", ()):
        return False
    kinds = ("label", "mask") if share_of(attack.search) < 1 else ("label",)
    return task.target in kinds and getattr(attack.search, "minimal", False)


@dataclass(frozen=True)
class Single:
    """A search, the loss that it maximizes, where that loss reads the system, and the aim that it compares with.

    loss: None is the task's own training loss. where: the task's output, or the encoder's pooled or dense features;
    "embedding" is the one of the two that the task uses, and a number is the feature map of that layer (-1: the last).
    by_error: whether a loss with its own target (depth_to) is evaluated by the task error, as for a member of a suite.
    """

    search: Search
    loss: Loss | None = None
    where: Where = "output"
    aim: Aim = field(default_factory=label)
    by_error: bool = False

    def __post_init__(self) -> None:
        where, aim, loss = self.where, self.aim, self.loss
        if where != "output":
            if not aim.clean:
                raise SpecError(f"an embedding has no label to compare with; use attack(..., where={where!r}, aim=itself)")
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
                "aim=itself and aim=partner compare embeddings, so they need where='embedding', 'pooled' or 'dense'; "
                "on the output, use aim=itself with loss=kl"
                if aim.clean
                else f"{name_of(loss)} compares with the model's own clean output; use it with aim=itself"
            )
        if aim.pair != getattr(loss, "pair", False):
            raise SpecError(
                f"{name_of(loss)} is targeted and needs aim={'partner' if aim.clean else 'rival(k) or aim=towards(class)'}"
                if not aim.pair
                else f"{name_of(loss)} is untargeted, but this aim is targeted and needs a targeted loss, such as "
                f"{'near_l2' if aim.clean else 'ce_to or dlr_to'}"
            )
        names = name_of(self.search), name_of(loss) if loss else "the task loss"
        check_loss(self.search, loss, names, judged=where == "output" and aim.label)
        begins = getattr(self.aim, "spec", None)
        if begins is not None and begins.name == "itself" and _starts_clean(self.search):
            raise SpecError("the distance to the clean output has no gradient at the clean image; use start='inside'")

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
            most = greatest_class(y, system.task)
            return lambda x: shaped(system.output(x), x, y, system.task, most)
        return system.pooled if where == "pooled" else system.dense

    def objective(self, system: System, x: Tensor, y: Any) -> Objective:
        """What the search maximizes on images x with targets y; y may be None if the aim needs no label."""
        measured = getattr(system.task, "measured", None)
        y = target_of(y, x, system.task)
        y = y if y is None or measured is None else measured(y)
        wanted = self.aim.wanted if isinstance(y, Tensor) else None
        read = self.reading(system, torch.maximum(y, wanted(y)) if wanted else y)  # both must be classes of the model
        loss = self.loss or _named(lambda output, target, progress: system.task.loss(output, target), system.task.name)
        target = self.aim(read, x, y)
        if self.where != "output" or not self.aim.label or (getattr(loss, "own_target", False) and not self.by_error):
            return against(read, loss, None, target, y)
        if self.aim.wanted is not None:
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
        """start: where to start, instead of the search's own start."""
        x, y = checked(x, y, system.task)
        if not self.fits(system.task):
            raise SpecError(f"{name_of(self.loss)} does not read a {system.task.target}, the target of {system.task.name}")
        search, exact = adaptive(self.search, system.encoder), getattr(self.search, "minimal", False)
        with still(system.encoder, system.head) if exact else quick(system, x):  # on a boundary rounding decides
            found = in_each(search, threat)(self.objective(system, x, y), x, threat, rng, start)
            return found if self.aim.wanted is None else arrived(found, self, system, x, y)


@dataclass(frozen=True)
class Warm:
    """Two attacks in sequence on all images: the second starts from the result of the first."""

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
    """Attacks in sequence, each on the images still robust (error below 1 at the task's output); keeps the best points.

    keep: whether the result also contains each member's own points, for the worst case over a data set.
    """

    members: tuple[Attack, ...]
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.members:
            raise SpecError("cascade needs at least one attack: cascade([pgd(20), segpgd])")
        for member in self.members:
            shift = getattr(getattr(member, "aim", None), "shift", 0)
            if shift or _coupled(member):
                raise SpecError(
                    f"{'partner' if shift else name_of(member.loss)} couples the images of a batch, so it cannot be in a cascade, "  # type: ignore[attr-defined]
                    "whose members only attack the images that are still robust; run it alone"
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
        x, y = checked(x, y, system.task)
        with quick(system, x):
            best, members, (counted, left_out) = Best(x), [], judged(self, y)
            places = torch.arange(len(x), device=x.device)
            for place, member in enumerate(self.members):
                if best.error is not None:
                    places = (best.error < 1).nonzero().flatten()
                if not len(places):
                    if not self.keep:
                        break
                    members.append((f"{place} {_label(member)}", best.x_adv))
                    continue
                part = tree.take(counted, places)
                found = member(system, x[places], tree.take(y, places), threat, rng)
                with torch.no_grad():
                    output = system.output(found.x_adv)
                    evaluated = found._replace(
                        loss=system.task.loss(output, part), error=system.task.error(output, part), queries=found.queries + 1
                    )
                best.add(evaluated, places)
                if self.keep:
                    points = best.x_adv.clone()
                    points[places] = found.x_adv.to(points.dtype)
                    members.append((f"{place} {_label(member)}", points))
        return best.result()._replace(members=tuple(members), left_out=left_out)


def name_of(thing: Any) -> str:
    """The name it was registered under, or its Python name."""
    return getattr(getattr(thing, "spec", None), "name", None) or getattr(thing, "__name__", type(thing).__name__)


def _label(member: Attack) -> str:
    """What distinguishes a suite's member from the others: its loss or its own name, and its search if it has one."""
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
    """Any search with any loss; by default the task's own loss on its output.

    where: what the loss reads; "embedding" is the features that the task uses, and a number is the feature map of that
    layer.
    """
    return Single(search, loss, where, aim)


@register
def warm(first: Attack, second: Attack) -> Attack:
    """The second attack, started from the result of the first: warm(embed, segpgd) starts with a label-free attack."""
    if not isinstance(second, Single):
        raise SpecError(
            f"warm passes a start to one search, but {name_of(second)} has several; use attack(search, loss=...)"
        )
    if any(call.name == "restarts" for call in calls_in(getattr(second.search, "spec", None))):
        raise SpecError("warm passes one start to all restarts, so they would all be equal; restart the first attack")
    return Warm(first, second)


@register
def cascade(members: tuple[Attack, ...], keep: bool = False) -> Attack:
    """Attacks in sequence, each on the images that are still robust; keeps the best point of all.

    keep: also store each member's own results, so that the worst case over a data set (mIoU) can be computed from them.
    """
    return Cascade(members, keep)
