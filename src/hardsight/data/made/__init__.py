"""Synthetic scenes: textured solids on a ground, generated from a seed, with exact ground truth for every task.

The label is the shape of the main object, the one closest to the image centre; mask, depth and boxes cover every visible
object. Colour, pattern, light and pose are drawn independently of shape, so only shape predicts the label. Nothing is
downloaded or stored on disk: a scene is rendered on first access, with the same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardsight.core.errors import DataError, nearest
from hardsight.data.base import Data, DataCard, Sample
from hardsight.data.made.renderer import MAX_DEPTH, Frames, render
from hardsight.data.made.scene import OBJECTS, labels, lay
from hardsight.data.made.solids import SHAPES
from hardsight.specs.catalog import register

BLOCK = 64 * 64 * 48
"""Pixels rendered at once; larger blocks are slower, because they no longer fit in the processor's cache."""
MEMORY = 2**31
"""How many bytes one split may cache; a larger split is rendered again on each access."""


@register
def made(size: int = 64, seed: int = 0, train: int = 10000, test: int = 2000, shapes: tuple[str, ...] = ()) -> Data:
    """Synthetic scenes of solids on a ground, rendered on demand, with exact label, mask, depth and boxes.

    size: pixels per side, 16 to 512; other sizes show the same scenes. train, test: the number of scenes; a scene depends
    only on its seed, split and index. shapes: which the main objects have, () for all twelve; the scenes are those of all
    shapes without the others, and labels keep their numbers, so that two halves are data of disjoint classes. Raises
    `DataError`.
    """
    if not 16 <= size <= 512:
        raise DataError(f"made: size is {size}; it must be 16 to 512 pixels")
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise DataError(f"made: {name} is {count}; it must be at least 1 scene")
    for shape in shapes:
        if shape not in SHAPES:
            raise DataError(
                f"made: there is no shape '{shape}'{nearest(shape, list(SHAPES))}; there are {', '.join(SHAPES)}"
            )
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
    return Data(card, {name: Scenes(name, part, count, size, seed, shapes) for name, part, count in parts})


class Scenes:
    """One split (`Images`); rendered scenes are cached if the whole split fits in `MEMORY`.

    `batch` is faster than `sample`. Targets: label int64 [], mask int64 [H, W], depth float32 [H, W] in metres; boxes
    float32 [N, 4], x1 y1 x2 y2 in pixels from the top left corner, and box_labels int64 [N], of all objects with a visible
    pixel. shapes: of the main object, () for all; `_scene` int64 [count] is then each index's scene among all of them.
    """

    def __init__(self, name: str, part: int, count: int, size: int, seed: int, shapes: tuple[str, ...] = ()) -> None:
        self.name, self.part, self.count, self.size, self.seed, self.shapes = name, part, count, size, seed, shapes
        self._scene = _of_shapes(seed, part, count, shapes) if shapes else np.arange(count)
        self.keeps = count * (size * size * 8 + OBJECTS * 9) <= MEMORY
        room = count if self.keeps else 0
        # This uses no memory yet: the operating system allocates a page when it is first written.
        self._kept = Frames(
            image=np.empty((room, 3, size, size), dtype=np.uint8),
            mask=np.empty((room, size, size), dtype=np.uint8),
            depth=np.empty((room, size, size), dtype=np.float32),
            box=np.empty((room, OBJECTS, 4), dtype=np.int16),
            box_label=np.empty((room, OBJECTS), dtype=np.int8),
        )
        self._done = np.zeros(room, dtype=bool)

    def __reduce__(self) -> tuple:
        """A copy, for example in a data loader's worker, starts with an empty cache."""
        return Scenes, (self.name, self.part, self.count, self.size, self.seed, self.shapes)

    def __len__(self) -> int:
        return self.count

    def sample(self, place: int) -> Sample:
        """The scene at an index, 0 to len - 1; if scenes are cached, the neighbours in its block are rendered with it."""
        where = self._checked([place])
        if self.keeps and not self._done[where[0]]:
            start = where[0] // self.step * self.step
            self._frames(np.arange(start, min(start + self.step, self.count)))
        frames, at = self._frames(where)
        target = {name: values[0] for name, values in self._target(frames, at, where).items()}
        target["boxes"], target["box_labels"] = _boxes(frames, at[0])
        return Sample(self._id(where[0]), torch.from_numpy(frames.image[at[0]].copy()), target)

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Any]]:
        """Ids, images uint8 [B, 3, H, W], and the targets [B, ...], with boxes as a list of one dict per scene."""
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
        return f"made-{self.seed}-{self.name}-{self._scene[place]:06d}"

    def _checked(self, places: Sequence[int]) -> np.ndarray:
        where = np.asarray(places, dtype=np.int64)
        if where.size == 0:
            raise IndexError(f"made: no indices given for {self.name}; give at least one")
        if not (where.min() >= 0 and where.max() < self.count):
            raise IndexError(
                f"made: indices {where.min()} to {where.max()} of {self.name} are out of range; "
                f"valid indices are 0 to {self.count - 1}"
            )
        return where

    def _target(self, frames: Frames, at: np.ndarray, places: np.ndarray) -> dict[str, Tensor]:
        return {
            "label": torch.from_numpy(labels(self.seed, self.part, self._scene[places])),
            "mask": torch.from_numpy(frames.mask[at].astype(np.int64)),
            "depth": torch.from_numpy(frames.depth[at]),
        }

    def _frames(self, places: np.ndarray) -> tuple[Frames, np.ndarray]:
        """Frames that contain the scenes at indices `places` (int64 [B]), and their positions in them (int64 [B])."""
        wanted, at = np.unique(places, return_inverse=True)
        if self.keeps:
            wanted = wanted[~self._done[wanted]]
        blocks = [wanted[start : start + self.step] for start in range(0, len(wanted), self.step)]
        if not self.keeps:
            made_now = [vars(render(lay(self.seed, self.part, self._scene[block]), self.size)) for block in blocks]
            return Frames(**{name: np.concatenate([part[name] for part in made_now]) for name in made_now[0]}), at
        for block in blocks:
            for name, part in vars(render(lay(self.seed, self.part, self._scene[block]), self.size)).items():
                getattr(self._kept, name)[block] = part
            # Set last, so that no thread reads a half-written block; two threads that render one block write the same.
            self._done[block] = True
        return self._kept, places


def _of_shapes(seed: int, part: int, count: int, shapes: tuple[str, ...]) -> np.ndarray:
    """int64 [count]: the first scenes whose label is one of these shapes; every block of 12 has each shape once."""
    blocks = -(-count // len(set(shapes)))
    every = np.arange(blocks * len(SHAPES))
    return every[np.isin(labels(seed, part, every), [SHAPES.index(shape) for shape in shapes])][:count]


def _boxes(frames: Frames, at: int | np.integer) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] and labels [N] of one scene."""
    boxes, names = frames.box[at], frames.box_label[at]
    return torch.from_numpy(boxes[names >= 0].astype(np.float32)), torch.from_numpy(names[names >= 0].astype(np.int64))
