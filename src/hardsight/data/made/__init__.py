"""Made scenes: textured solids on a ground, drawn from a seed, with the exact truth for every task.

The label is the shape of the main object, the one nearest the middle; the mask, the depth and the boxes tell of everything in
view. Colour, pattern, light and pose are drawn without regard to shape, so shape is what there is to learn. Nothing is
downloaded and nothing is stored: a scene is rendered when it is first asked for, and the same pixels come out everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Sample
from hardsight.data.made.picture import MAX_DEPTH, Frames, render
from hardsight.data.made.scene import OBJECTS, labels, lay
from hardsight.data.made.solids import SHAPES
from hardsight.specs.catalog import register

BLOCK = 64 * 64 * 48
"""Pixels rendered at once: more is slower, as they leave the processor's cache."""
MEMORY = 2**31
"""Bytes that one split may keep; a larger one is rendered anew each time."""


@register
def made(size: int = 64, seed: int = 0, train: int = 10000, test: int = 2000) -> Data:
    """Scenes of solids on a ground, rendered as they are asked for: label, mask, depth and boxes, all exact.

    size: pixels a side, 16 to 512; another size shows the same scenes. train, test: how many scenes; a scene depends on its
    seed, split and place alone. Raises `DataError`.
    """
    if not 16 <= size <= 512:
        raise DataError(f"made: size is {size}; it can be 16 to 512 pixels")
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise DataError(f"made: {name} is {count}; there must be at least 1 scene")
    card = DataCard(
        name="made",
        targets=("label", "mask", "depth", "boxes"),
        size=(size, size),
        classes=SHAPES,
        mask_classes=("background", "ground", *SHAPES),
        max_depth=MAX_DEPTH,
        source="drawn by hardsight.data.made",
        licence="MIT",
    )
    parts = (("train", 0, train), ("test", 1, test))
    return Data(card, {name: Scenes(name, part, count, size, seed) for name, part, count in parts})


class Scenes:
    """One split: an `Images` that remembers what it has rendered, as long as all of it would fit in `MEMORY`.

    `batch` is the fast way through. Targets: label int64 [], mask int64 [H, W], depth float32 [H, W] in metres; boxes float32
    [N, 4], x1 y1 x2 y2 in pixels from the picture's corner, and box_labels int64 [N], of all objects of which a pixel shows.
    """

    def __init__(self, name: str, part: int, count: int, size: int, seed: int) -> None:
        self.name, self.part, self.count, self.size, self.seed = name, part, count, size, seed
        self.keeps = count * (size * size * 8 + OBJECTS * 9) <= MEMORY
        room = count if self.keeps else 0
        # Not yet memory: the system gives a page when something is first written to it.
        self._kept = Frames(
            image=np.empty((room, 3, size, size), dtype=np.uint8),
            mask=np.empty((room, size, size), dtype=np.uint8),
            depth=np.empty((room, size, size), dtype=np.float32),
            box=np.empty((room, OBJECTS, 4), dtype=np.int16),
            box_label=np.empty((room, OBJECTS), dtype=np.int8),
        )
        self._done = np.zeros(room, dtype=bool)

    def __reduce__(self) -> tuple:
        """A copy, such as a loader's worker gets, starts with nothing rendered."""
        return Scenes, (self.name, self.part, self.count, self.size, self.seed)

    def __len__(self) -> int:
        return self.count

    def sample(self, place: int) -> Sample:
        """The scene at a place, 0 to len - 1; its neighbours are rendered with it where they can be kept."""
        where = self._checked([place])
        if self.keeps and not self._done[where[0]]:
            start = where[0] // self.step * self.step
            self._frames(np.arange(start, min(start + self.step, self.count)))
        frames, at = self._frames(where)
        target = {name: values[0] for name, values in self._target(frames, at, where).items()}
        target["boxes"], target["box_labels"] = _boxes(frames, at[0])
        return Sample(self._id(where[0]), torch.from_numpy(frames.image[at[0]].copy()), target)

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Any]]:
        """Ids, images uint8 [B, 3, H, W], and the targets [B, ...], with the boxes as a list of a dict a scene."""
        where = self._checked(places)
        frames, at = self._frames(where)
        ids = [self._id(place) for place in where]
        target: dict[str, Any] = self._target(frames, at, where)
        target["boxes"] = [dict(zip(("boxes", "labels"), _boxes(frames, place), strict=True)) for place in at]
        return ids, torch.from_numpy(frames.image[at]), target

    @property
    def step(self) -> int:
        """How many scenes are rendered at once."""
        return max(1, BLOCK // self.size**2)

    def _id(self, place: int | np.integer) -> str:
        return f"made-{self.seed}-{self.name}-{place:06d}"

    def _checked(self, places: Sequence[int]) -> np.ndarray:
        where = np.asarray(places, dtype=np.int64)
        if where.size == 0:
            raise IndexError(f"made: no places of {self.name} are named")
        if not (where.min() >= 0 and where.max() < self.count):
            raise IndexError(f"made: {self.name} has places 0 to {self.count - 1}, not {where.min()} to {where.max()}")
        return where

    def _target(self, frames: Frames, at: np.ndarray, places: np.ndarray) -> dict[str, Tensor]:
        return {
            "label": torch.from_numpy(labels(self.seed, self.part, places)),
            "mask": torch.from_numpy(frames.mask[at].astype(np.int64)),
            "depth": torch.from_numpy(frames.depth[at]),
        }

    def _frames(self, places: np.ndarray) -> tuple[Frames, np.ndarray]:
        """Frames that hold the scenes at `places` (int64 [B]), and where in them they are (int64 [B])."""
        wanted, at = np.unique(places, return_inverse=True)
        if self.keeps:
            wanted = wanted[~self._done[wanted]]
        blocks = [wanted[start : start + self.step] for start in range(0, len(wanted), self.step)]
        if not self.keeps:
            made_now = [vars(render(lay(self.seed, self.part, block), self.size)) for block in blocks]
            return Frames(**{name: np.concatenate([part[name] for part in made_now]) for name in made_now[0]}), at
        for block in blocks:
            for name, part in vars(render(lay(self.seed, self.part, block), self.size)).items():
                getattr(self._kept, name)[block] = part
            # Only now, so that another thread never takes what is half written; two that render the same write the same.
            self._done[block] = True
        return self._kept, places


def _boxes(frames: Frames, at: int | np.integer) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] and labels [N] of one scene."""
    boxes, names = frames.box[at], frames.box_label[at]
    return torch.from_numpy(boxes[names >= 0].astype(np.float32)), torch.from_numpy(names[names >= 0].astype(np.int64))
