"""Classification: a linear layer or nearest neighbours on the pooled features, or the model's own pretrained classifier.

The model's own classifier has an order of classes of its own. `outputs_of` matches the classes of the data with it by name, by
WordNet id or by number, so that neither the order nor the number of the folders matters; it warns where it can't know.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import DataError, DataWarning, MissingDependency, SpecError
from hardsight.data.base import DataCard
from hardsight.data.images import first_few
from hardsight.data.sets import imagenet
from hardsight.encoders.base import Card, Encoder, Features
from hardsight.losses.classify import cross_entropy
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, needs
from hardsight.tasks.knn import KnnHead
from hardsight.tasks.official import official as released_as


class LinearHead(nn.Module):
    """Features -> logits [B, K]. A batch norm without weights normalizes the features, as scales differ between encoders."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(dim, affine=False)
        self.linear = nn.Linear(dim, classes)

    def forward(self, features: Features) -> Tensor:
        return self.linear(self.scale(features.pooled))


class OwnHead(nn.Module):
    """Features -> logits [B, K] of the encoder's own classifier, all or those of the given outputs; nothing is trained."""

    def __init__(self, encoder: Encoder, outputs: Sequence[int] | None = None) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its weights don't count as the head's
        self.outputs = None if outputs is None else list(outputs)

    def forward(self, features: Features) -> Tensor:
        logits = self._encoder[0].classify(features)
        return logits if self.outputs is None else logits[:, self.outputs]


def outputs_of(card: Card, data: DataCard) -> list[int] | None:
    """The output of a model's own classifier for each class of the data; None: all of them, in their order.

    The names of 1,000 outputs are ImageNet's if the model states none. Raises `DataError` if the classes can't be matched;
    warns if there are as many as outputs but no names or numbers to match them by.
    """
    listed = _labels(card)
    known: dict[str, set[int]] = {}
    for place, names in enumerate(listed):
        for name in names:
            known.setdefault(_plain(name), set()).add(place)
    found = [known.get(_plain(name)) or _numbered(name, card.classes) for name in data.classes]
    same = len(data.classes) == card.classes
    if same and all(place in places for place, places in enumerate(found)):
        return None
    if all(found):
        outputs = [place if place in places else min(places) for place, places in enumerate(found)]
        unsure = [name for place, name in enumerate(data.classes) if len(found[place]) > 1 and place not in found[place]]
        twice = [data.classes[outputs.index(place)] for place, count in Counter(outputs).items() if count > 1]
        if not unsure and not twice:
            return outputs
        raise DataError(
            f"{data.name}: several classes of {card.name}'s own classifier, or several of the data, have the name "
            f"'{(unsure or twice)[0]}'; name the class folders by WordNet id or by number"
        )
    named = sum(_plain(name) in known for name in data.classes)
    if same and named <= (0 if card.labels else len(found) // 2):
        why = "does not name its classes" if not listed else "names other classes"
        warnings.warn(
            f"{card.name}'s own classifier {why}, so class k of {data.name} is taken to be its output k, in the order "
            f"{first_few(data.classes)}",
            DataWarning,
            stacklevel=3,
        )
        return None
    strange = [name for name, places in zip(data.classes, found, strict=True) if not places]
    raise DataError(
        f"{card.name}'s own classifier has {card.classes} classes, and {data.name} has {len(data.classes)}, of which "
        f"{first_few(strange)} can't be found among them by name or number; train a head with classify(head='linear')"
    )


def _labels(card: Card) -> Sequence[Sequence[str]]:
    """All names of each class of a model's own classifier; empty if they are not known."""
    if len(card.labels) == card.classes and not any(re.fullmatch(r"LABEL_\d+", name) for name in card.labels):
        return [(name, *name.split(",")) for name in card.labels]
    try:
        return imagenet.all_names() if card.classes == 1000 else ()
    except MissingDependency:
        return ()


def _plain(name: str) -> str:
    """A class name without case and separators, or the WordNet id that it begins with."""
    if wnid := re.match(r"n\d{8}(?!\d)", name):
        return wnid[0]
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _numbered(name: str, count: int) -> set[int]:
    """The output that a class is named after, if it is named by a number below `count`."""
    return {int(name)} if name.isascii() and name.isdigit() and int(name) < count else set()


@dataclass(frozen=True)
class Classify:
    kind: str
    k: int = 20
    temperature: float = 0.07
    name: ClassVar[str] = "classify"
    target: ClassVar[str] = "label"
    reads: ClassVar[Literal["pooled", "dense"]] = "pooled"
    attack: ClassVar[str] = "classpgd"
    scale_free: ClassVar[str] = "margin"
    training: ClassVar[Training] = Training(epochs=50, steps=300, lr=1e-2, weight_decay=1e-3, batch=256)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "classify", "label", data.classes)
        if self.kind == "own":
            return OwnHead(encoder, outputs_of(encoder.card, data))
        if self.kind == "knn":
            return KnnHead(encoder.card.dim, len(data.classes), self.k, self.temperature)
        return LinearHead(encoder.card.dim, len(data.classes))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """1 where the image is misclassified or a logit is not finite, else 0."""
        return ((output.argmax(1) != target) | ~torch.isfinite(output).all(1)).float()

    def counts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """hits, hits5 (for more than 10 classes): whether the label is the first, or one of the first five; images: 1.

        Of equal logits the class of the lower number is first, in both, as in argmax and in a stable sort.
        """
        hits = 1 - self.error(output, target).int()
        counts = {"hits": hits, "images": torch.ones_like(hits)}
        if output.shape[1] > 10:
            right, earlier = output.gather(1, target[:, None]), torch.arange(output.shape[1], device=output.device)
            before = (output > right) | ((output == right) & (earlier < target[:, None]))
            counts["hits5"] = ((before.sum(1) < 5) & torch.isfinite(output).all(1)).int()
        return counts

    def answer(self, output: Tensor) -> Tensor:
        return output.argmax(1)


@register
def classify(
    head: Literal["linear", "own", "knn"] = "linear",
    k: int = 20,
    temperature: float = 0.07,
    official: str | tuple[str, ...] = (),
) -> Task:
    """Image classification; head: a linear probe on the pooled features, the model's own classifier, or nearest neighbours.

    Of the model's own classifier, only the outputs of the data's classes are compared, matched by name, WordNet id or number.

    k, temperature: number of neighbours and temperature of their votes, for head=knn only. official: quirks of paper 002's
    released evaluation, by the names that `hardsight list quirks` shows, or all.
    """
    if k < 1 or temperature <= 0:
        raise SpecError(f"classify: k is {k} and temperature {temperature:g}; k must be at least 1 and temperature above 0")
    return released_as(Classify(head, k, temperature), official)
