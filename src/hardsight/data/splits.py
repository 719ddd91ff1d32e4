"""Two kinds of split: `Files`, read on demand and then cached in memory; `Arrays`, all images in one uint8 array.

Both store pixels and masks compactly as uint8, and convert targets on access. Every sample is returned as a copy, so that
changes made by one caller never affect another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardsight.data.base import Sample
from hardsight.data.images import Size, fit

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 2**30
"""How many bytes one split of files may cache; samples beyond that are read again on each access."""

Read = Callable[[int], tuple[np.ndarray, dict[str, np.ndarray]]]
"""Maps an index to an image, uint8 [H, W, 3], or a clip [T, H, W, 3], and its targets: label and mask of any integer type,
depth as float32."""


class Files:
    """A split (`Images`) of files, read by a function that raises `DataError` with the name of the file.

    size: to which the images that `read` returns are fitted, as `images.fit` does; None leaves them as they are. It needs
    targets without pixels.
    """

    def __init__(self, ids: Sequence[str], read: Read, memory: int = MEMORY, size: Size = None) -> None:
        self.ids, self.memory, self.size = list(ids), memory, size
        self._read = read
        self._kept: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        self._room = memory

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, place: int) -> Sample:
        """The sample at an index, 0 to len - 1."""
        place = checked(place, len(self))
        image, target = self._kept.get(place) or self._fresh(place)
        return Sample(self.ids[place], image.clone(), {name: widened(value) for name, value in target.items()})

    @property
    def stored(self) -> Read | None:
        """Reads one image as it is stored, before it is fitted, and its targets; None if the two are the same."""
        return None if self.size is None else self._read

    def forget(self) -> None:
        """Frees the images cached in memory; they are read again when they are needed."""
        self._kept, self._room = {}, self.memory

    def _fresh(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        pixels, extra = self._read(place)
        pixels = fit(pixels, self.size)
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
        target = {name: torch.from_numpy(np.array(value)) for name, value in extra.items()}
        size = sum(part.numel() * part.element_size() for part in (image, *target.values()))
        if size <= self._room:
            self._room -= size
            self._kept[place] = image, target
        return image, target


class Arrays:
    """A split of rows of an image array, uint8 [N, 3, H, W], with one label each (or no labels); also has `batch`."""

    def __init__(
        self, ids: Sequence[str], images: np.ndarray, labels: np.ndarray | None, rows: np.ndarray | None = None
    ) -> None:
        self.ids, self.images = list(ids), images
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.rows = np.arange(len(self.ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, place: int) -> Sample:
        """The sample at an index, 0 to len - 1."""
        ids, images, target = self.batch([place])
        return Sample(ids[0], images[0], {name: value[0] for name, value in target.items()})

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Tensor]]:
        """Ids, images uint8 [B, 3, H, W], targets [B]."""
        import torch

        where = [checked(place, len(self)) for place in places]
        images = torch.from_numpy(np.ascontiguousarray(self.images[self.rows[where]]))
        target = {} if self.labels is None else {"label": torch.from_numpy(self.labels[where])}
        return [self.ids[place] for place in where], images, target


def checked(place: int, count: int) -> int:
    """Returns the index unchanged; raises `IndexError` unless it is 0 to count - 1."""
    if not 0 <= int(place) < count:
        raise IndexError(f"index {int(place)} is out of range; valid indices are 0 to {count - 1}")
    return int(place)


def widened(value: Tensor) -> Tensor:
    """Integer targets as int64 and depths as float32, always a copy."""
    return value.clone() if value.is_floating_point() else value.clone().long()
