"""What data is: images as uint8 with a name each, and targets by the name of what they tell.

A reader makes a `Data`: a card and its splits. A split (`Images`) gives one `Sample` by its place; all samples of a split
have one size, and a sample that cannot be read raises `DataError` with its file's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from hardsight.core.errors import DataError

IGNORE = 255
"""The mask value of a pixel that has no class: no loss, no metric and no attack counts it."""


@dataclass(frozen=True)
class DataCard:
    """What is known of a data set.

    targets: which of "label" (int64 [], 0..K-1), "mask" (int64 [H, W], 0..K-1 or IGNORE), "depth" (float32 [H, W], metres,
    0 = no measurement), "boxes" its samples carry. classes name the labels, mask_classes the mask ids. max_depth in metres.
    frames: T of clips, 0 where samples are images. own: (h, w) of the images before `resized` brought them to `size`, else None.
    """

    name: str
    targets: tuple[str, ...]
    size: tuple[int, int]
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    max_depth: float = 0.0
    source: str = ""
    licence: str = "unknown"
    frames: int = 0
    own: tuple[int, int] | None = None


class Sample(NamedTuple):
    """One image: id, unique in its split and stable between runs; image uint8 [3, H, W], a clip [3, T, H, W]; target by name."""

    id: str
    image: Tensor
    target: dict[str, Tensor]


@runtime_checkable
class Images(Protocol):
    """One split."""

    def __len__(self) -> int: ...

    def sample(self, place: int) -> Sample: ...


@dataclass(frozen=True)
class Data:
    """A data set: its card and its splits by name ("train", "test", sometimes "val")."""

    card: DataCard
    splits: dict[str, Images]

    def split(self, name: str) -> Images:
        if name not in self.splits:
            raise DataError(
                f"{self.card.name} has no '{name}' part; it has: {', '.join(self.splits)}; name one with split, as in --set split=val"
            )
        return self.splits[name]
