"""Multitask hardening: all encoder outputs that tasks use are kept close to the teacher's, under attacks on every task.

DeACL and FARE constrain the pooled features only. A task attack may change something else: tokens that no loss covers, or a
direction that has little effect on a distance and much on a linear head. So here

    loss = firm + clean near,  each the sum over places of the mean squared scaled difference to the teacher's clean features,
                               and `heads` times the change in the predictions of linear heads on the student

firm is of attacked images, near of clean ones; images are attacked by all of these losses at once, or each by one of them,
drawn again in every step. Of maps only some cells are used, other ones in each step. The cost is one attack and one pass, as
FARE's.
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
from hardsight.training.methods.base import Learner, Method, Samples, Step, need
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.harden.linear_heads import FeatureScale, Kind, LinearHead, rows_of, truth_of
from hardsight.training.methods.robust.adversary import Adversary, adversary

BATCH, ROWS, CELLS = 100, 20_000, 64
"""Images per batch in `prepare`; approximate number of feature rows it keeps of a place; cells of a map that a step uses."""
TARGET: dict[Kind, str] = {"classify": "label", "segment": "mask", "depth": "depth"}
Mapped = dict[str, Tensor]
Corner = tuple[float, float]
"""The first cell of a map that a step uses, row and column, as shares of the distance between the cells it uses."""


class Plan(NamedTuple):
    """The fixed settings of a run; see `multitask`."""

    attacks: tuple[str, ...]
    layers: tuple[int, ...]
    mix: str
    heads: float
    clean: float
    truth: tuple[Kind, ...]
    images: int
    threats: tuple[Threat, ...]


class MultitaskLearner(HardeningLearner):
    """places: scales of the teacher's outputs; answers: linear heads on them; `prepare` fits both."""

    ready: Tensor

    def __init__(
        self, encoder: Encoder, views: Views, adversary: Adversary, plan: Plan,
        places: dict[str, FeatureScale], answers: dict[str, LinearHead],
    ) -> None:  # fmt: skip
        super().__init__(encoder, views, adversary)
        self.plan = plan
        self.places: Any = nn.ModuleDict(places)
        self.answers: Any = nn.ModuleDict(answers)
        self.register_buffer("ready", torch.zeros(1))

    @torch.no_grad()
    def prepare(self, images: Images) -> None:
        """One pass of the teacher over the images that scales and heads are fitted to."""
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
        early = "multitask: its heads are not fitted yet; call the learner's `prepare` before the first step"
        need(self, self.ready.any, early)
        (x,) = self.draw(samples, when)
        corner = (float(torch.rand((), generator=when.rng)), float(torch.rand((), generator=when.rng)))
        with torch.no_grad():
            wanted = self._maps(self.teacher(x, self.plan.layers), corner)
            answered = {kind: self.answers[kind](wanted[_reads(kind)]) for kind in self.answers}
        x_adv = self.moved(x, wanted, answered, corner, when)
        seen = self._maps(self.encoder(torch.cat([x_adv, x]) if self.plan.clean else x_adv, self.plan.layers), corner)
        firm = self._kept({name: one[: len(x)] for name, one in seen.items()}, wanted, answered)
        loss = torch.stack(list(firm.values())).sum()
        logs = {f"firm {name}": value.detach() for name, value in firm.items()}
        if self.plan.clean:
            near = self._kept({name: one[len(x) :] for name, one in seen.items()}, wanted, answered)
            loss = loss + self.plan.clean * torch.stack(list(near.values())).sum()
            logs |= {f"near {name}": value.detach() for name, value in near.items()}
        return Step(loss, logs)

    def moved(self, x: Tensor, wanted: Mapped, answered: Mapped, corner: Corner, when: When) -> Tensor:
        """Images x, each attacked with one of the losses, or all with their sum."""
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
        """The features by the places' names; with a corner, only a regular grid of each map's cells that starts there."""
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
    """Indices into `rows_of(features)`: about this many per image, spread over the grid."""
    count = features[0, 0].numel()
    every = max(1, count // max(1, cells)) | 1  # odd, otherwise it would hit the same columns
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
                f"multitask: {encoder.card.name} has no dense features; use attacks=('pooled', 'classify'), or fare"
            )
        if encoder.card.dense_dim:
            wide["dense"] = encoder.card.dense_dim
        wide |= {f"layer {n}": dim for n, dim in zip(plan.layers, _widths(encoder, plan.layers), strict=True)}
        known = {"classify": len(data.classes), "segment": len(data.mask_classes), "depth": 1}
        truth = tuple(kind for kind in kinds if self.labels and TARGET[kind] in data.targets and known[kind])
        if self.labels and kinds and not truth:
            raise SpecError(
                f"multitask: labels=True, and {data.name} has none of {', '.join(TARGET[kind] for kind in kinds)}"
            )
        places = {name: FeatureScale(dim, self.shrink) for name, dim in wide.items()}
        answers: dict[str, LinearHead] = {}
        for kind in kinds:
            outputs = 1 if kind == "depth" else known[kind] if kind in truth else self.prototypes
            answers[kind] = LinearHead(kind, wide[_reads(kind)], outputs)
        return MultitaskLearner(encoder, self.views, self.adversary, plan._replace(truth=truth), places, answers)


def _widths(encoder: Encoder, layers: tuple[int, ...]) -> list[int]:
    """Channels of these layers' maps, found by a forward pass of one grey image."""
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
    """Hardens pooled, token and layer features at once, under embedding, classification, segmentation and depth
    attacks.

    clean: weight of the clean images' terms compared with the attacked ones', 0 saves their pass. heads: weight of the
    heads' change compared with the distances, 0 for distances alone. attacks: which losses the inner attack raises: the
    distance at "pooled", "dense" or a "layer n" of `layers`, and the losses of the "classify", "segment" and "depth" heads.
    labels: whether those are fitted to the data's labels, masks and depths, as far as it has them; without, they classify
    `prototypes` clusters of the teacher's features, and depth is their direction of largest variance. shrink: of the
    channels' scales (`FeatureScale`). mix: "joint" raises the sum of the attacks' losses, "split" gives each image one of
    them. images: maximum number of training images that heads and scales are fitted to. threats: one of them is drawn for
    each step, instead of the adversary's own.

    Source: this package's own, after paper 002's finding that DeACL stays vulnerable to task attacks.
    """
    wrong = [name for name in attacks if name not in ("pooled", "dense", *TARGET, *(f"layer {n}" for n in layers))]
    if wrong or not attacks:
        raise SpecError(
            f"multitask: attacks is {attacks}; each must be pooled, dense, classify, segment, depth, or 'layer n' of one of `layers`"
        )
    if clean < 0 or heads < 0 or prototypes < 2 or shrink <= 0 or images < 2:
        raise SpecError(
            f"multitask: clean {clean:g}, heads {heads:g}, prototypes {prototypes}, shrink {shrink:g}, images {images}; "
            "weights must be at least 0, shrink above 0, prototypes and images at least 2"
        )
    plan = Plan(attacks, layers, mix, heads, clean, (), images, threats)
    return Multitask(adversary, plan, labels, prototypes, shrink, views)
