"""A criterion: the loss of embeddings, one value per image; it does not depend on networks, views or attacks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Criterion(Protocol):
    """An `nn.Module`, or a function. sees: how many views it takes, None for any number from 2.

    One with a memory (a queue, a centre) also has `keep(kept)`, which stores after a step what its `remember(online,
    target)` selected. One whose parameters change during a run has `at(when)`, which returns the criterion of that step.
    """

    @property
    def sees(self) -> int | None: ...

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        """The loss [B]; its mean is minimized.

        online: one [B, D] per view, with a graph. target: the same from a momentum or stop-gradient branch, None where there
        is none. label [B]: for criteria that use labels (SupCon, oracles). places [B]: indices of the images in the training
        split. Where the loss is defined on the whole batch, every entry is that loss.
        """
        ...


def need_labels(label: Tensor | None, name: str) -> Tensor:
    """The labels; `ValueError` where there are none."""
    if label is None:
        raise ValueError(f"{name} needs labels, and these data have none")
    return label
