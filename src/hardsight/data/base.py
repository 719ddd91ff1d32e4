"""The data interface: uint8 images, each with an id, and targets in a dict by kind ("label", "mask", "depth", "boxes").

A reader returns a `Data`: a card and the splits. A split (`Images`) returns one `Sample` by index; all samples of a split
have the same size, and a sample that cannot be read raises `DataError` with the name of its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from hardsight.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The mask value of a pixel without a class: losses, metrics and attacks ignore it."""

OWN = "a folder in"
"""How the card's `source` starts if a reader of a published set was given another set in its layout."""


@dataclass(frozen=True)
class DataCard:
    """The description of a data set.

    targets: which of "label" (int64 [], 0..K-1), "mask" (int64 [H, W], 0..K-1 or IGNORE), "depth" (float32 [H, W], metres, 0
    = no measurement) and "boxes" its samples have. classes: names of the labels; mask_classes: names of the mask ids.
    max_depth: metres. unit: metres per stored depth value, 0 without stored depths. frames: T of clips, 0 for images. own: (h, w) of the images before `resized` resized them to `size`,
    or None.
    """

    name: str
    targets: tuple[str, ...]
    size: tuple[int, int]
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    max_depth: float = 0.0
    unit: float = 0.0
    source: str = ""
    licence: str = "unknown"
    frames: int = 0
    own: tuple[int, int] | None = None


class Sample(NamedTuple):
    """One image: id, unique in its split, stable across runs; image uint8 [3, H, W], clip [3, T, H, W]; targets by name."""

    id: str
    image: Tensor
    target: dict[str, Tensor]


@runtime_checkable
class Images(Protocol):
    """One split of a data set."""

    def __len__(self) -> int: ...

    def sample(self, place: int) -> Sample: ...


@dataclass(frozen=True)
class Data:
    """A data set: its card and its splits by name ("train", "test", sometimes "val")."""

    card: DataCard
    splits: dict[str, Images]

    def split(self, name: str) -> Images:
        if name not in self.splits:
            hint = "choose one, as in --set split=val"
            if name == "train":
                hint = "one is needed to train a head or an attack; --task 'classify(head=own)' trains none"
            raise DataError(f"{self.card.name} has no '{name}' part; its splits are: {', '.join(self.splits)}; {hint}")
        return self.splits[name]

    def measured_on(self, name: str = "") -> str:
        """The split that is measured: `name`, which must exist; without one "test", or "val" if test has no targets.

        Those of ImageNet, VOC, ADE20K, COCO and Cityscapes are not published. Raises `DataError`.
        """
        if not name and "val" in self.splits and self._is_withheld("test"):
            return "val"
        self.split(name or "test")
        return name or "test"

    def _is_withheld(self, name: str) -> bool:
        """Whether the split is missing, or its first image has none of the targets that the card names."""
        if name not in self.splits:
            return True
        try:
            return bool(self.card.targets) and not self.splits[name].sample(0).target
        except (DataError, IndexError):  # it is said when this image is measured
            return False
