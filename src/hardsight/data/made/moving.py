"""Synthetic clips: the main solid of a synthetic scene moves in one of eight ways, and only its motion predicts the class.

The state of the solid (horizontal, vertical, size, rotation) is four numbers, each uniform on a circle, and a motion changes
one of them cyclically: what leaves on the right re-enters on the left. So at any time all four are uniform for every motion:
no single frame reveals the class, and an unordered set of frames cannot separate left from right. Mean pooling of an image
encoder's outputs over frames is therefore correct on at most 5 of 8 clips. Rendered by `data/made`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Sample
from hardsight.data.made import BLOCK, MEMORY
from hardsight.data.made.draws import between, keys, uniform
from hardsight.data.made.renderer import render
from hardsight.data.made.scene import Layout, labels, lay, turn
from hardsight.data.made.solids import SHAPES
from hardsight.data.splits import checked
from hardsight.specs.catalog import register

MOTIONS = {
    "still": (0, 0, 0, 0),
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "up": (0, 1, 0, 0),
    "down": (0, -1, 0, 0),
    "nearer": (0, 0, 1, 0),
    "farther": (0, 0, -1, 0),
    "turning": (0, 0, 0, 1),
}
"""The direction of each class: horizontal, vertical, size, rotation."""
EDGED = ("cube", "pyramid", "octahedron", "prism", "cross", "steps")
"""The shapes that look different when rotated; only these are used."""
REACH = 0.7
"""The share of the image side over which the centre of the solid can move."""
SMALL, LARGE = 0.55, 1.25
"""The range of the solid's size, relative to its size in the still scene."""
LEAST, MOST = 0.35, 0.6
"""The share of the circle that a motion covers in one clip."""
CLEAR = 0.4
"""The height of the solid's lowest position above the ground, as a share of its initial distance."""


@register
def moving(
    size: int = 32,
    frames: int = 8,
    seed: int = 0,
    train: int = 2000,
    test: int = 500,
    label: Literal["motion", "shape"] = "motion",
) -> Data:
    """Synthetic clips of a moving solid, rendered on demand; the label is one of eight motions, or one of six shapes.

    size: pixels per side, 16 to 512. frames: per clip, 2 to 64; more frames show the same motion in smaller steps. train,
    test: the number of clips; a clip depends only on its seed, split and index. Raises `DataError`.
    """
    for name, value, low, high in (("size", size, 16, 512), ("frames", frames, 2, 64)):
        if not low <= value <= high:
            raise DataError(f"moving: {name} is {value}; it must be {low} to {high}")
    for name, count in (("train", train), ("test", test)):
        if count < 1:
            raise DataError(f"moving: {name} is {count}; it must be at least 1 clip")
    card = DataCard(
        name="moving" if label == "motion" else "moving shapes",
        targets=("label",),
        size=(size, size),
        classes=tuple(MOTIONS) if label == "motion" else EDGED,
        frames=frames,
        source="drawn by hardsight.data.made.moving",
        licence="MIT",
    )
    parts = (("train", 0, train), ("test", 1, test))
    return Data(card, {name: Clips(name, part, count, size, frames, seed, label) for name, part, count in parts})


class Clips:
    """One split (`Images`) of clips, uint8 [3, T, H, W]; rendered clips are cached if the whole split fits in `MEMORY`."""

    def __init__(self, name: str, part: int, count: int, size: int, frames: int, seed: int, label: str = "motion") -> None:
        self.name, self.part, self.count, self.size, self.frames, self.seed = name, part, count, size, frames, seed
        self.label = label
        self.keeps = count * frames * size * size * 3 <= MEMORY
        room = count if self.keeps else 0
        self._kept = np.empty((room, 3, frames, size, size), dtype=np.uint8)
        self._done = np.zeros(room, dtype=bool)

    def __reduce__(self) -> tuple:
        """A copy, for example in a data loader's worker, starts with an empty cache."""
        return Clips, (self.name, self.part, self.count, self.size, self.frames, self.seed, self.label)

    def __len__(self) -> int:
        return self.count

    def sample(self, place: int) -> Sample:
        """The clip at an index, 0 to len - 1."""
        ids, clips, target = self.batch([place])
        return Sample(ids[0], clips[0], {"label": target["label"][0]})

    def batch(self, places: Sequence[int]) -> tuple[list[str], Tensor, dict[str, Tensor]]:
        """Ids, clips uint8 [B, 3, T, H, W], and the label [B]."""
        where = np.array([checked(place, self.count) for place in places], dtype=np.int64)
        ids = [f"moving-{self.seed}-{self.name}-{place:06d}" for place in where]
        label = (motions if self.label == "motion" else shapes)(self.seed, self.part, where)
        return ids, torch.from_numpy(self._clips(where)), {"label": torch.from_numpy(label)}

    def _clips(self, places: np.ndarray) -> np.ndarray:
        wanted, back = np.unique(places, return_inverse=True)
        step = max(1, BLOCK // (self.frames * self.size**2))
        missing = wanted[~self._done[wanted]] if self.keeps else wanted
        blocks = [missing[start : start + step] for start in range(0, len(missing), step)]
        drawn = [film(self.seed, self.part, block, self.frames, self.size) for block in blocks]
        if not self.keeps:
            return np.concatenate(drawn)[back]
        for block, clips in zip(blocks, drawn, strict=True):
            self._kept[block] = clips
            self._done[block] = True
        return self._kept[places]


def motions(seed: int, part: int, places: np.ndarray) -> np.ndarray:
    """int64 [S], the classes: each block of eight indices contains every motion once, in its own random order."""
    run = keys(seed, 2000 + part, places // len(MOTIONS))
    order = np.argsort(uniform(run, "motions", len(MOTIONS)), axis=1, kind="stable")
    return order[np.arange(len(places)), places % len(MOTIONS)]


def shapes(seed: int, part: int, places: np.ndarray) -> np.ndarray:
    """int64 [S], the shapes of the moving solids, as indices into `EDGED`: each block of six clips has every shape once."""
    known = np.array([SHAPES.index(name) for name in EDGED])
    return np.argmax(labels(seed, part, _scenes(seed, part, places))[:, None] == known, axis=1)


def film(seed: int, part: int, places: np.ndarray, frames: int, size: int) -> np.ndarray:
    """The clips at indices `places` (int64 [S]) of one split, uint8 [S, 3, T, H, W]."""
    layout = moved(lay(seed, part, _scenes(seed, part, places)), *path(seed, part, places, frames))
    return np.moveaxis(render(layout, size).image.reshape(len(places), frames, 3, size, size), 1, 2)


def path(seed: int, part: int, places: np.ndarray, frames: int) -> tuple[np.ndarray, int]:
    """float64 [S, T, 4] in [0, 1): horizontal, vertical, size and rotation state of the main solid at each time; and T."""
    key = keys(seed, 3000 + part, places)
    way = np.array(list(MOTIONS.values()), dtype=np.float64)[motions(seed, part, places)]
    way[:, 3] *= np.where(uniform(key, "side") < 0.5, -1.0, 1.0)
    travel = between(LEAST, MOST, uniform(key, "travel"))
    share = np.arange(frames) / (frames - 1)
    spot = uniform(key, "start", 4)[:, None] + (way * travel[:, None])[:, None] * share[None, :, None]
    return spot - np.floor(spot), frames


def moved(layout: Layout, spot: np.ndarray, frames: int) -> Layout:
    """Expands a still layout of S scenes to S T frames, clip by clip, with the main solid in the states `spot` [S, T, 4].

    Camera and clutter are raised together until the lowest position of the solid is above the ground.
    """
    cosine, sine = layout.pitch[:, 0], layout.pitch[:, 1]
    first = layout.centre[:, 0, 1] * cosine + (layout.height - layout.centre[:, 0, 2]) * sine
    deepest = first / SMALL * (sine + REACH / 2 / layout.zoom * cosine) + CLEAR * first
    rise = np.maximum(deepest - layout.height, 0)
    height = layout.height + rise

    across, up = ((spot[..., i] - 0.5) * REACH / layout.zoom[:, None] for i in (0, 1))
    depth = first[:, None] / (SMALL + (LARGE - SMALL) * spot[..., 2])
    ahead = depth * (cosine[:, None] + up * sine[:, None])
    high = height[:, None] + depth * (up * cosine[:, None] - sine[:, None])
    every = {name: np.repeat(value, frames, axis=0) for name, value in vars(layout).items()}
    every["centre"][:, :, 2] += np.repeat(rise, frames)[:, None]
    every["centre"][:, 0] = np.stack([depth * across, ahead, high], axis=-1).reshape(-1, 3)
    every["height"] = np.repeat(height, frames)

    c, s = (part.reshape(-1, 1) for part in turn(spot[..., 3]))
    one, two = every["frame"][:, 0, :, 0].copy(), every["frame"][:, 0, :, 1].copy()
    every["frame"][:, 0, :, 0], every["frame"][:, 0, :, 1] = one * c - two * s, one * s + two * c
    return replace(layout, **every)


def _scenes(seed: int, part: int, places: np.ndarray) -> np.ndarray:
    """int64 [S]: the indices of the still scenes whose main solid is one of `EDGED`, in order."""
    run = places // len(EDGED)
    near = run[:, None] * len(SHAPES) + np.arange(len(SHAPES))
    shape = labels(seed, part, near.reshape(-1)).reshape(near.shape)
    round_ones = ~np.isin(shape, [SHAPES.index(name) for name in EDGED])
    order = np.argsort(round_ones, axis=1, kind="stable")
    return near[np.arange(len(places)), order[np.arange(len(places)), places % len(EDGED)]]
