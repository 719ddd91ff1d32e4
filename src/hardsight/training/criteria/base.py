"""What a criterion is: the loss of embeddings, image by image; nothing in it knows of networks, views or attacks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Criterion(Protocol):
    """An `nn.Module`, or a function. sees: how many views it takes, None for any number from 2.

    One with a memory (a queue, a centre) also has `keep(kept)`, which stores after a step what its `remember(online, target)`
    picked out of it. One whose numbers change during a run has `at(when)`, which answers the criterion of that step.
    """

    @property
    def sees(self) -> int | None: ...

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        """[B]; its mean is the loss.

        online: a [B, D] a view, with a graph. target: the same of a slow or stopped branch, None where there is none. label
        [B]: for criteria that are told (SupCon, oracles). places [B]: of the images in the training split. Where the loss
        is of the batch as a whole, every entry is that loss.
        """
        ...


def told(label: Tensor | None, name: str) -> Tensor:
    """The labels; `ValueError` where there are none."""
    if label is None:
        raise ValueError(f"{name} needs labels, and these data have none")
    return label
