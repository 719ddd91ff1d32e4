"""Two ways to hold a split: `Files`, read when asked for and kept as bytes; `Arrays`, the whole of it in one array of bytes.

Both keep what they hold compact (uint8 pixels and masks) and widen it as it goes out, and what goes out is a copy, so that
nobody's changes reach the next reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hardsight.data.base import Sample

MEMORY = 2**30
"""Bytes that one split of files may keep; what comes after is read anew on each visit."""

Read = Callable[[int], tuple[np.ndarray, dict[str, np.ndarray]]]
"""A place to its image, uint8 [H, W, 3], a clip [T, H, W, 3], and its targets: label and mask as integers of any width, depth
as float32."""


class Files:
    """A split whose samples are files: `Images` over a reading function that raises `DataError` with the file's name."""

    def __init__(self, ids: Sequence[str], read: Read, memory: int = MEMORY) -> None:
        self.ids, self.memory = list(ids), memory
        self._read = read
        self._kept: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        self._room = memory

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, place: int) -> Sample:
        """The sample at a place, 0 to len - 1."""
        place = checked(place, len(self))
        image, target = self._kept.get(place) or self._fresh(place)
        return Sample(self.ids[place], image.clone(), {name: widened(value) for name, value in target.items()})

    def _fresh(self, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, extra = self._read(place)
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
        target = {name: torch.from_numpy(np.array(value)) for name, value in extra.items()}
        size = sum(part.numel() * part.element_size() for part in (image, *target.values()))
        if size <= self._room:
            self._room -= size
            self._kept[place] = image, target
        return image, target


class Arrays:
    """A split that is rows of an array of images, uint8 [N, 3, H, W], with a label each (or none); also has `batch`."""

    def __init__(
        self, ids: Sequence[str], images: np.ndarray, labels: np.ndarray | None, rows: np.ndarray | None = None
    ) -> None:
        self.ids, self.images = list(ids), images
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.rows = np.arange(len(self.ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, place: int) -> Sample:
        """The sample at a place, 0 to len - 1."""
        ids, images, target = self.batch([place])
        return Sample(ids[0], images[0], {name: value[0] for name, value in target.items()})

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Tensor]]:
        """Ids, images uint8 [B, 3, H, W], targets [B]."""
        where = [checked(place, len(self)) for place in places]
        images = torch.from_numpy(np.ascontiguousarray(self.images[self.rows[where]]))
        target = {} if self.labels is None else {"label": torch.from_numpy(self.labels[where])}
        return [self.ids[place] for place in where], images, target


def checked(place: int, count: int) -> int:
    """The place; `IndexError` unless it is 0 to count - 1."""
    if not 0 <= int(place) < count:
        raise IndexError(f"there are places 0 to {count - 1}, not {int(place)}")
    return int(place)


def widened(value: Tensor) -> Tensor:
    """Ids as int64 and depths as float32, always a copy."""
    return value.clone() if value.is_floating_point() else value.to(torch.int64, copy=True)
