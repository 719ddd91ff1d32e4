"""A portrait of an encoder: what was seen of n images, and every figure of its geometry with a 95% interval over images.

`Sights` is arrays, one row an image; `FIGURES` says which numbers are made of them, how, and by whom; `portray` makes them.
Lengths in the embedding grow with its scale, which no encoder chose: beside each stands the same length as a share of the
distance between two images' embeddings, which may be compared over encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardsight.metrics import geometry
from hardsight.metrics.geometry import Array, Drawn
from hardsight.metrics.intervals import bootstrap, wilson

DRAWS = 1000
"""Of a bootstrap; the spectrum, whose every draw is an eigendecomposition, has `FEW`."""
FEW = 200


@dataclass(frozen=True)
class Sights:
    """What an encoder made of n images; all arrays lead with n.

    id, label. clean, attacked: embeddings [n, D] of the images and of what EmbedAttack made of them; first, second: of two
    views. weight [K, D], bias [K]: of a linear probe. moved: ||attacked - clean||; size: of the perturbation, in the threat's
    norm. fell: whether the probe's own attack turned the image's answer. k: neighbours that `false_negatives` looks at.
    """

    id: np.ndarray
    label: np.ndarray
    clean: np.ndarray
    attacked: np.ndarray
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    size: np.ndarray
    fell: np.ndarray
    k: int = 10
    rows: dict[str, Array] = field(init=False)
    """What is known of each image alone, by name, [n]."""

    def __post_init__(self) -> None:
        clean, attacked = (np.asarray(z, np.float64) for z in (self.clean, self.attacked))
        moved = np.sqrt(((attacked - clean) ** 2).sum(1))
        margin = geometry.margins(clean, self.weight, self.bias, self.label)
        margin_attacked = geometry.margins(attacked, self.weight, self.bias, self.label)
        rows = {
            "alignment": geometry.alignment(self.first, self.second),
            "false_negatives": geometry.false_negatives(clean, self.label, self.k),
            "same_class": geometry.same_class(self.label),
            "margin": margin,
            "margin_attacked": margin_attacked,
            "moved": moved,
            "lipschitz": moved / self.size,
            "cosine": geometry.cosine(clean, attacked),
            "accuracy": (margin > 0).astype(np.float64),
            "accuracy_embed": (margin_attacked > 0).astype(np.float64),
            "accuracy_task": 1.0 - self.fell,
        }
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.label)

    def mean(self, name: str, drawn: Drawn = None) -> Array:
        """[draws]: the mean of a row's values."""
        values = self.rows[name]
        return values.mean(keepdims=True) if drawn is None else drawn @ values / drawn.sum(1)

    def typical(self, name: str, drawn: Drawn = None) -> Array:
        """[draws]: the mean as a share of the distance between two images' embeddings."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.mean(name, drawn) / geometry.typical_distance(self.clean, drawn)


@dataclass(frozen=True)
class Number:
    """value, and its 95% interval over n images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Figure:
    """One number of a portrait. of: (sights, drawn) -> [draws].

    better: "higher", "lower" or "" where neither is. share: of images, so that its interval is Wilson's. skewed: to draw an
    image twice moves the figure itself, so its bootstrap tells the width of the interval and not its place.
    """

    group: str
    label: str
    better: str
    of: Callable[[Sights, Drawn], Array]
    told: str
    source: str = ""
    share: bool = False
    skewed: bool = False
    draws: int = DRAWS

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")


def _mean(name: str) -> Callable[[Sights, Drawn], Array]:
    return lambda sights, drawn: sights.mean(name, drawn)


def _typical(name: str) -> Callable[[Sights, Drawn], Array]:
    return lambda sights, drawn: sights.typical(name, drawn)


def _ratio(sights: Sights, drawn: Drawn) -> Array:
    spread, distance = geometry.class_lengths(sights.clean, sights.label, drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance > 0, spread / distance, np.nan)


SPHERE, CLASSES, PROBE, ATTACK = "on the sphere", "classes", "linear probe", "under EmbedAttack"
FIGURES = {
    "alignment": Figure(
        SPHERE, "alignment", "lower", _mean("alignment"),
        "Mean squared distance of two random views' embeddings, both of length 1.", "Wang and Isola, ICML 2020",
    ),
    "uniformity": Figure(
        SPHERE, "uniformity", "lower", lambda s, drawn: geometry.uniformity(s.clean, drawn),
        "Logarithm of the mean of exp(-2 d²) over pairs of images, d the distance of their embeddings of length 1; 0 where all "
        "fall together, near -4 where they fill the sphere.", "Wang and Isola, ICML 2020",
    ),
    "rank": Figure(
        SPHERE, "effective rank", "higher", lambda s, drawn: geometry.effective_rank(s.clean, drawn),
        "Exponential of the entropy of the singular values; the number of directions that are in use.",
        "Roy and Vetterli, EUSIPCO 2007; RankMe, ICML 2023", skewed=True, draws=FEW,
    ),
    "rank_centred": Figure(
        SPHERE, "effective rank, centred", "higher", lambda s, drawn: geometry.effective_rank(s.clean, drawn, True),
        "The effective rank about the mean embedding: a direction that all images share does not count.",
        "Roy and Vetterli, EUSIPCO 2007", skewed=True, draws=FEW,
    ),
    "spread": Figure(
        CLASSES, "spread within", "lower", lambda s, drawn: geometry.class_lengths(s.clean, s.label, drawn)[0],
        "Root mean square distance of an image to its class's centre, on the unit sphere.", skewed=True,
    ),
    "distance": Figure(
        CLASSES, "distance between", "higher", lambda s, drawn: geometry.class_lengths(s.clean, s.label, drawn)[1],
        "Root mean square distance of two classes' centres, less what chance alone puts between them.", skewed=True,
    ),
    "ratio": Figure(
        CLASSES, "within / between", "lower", _ratio, "Spread within classes over distance between them.", skewed=True,
    ),
    "false_negatives": Figure(
        CLASSES, "false negatives", "", _mean("false_negatives"),
        "Of an image's nearest others the share that are of its own class: what a contrastive loss without labels pushes "
        "away, and hardest of all. A good encoder has many.", "Huynh et al., WACV 2022",
    ),
    "same_class": Figure(
        CLASSES, "by chance", "", _mean("same_class"), "Of all others the share that are of an image's own class.",
    ),
    "accuracy": Figure(
        PROBE, "accuracy", "higher", _mean("accuracy"), "Of a linear probe on the clean images.", share=True,
    ),
    "margin": Figure(
        PROBE, "margin", "higher", _mean("margin"),
        "Distance of an embedding to the nearest boundary of its class under the probe, negative where it is wrong; in the "
        "embedding's own units.",
    ),
    "margin_typical": Figure(
        PROBE, "margin, relative", "higher", _typical("margin"), "The margin as a share of the distance between two images.",
    ),
    "lipschitz": Figure(
        ATTACK, "local Lipschitz", "lower", _mean("lipschitz"),
        "How far EmbedAttack moves an embedding, over the size of the perturbation in the threat's norm; no attack proves a "
        "constant, so it is at least this. In the embedding's own units.", "Yang et al., NeurIPS 2020",
    ),
    "moved": Figure(
        ATTACK, "moved, relative", "lower", _typical("moved"),
        "How far EmbedAttack moves an embedding, as a share of the distance between two images: at 1 it is as far off as "
        "another image, and beyond the relative margin it can be of another class.",
    ),
    "cosine": Figure(
        ATTACK, "cosine to clean", "higher", _mean("cosine"), "Of an image's clean and attacked embeddings.",
    ),
    "cka": Figure(
        ATTACK, "CKA to clean", "higher", lambda s, drawn: geometry.cka(s.clean, s.attacked, drawn),
        "Linear centred kernel alignment of the clean and the attacked embeddings, debiased: what is left of how images lie to "
        "one another.", "Kornblith et al., ICML 2019", skewed=True,
    ),
    "accuracy_embed": Figure(
        ATTACK, "accuracy", "higher", _mean("accuracy_embed"), "Of the probe on what EmbedAttack made.",
        "paper 002", share=True,
    ),
    "accuracy_task": Figure(
        "under PGD", "accuracy", "higher", _mean("accuracy_task"),
        "Of the probe on what PGD on its own cross-entropy made.", "paper 002", share=True,
    ),
}  # fmt: skip
"""Every number of a portrait by its key, in the order of tables."""


@dataclass(frozen=True)
class Portrait:
    """One encoder's. label: its name in tables. series, epoch: of the training run that kept it, else "" and None.

    facts: what of the measurement a reader must know, such as how many gradients were zero; card: the encoder's.
    """

    label: str
    sights: Sights
    numbers: dict[str, Number]
    spec: str = ""
    series: str = ""
    epoch: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


def portray(sights: Sights, seed: int = 0) -> dict[str, Number]:
    """Every figure with its interval; seed: of the bootstrap."""
    return {key: number(figure, sights, seed) for key, figure in FIGURES.items()}


def number(figure: Figure, sights: Sights, seed: int = 0) -> Number:
    """One figure: Wilson's interval for a share of images, else a percentile bootstrap over images.

    A skewed figure's draws are moved so that their median is its value.
    """
    n = len(sights)
    value = float(figure.of(sights, None)[0])
    if figure.share:
        return Number(value, *wilson(value * n, n), n)

    def of(sums: dict[str, np.ndarray]) -> np.ndarray:
        values = figure.of(sights, sums["drawn"])
        return values + (value - np.nanmedian(values)) if figure.skewed and np.isfinite(values).any() else values

    low, high = bootstrap({"drawn": np.eye(n)}, of, figure.draws, seed)
    return Number(value, low, high, n)
