"""Classification: a linear layer or nearest neighbours on the pooled features, or the model's own pretrained classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import DataError, SpecError
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder, Features
from hardsight.losses.classify import cross_entropy
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, needs
from hardsight.tasks.knn import KnnHead


class LinearHead(nn.Module):
    """Features -> logits [B, K]. A batch norm without weights normalizes the features, as scales differ between encoders."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(dim, affine=False)
        self.linear = nn.Linear(dim, classes)

    def forward(self, features: Features) -> Tensor:
        return self.linear(self.scale(features.pooled))


class OwnHead(nn.Module):
    """Features -> logits [B, K] of the encoder's own classifier; nothing is trained."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple, so that its weights don't count as the head's

    def forward(self, features: Features) -> Tensor:
        return self._encoder[0].classify(features)


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
            if encoder.card.classes != len(data.classes):
                raise DataError(
                    f"{encoder.card.name}'s own classifier has {encoder.card.classes} classes, and {data.name} has "
                    f"{len(data.classes)}; train a head with classify(head='linear')"
                )
            return OwnHead(encoder)
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
def classify(head: Literal["linear", "own", "knn"] = "linear", k: int = 20, temperature: float = 0.07) -> Task:
    """Image classification; head: a linear probe on the pooled features, the model's own classifier, or nearest neighbours.

    k, temperature: number of neighbours and temperature of their votes, for head=knn only.
    """
    if k < 1 or temperature <= 0:
        raise SpecError(f"classify: k is {k} and temperature {temperature:g}; k must be at least 1 and temperature above 0")
    return Classify(head, k, temperature)
