"""Embedding statistics of an encoder: every figure of its geometry, with a 95% interval over images.

`Embeddings` holds the arrays, one row per image; `FIGURES` defines the figures, their formulas and sources; `all_numbers`
computes them. Lengths depend on the scale of the embedding, which differs between encoders; so each is also given relative
to the typical distance between two images' embeddings, which can be compared between encoders.
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
"""Bootstrap draws; figures of the spectrum, where every draw is an eigendecomposition, take `FEW`."""
FEW = 200


@dataclass(frozen=True)
class Embeddings:
    """An encoder's embeddings of n images; the first dimension of all per-image arrays is n.

    clean, attacked: embeddings [n, D] of the images before and after EmbedAttack; first, second: of two views. weight [K,
    D], bias [K]: of a linear probe. size: of EmbedAttack's perturbation, in the threat's norm. misclassified: whether the
    probe is wrong under an attack on its own loss. k: number of neighbours in `false_negatives`.
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
    misclassified: np.ndarray
    k: int = 10
    rows: dict[str, Array] = field(init=False)
    """Figures of single images by name, each [n]; "moved" is ||attacked - clean||."""

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
            "accuracy_task": 1.0 - self.misclassified,
        }
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.label)

    def mean(self, name: str, drawn: Drawn = None) -> Array:
        """[draws]: the mean of `rows[name]`."""
        values = self.rows[name]
        return values.mean(keepdims=True) if drawn is None else drawn @ values / drawn.sum(1)

    def typical(self, name: str, drawn: Drawn = None) -> Array:
        """[draws]: that mean, divided by the typical distance between two images' embeddings."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.mean(name, drawn) / geometry.typical_distance(self.clean, drawn)


@dataclass(frozen=True)
class Number:
    """A value and its 95% interval over n images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Figure:
    """One statistic. of: (embeddings, drawn) -> [draws]. meaning: its definition in words, for reports.

    better: "higher", "lower" or "" if neither. share: a share of images, with Wilson's interval. skewed: drawing an image
    twice biases the figure, so the bootstrap gives the width of the interval but not its position.
    """

    group: str
    label: str
    better: str
    of: Callable[[Embeddings, Drawn], Array]
    meaning: str
    source: str = ""
    share: bool = False
    skewed: bool = False
    draws: int = DRAWS

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")


def _mean(name: str) -> Callable[[Embeddings, Drawn], Array]:
    return lambda embeddings, drawn: embeddings.mean(name, drawn)


def _typical(name: str) -> Callable[[Embeddings, Drawn], Array]:
    return lambda embeddings, drawn: embeddings.typical(name, drawn)


def _ratio(embeddings: Embeddings, drawn: Drawn) -> Array:
    spread, distance = geometry.class_lengths(embeddings.clean, embeddings.label, drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance > 0, spread / distance, np.nan)


SPHERE, CLASSES, PROBE, ATTACK = "on the sphere", "classes", "linear probe", "under EmbedAttack"
FIGURES = {
    "alignment": Figure(
        SPHERE, "alignment", "lower", _mean("alignment"),
        "Mean squared distance between the embeddings of two random views, both normalized to length 1.",
        "Wang and Isola, ICML 2020",
    ),
    "uniformity": Figure(
        SPHERE, "uniformity", "lower", lambda s, drawn: geometry.uniformity(s.clean, drawn),
        "Logarithm of the mean of exp(-2 d²) over pairs of images, where d is the distance of their normalized embeddings; "
        "0 if all embeddings are equal, near -4 if they fill the sphere.", "Wang and Isola, ICML 2020",
    ),
    "rank": Figure(
        SPHERE, "effective rank", "higher", lambda s, drawn: geometry.effective_rank(s.clean, drawn),
        "Exponential of the entropy of the singular values; the effective number of directions that are used.",
        "Roy and Vetterli, EUSIPCO 2007; RankMe, ICML 2023", skewed=True, draws=FEW,
    ),
    "rank_centred": Figure(
        SPHERE, "effective rank, centred", "higher", lambda s, drawn: geometry.effective_rank(s.clean, drawn, True),
        "The effective rank after subtracting the mean embedding: a direction shared by all images does not count.",
        "Roy and Vetterli, EUSIPCO 2007", skewed=True, draws=FEW,
    ),
    "spread": Figure(
        CLASSES, "spread within", "lower", lambda s, drawn: geometry.class_lengths(s.clean, s.label, drawn)[0],
        "Root mean square distance of an image to its class centre, on the unit sphere.", skewed=True,
    ),
    "distance": Figure(
        CLASSES, "distance between", "higher", lambda s, drawn: geometry.class_lengths(s.clean, s.label, drawn)[1],
        "Root mean square distance between two class centres, corrected for the distance expected by chance.", skewed=True,
    ),
    "ratio": Figure(
        CLASSES, "within / between", "lower", _ratio, "Spread within classes divided by distance between them.", skewed=True,
    ),
    "false_negatives": Figure(
        CLASSES, "false negatives", "", _mean("false_negatives"),
        "Share of an image's nearest neighbours that are of its own class. A contrastive loss without labels treats them as "
        "negatives and pushes them away most strongly. A good encoder has many.", "Huynh et al., WACV 2022",
    ),
    "same_class": Figure(
        CLASSES, "by chance", "", _mean("same_class"), "Share of all other images that are of an image's own class.",
    ),
    "accuracy": Figure(
        PROBE, "accuracy", "higher", _mean("accuracy"), "Accuracy of a linear probe on the clean images.", share=True,
    ),
    "margin": Figure(
        PROBE, "margin", "higher", _mean("margin"),
        "Distance of an embedding to the nearest decision boundary of its class under the probe, negative if the probe is "
        "wrong; in units of the embedding.",
    ),
    "margin_typical": Figure(
        PROBE, "margin, relative", "higher", _typical("margin"),
        "The margin divided by the typical distance between two images.",
    ),
    "lipschitz": Figure(
        ATTACK, "local Lipschitz", "lower", _mean("lipschitz"),
        "Distance by which EmbedAttack moves an embedding, divided by the size of the perturbation in the threat's norm. An "
        "attack gives only a lower bound of the constant. In units of the embedding.", "Yang et al., NeurIPS 2020",
    ),
    "moved": Figure(
        ATTACK, "moved, relative", "lower", _typical("moved"),
        "Distance by which EmbedAttack moves an embedding, divided by the typical distance between two images: at 1 it is "
        "as far away as another image; beyond the relative margin the predicted class can change.",
    ),
    "cosine": Figure(
        ATTACK, "cosine to clean", "higher", _mean("cosine"),
        "Cosine similarity of an image's clean and attacked embeddings.",
    ),
    "cka": Figure(
        ATTACK, "CKA to clean", "higher", lambda s, drawn: geometry.cka(s.clean, s.attacked, drawn),
        "Linear centred kernel alignment of the clean and attacked embeddings, debiased: how well the attack preserves the "
        "similarities between images.", "Kornblith et al., ICML 2019", skewed=True,
    ),
    "accuracy_embed": Figure(
        ATTACK, "accuracy", "higher", _mean("accuracy_embed"), "Accuracy of the probe under EmbedAttack.",
        "paper 002", share=True,
    ),
    "accuracy_task": Figure(
        "under PGD", "accuracy", "higher", _mean("accuracy_task"),
        "Accuracy of the probe under PGD on its cross-entropy.", "paper 002", share=True,
    ),
}  # fmt: skip
"""Every statistic by its key, in the order of the tables."""


@dataclass(frozen=True)
class EncoderGeometry:
    """One encoder's statistics. label: its name in tables. series, epoch: of the run that saved it, else "" and None.

    facts: settings and diagnostics that a reader needs, such as the share of zero gradients; card: the encoder's.
    """

    label: str
    embeddings: Embeddings
    numbers: dict[str, Number]
    spec: str = ""
    series: str = ""
    epoch: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


def all_numbers(embeddings: Embeddings, seed: int = 0) -> dict[str, Number]:
    """Every figure with its interval; seed: of the bootstrap."""
    return {key: number(figure, embeddings, seed) for key, figure in FIGURES.items()}


def number(figure: Figure, embeddings: Embeddings, seed: int = 0) -> Number:
    """One figure: Wilson's interval for a share of images, else a percentile bootstrap over images.

    The draws of a skewed figure are shifted so that their median equals its value.
    """
    n = len(embeddings)
    value = float(figure.of(embeddings, None)[0])
    if figure.share:
        return Number(value, *wilson(value * n, n), n)

    def of(sums: dict[str, np.ndarray]) -> np.ndarray:
        values = figure.of(embeddings, sums["drawn"])
        return values + (value - np.nanmedian(values)) if figure.skewed and np.isfinite(values).any() else values

    low, high = bootstrap({"drawn": np.eye(n)}, of, figure.draws, seed)
    return Number(value, low, high, n)
