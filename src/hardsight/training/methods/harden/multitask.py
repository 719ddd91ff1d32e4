"""Multitask hardening: the whole encoder is held where its teacher was, at every place that a task reads, under every task's attack.

DeACL and FARE hold the pooled features alone. What a task attack moves may be elsewhere: in tokens that no loss looked at, or in a
direction that matters little to a distance and much to a linear head. So here

    loss = firm + clean near,  each the sum over places of the mean squared scaled difference to the teacher's clean features,
                               and `heads` times the shift of the answers that linear heads read off the student

firm of attacked images, near of clean ones; images are attacked by all of these at once, or each by one of them, drawn anew in
every step. Maps are looked at in some of their cells, other ones in each step. The cost is one attack and one pass, as FARE's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.feed import choose, load, pixels
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder, Features
from hardsight.losses.objective import Objective, Reading, still
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.harden.answers import Answers, Kind, Place, rows_of, truth_of
from hardsight.training.methods.harden.base import Hardened
from hardsight.training.methods.robust.adversary import Adversary, adversary

BATCH, ROWS, CELLS = 100, 20_000, 64
"""Images that `prepare` reads at once; rows of features, about, that it keeps of a place; cells of a map that a step looks at."""
TARGET: dict[Kind, str] = {"classify": "label", "segment": "mask", "depth": "depth"}
Mapped = dict[str, Tensor]
Corner = tuple[float, float]
"""Where a step begins to look at maps, row and column, as shares of the distance between the cells it looks at."""


class Plan(NamedTuple):
    """The fixed choices of a run; see `multitask`."""

    attacks: tuple[str, ...]
    layers: tuple[int, ...]
    mix: str
    heads: float
    clean: float
    truth: tuple[Kind, ...]
    images: int
    threats: tuple[Threat, ...]


class Held(Hardened):
    """places and answers are of the teacher, found by `prepare`."""

    ready: Tensor

    def __init__(
        self, encoder: Encoder, views: Views, adversary: Adversary, plan: Plan,
        places: dict[str, Place], answers: dict[str, Answers],
    ) -> None:  # fmt: skip
        super().__init__(encoder, views, adversary)
        self.plan = plan
        self.places: Any = nn.ModuleDict(places)
        self.answers: Any = nn.ModuleDict(answers)
        self.register_buffer("ready", torch.zeros(1))

    @torch.no_grad()
    def prepare(self, images: Images) -> None:
        """One pass of the teacher over the images that are measured."""
        device, rows, truth = self.encoder.mean.device, {}, {}
        chosen = choose(images, self.plan.images)
        for start in range(0, len(chosen), BATCH):
            batch = load(images, chosen[start : start + BATCH])
            maps = self._maps(self.teacher(pixels(batch.images, device), self.plan.layers))
            kept = {name: _some(one, ROWS // len(chosen)) for name, one in maps.items()}
            for name, one in maps.items():
                rows.setdefault(name, []).append(rows_of(one)[kept[name]])
            for kind in self.plan.truth:
                reads, outputs = _reads(kind), self.answers[kind].weight.shape[1]
                grid = tuple(maps[reads].shape[2:])
                found = truth_of(kind, batch.target[TARGET[kind]].to(device), outputs, grid)  # type: ignore[arg-type]
                truth.setdefault(kind, []).append(found[kept[reads]])
        joined = {name: torch.cat(parts) for name, parts in rows.items()}
        for name, place in self.places.items():
            place.measure(joined[name])
        for kind, answers in self.answers.items():
            features = joined[_reads(kind)]
            if kind in truth:
                answers.solve(features, torch.cat(truth[kind]))
            else:
                answers.guess(features, self.places[_reads(kind)](features))
        self.ready.fill_(1)

    def forward(self, samples: Samples, when: When) -> Step:
        if not bool(self.ready):
            raise SpecError("multitask: its heads are not fitted; the learner's `prepare` does, before the first step")
        (x,) = self.draw(samples, when)
        corner = (float(torch.rand((), generator=when.rng)), float(torch.rand((), generator=when.rng)))
        with torch.no_grad():
            wanted = self._maps(self.teacher(x, self.plan.layers), corner)
            answered = {kind: self.answers[kind](wanted[_reads(kind)]) for kind in self.answers}
        x_adv = self.moved(x, wanted, answered, corner, when)
        seen = self._maps(self.encoder(torch.cat([x_adv, x]) if self.plan.clean else x_adv, self.plan.layers), corner)
        firm = self._kept({name: one[: len(x)] for name, one in seen.items()}, wanted, answered)
        loss = torch.stack(list(firm.values())).sum()
        logs = {f"firm {name}": float(value.detach()) for name, value in firm.items()}
        if self.plan.clean:
            near = self._kept({name: one[len(x) :] for name, one in seen.items()}, wanted, answered)
            loss = loss + self.plan.clean * torch.stack(list(near.values())).sum()
            logs |= {f"near {name}": float(value.detach()) for name, value in near.items()}
        return Step(loss, logs)

    def moved(self, x: Tensor, wanted: Mapped, answered: Mapped, corner: Corner, when: When) -> Tensor:
        """Images x, each attacked by its own one of the losses, or by their sum."""
        kinds = self.plan.attacks
        which = (when.uniform(len(x)) * len(kinds)).long().clamp_max(len(kinds) - 1).to(x.device)
        share = F.one_hot(which, len(kinds)).float()
        if self.plan.mix == "joint":
            share = torch.ones_like(share)
        adversary = self.adversary
        if self.plan.threats:
            place = int(torch.randint(len(self.plan.threats), (1,), generator=when.rng))
            adversary = replace(adversary, threat=self.plan.threats[place])
        target = {"share": share, "wanted": wanted, "answered": answered}

        def read(x: Tensor, target: dict[str, Any], progress: float) -> Reading:
            maps = self._maps(self.encoder(x, self.plan.layers), corner)
            raised = [self._raised(kind, maps, target["wanted"], target["answered"]) for kind in kinds]
            return Reading((torch.stack(raised, 1) * target["share"]).sum(1))

        return adversary.on(self.encoder, x, Objective(read, target, name="multitask's attacks"), when)

    def _raised(self, kind: str, maps: Mapped, wanted: Mapped, answered: Mapped) -> Tensor:
        if kind in self.places:
            return self.places[kind].gap(maps[kind], wanted[kind])
        answers: Any = self.answers[kind]
        return answers.wrong(answers(maps[_reads(kind)]), answered[kind])

    def _kept(self, maps: Mapped, wanted: Mapped, answered: Mapped) -> Mapped:
        """Each term's mean over the batch, by its name."""
        found = {name: place.gap(maps[name], wanted[name]).mean() for name, place in self.places.items()}
        if self.plan.heads:
            for kind, answers in self.answers.items():
                shift = answers.shift(answers(maps[_reads(kind)]), answered[kind])
                found[kind] = self.plan.heads * shift.mean()
        return found

    def _maps(self, features: Features, corner: Corner | None = None) -> Mapped:
        """The features by the places' names; with a corner, of each map every so many cells from there on."""
        layers = {f"layer {n}": one for n, one in zip(self.plan.layers, features.layers, strict=True)}
        found = {"pooled": features.pooled, "dense": features.dense, **layers}
        return {name: _thin(one, corner) for name, one in found.items() if one is not None and name in self.places}


def _thin(features: Tensor, corner: Corner | None) -> Tensor:
    if features.dim() == 2 or corner is None:
        return features
    every = max(1, math.isqrt(features[0, 0].numel() // CELLS))
    return features[:, :, int(corner[0] * every) :: every, int(corner[1] * every) :: every]


def _reads(kind: str) -> str:
    return "pooled" if kind == "classify" else "dense"


def _some(features: Tensor, cells: int) -> Tensor:
    """Positions among `rows_of(features)`: about so many an image, spread over the grid."""
    count = features[0, 0].numel()
    every = max(1, count // max(1, cells)) | 1  # odd, or it would come down in the same columns
    return torch.arange(0, len(features) * count, every if count > 1 else 1, device=features.device)


@dataclass(frozen=True)
class Multitask:
    adversary: Adversary
    plan: Plan
    labels: bool
    prototypes: int
    shrink: float
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        plan = self.plan
        kinds: list[Kind] = [kind for kind in TARGET if kind in plan.attacks]
        wide = {"pooled": encoder.card.dim}
        if any(name != "pooled" and name != "classify" for name in plan.attacks) and not encoder.card.dense_dim:
            raise SpecError(
                f"multitask: {encoder.card.name} has no dense features; attacks=('pooled', 'classify') needs none, or fare"
            )
        if encoder.card.dense_dim:
            wide["dense"] = encoder.card.dense_dim
        wide |= {f"layer {n}": dim for n, dim in zip(plan.layers, _widths(encoder, plan.layers), strict=True)}
        known = {"classify": len(data.classes), "segment": len(data.mask_classes), "depth": 1}
        truth = tuple(kind for kind in kinds if self.labels and TARGET[kind] in data.targets and known[kind])
        if self.labels and kinds and not truth:
            raise SpecError(
                f"multitask: labels=True, and {data.name} tells none of {', '.join(TARGET[kind] for kind in kinds)}"
            )
        places = {name: Place(dim, self.shrink) for name, dim in wide.items()}
        answers: dict[str, Answers] = {}
        for kind in kinds:
            outputs = 1 if kind == "depth" else known[kind] if kind in truth else self.prototypes
            answers[kind] = Answers(kind, wide[_reads(kind)], outputs)
        return Held(encoder, self.views, self.adversary, plan._replace(truth=truth), places, answers)


def _widths(encoder: Encoder, layers: tuple[int, ...]) -> list[int]:
    """Channels of these layers' maps, read off one grey image."""
    grey = torch.full((1, 3, encoder.card.size, encoder.card.size), 0.5, device=encoder.mean.device)
    with torch.no_grad(), still(encoder):
        return [one.shape[1] for one in encoder(grey, layers).layers]


@register
def multitask(
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    clean: float = 0.0,
    heads: float = 4.0,
    attacks: tuple[str, ...] = ("pooled", "dense", "classify", "segment", "depth"),
    layers: tuple[int, ...] = (),
    labels: bool = False,
    prototypes: int = 20,
    shrink: float = 1.0,
    mix: Literal["joint", "split"] = "joint",
    images: int = 2000,
    threats: tuple[Threat, ...] = (),
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """Hardens pooled features, tokens and chosen layers at once, under embedding, classification, segmentation and depth attacks.

    clean: weight of the clean images' terms beside the attacked ones', 0 saves their pass. heads: of the answers' shift beside
    the distances, 0 for distances alone. attacks: which losses the inner attack raises: the distance at "pooled", "dense" or a
    "layer n" of `layers`, and the losses of the "classify", "segment" and "depth" heads. labels: whether those are fitted to the
    data's labels, masks and depths, as far as it has them; without, they tell `prototypes` clusters of the teacher's features
    apart, and depth is their loudest direction. shrink: of the channels' scales (`Place`). mix: "joint" raises the sum of the
    attacks' losses, "split" gives each image one of them. images: how many training images, at most, heads and scales are found
    on. threats: one of them is drawn for each step, in place of the adversary's own.

    Source: this package's own, after paper 002's finding that DeACL leaves task attacks open.
    """
    wrong = [name for name in attacks if name not in ("pooled", "dense", *TARGET, *(f"layer {n}" for n in layers))]
    if wrong or not attacks:
        raise SpecError(
            f"multitask: attacks is {attacks}; each is pooled, dense, classify, segment, depth, or 'layer n' of one of `layers`"
        )
    if clean < 0 or heads < 0 or prototypes < 2 or shrink <= 0 or images < 2:
        raise SpecError(
            f"multitask: clean {clean:g}, heads {heads:g}, prototypes {prototypes}, shrink {shrink:g}, images {images}; "
            "weights are at least 0, shrink is above it, prototypes and images are at least 2"
        )
    plan = Plan(attacks, layers, mix, heads, clean, (), images, threats)
    return Multitask(adversary, plan, labels, prototypes, shrink, views)
