"""Visibility candidates: the block's objects in their own frames, and the (object, ray) pairs to test for intersection.

An object is tested only with rays through the pixels that the outline of its bounding box can cover, and its shadow only
with those that the outline of the box's shadow can cover. Objects are sorted by shape and pairs by object, so all pairs of a
shape are contiguous, and the values of an object are repeated over its pairs, which is faster than indexing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardsight.data.made.light import Looks
from hardsight.data.made.scene import OBJECTS, Layout
from hardsight.data.made.solids import SHAPES, SOLIDS

_BOX = np.array([solid.box for solid in SOLIDS.values()])


@dataclass(frozen=True)
class Objects:
    """The block's O objects. scene, slot, shape int64 [O]; starts int64 [K + 1], the first object of each shape; float32
    tables: rays [13, O] (forward, right, up and the camera in the solid's frame, and the depth of its centre), sun [3, O],
    frame [9, O], paint [12, O] (first and second colour, offset, fine, shine, sharp); pattern int64 and salt uint32 [O];
    boxes and shade_boxes int64 [4, O], in pixels."""

    scene: np.ndarray
    slot: np.ndarray
    shape: np.ndarray
    starts: np.ndarray
    rays: np.ndarray
    sun: np.ndarray
    frame: np.ndarray
    paint: np.ndarray
    pattern: np.ndarray
    salt: np.ndarray
    boxes: np.ndarray
    shade_boxes: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Which rays can hit which object: ray int64 [P], object by object, and counts int64 [O], the rays per object."""

    ray: np.ndarray
    counts: np.ndarray

    def among(self, rank: np.ndarray, times: int = 1) -> Pairs:
        """The pairs of the rays with a rank (int64 [R], -1 for none), renumbered by rank, with `times` rays per rank."""
        ray = rank.take(self.ray, mode="clip")
        kept = ray >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        ends = np.cumsum(self.counts)
        ray = ray.take(np.flatnonzero(kept))[:, None] * times + np.arange(times)
        return Pairs(ray.reshape(-1), (before[ends] - before[ends - self.counts]) * times)


def gather(layout: Layout, appearance: Looks, size: int) -> Objects:
    """The objects of a layout, for an image of `size` pixels."""
    scene, slot = np.nonzero(layout.shape >= 0)
    shape = layout.shape[scene, slot]
    order = np.argsort(shape, kind="stable")
    scene, slot, shape = scene[order], slot[order], shape[order]
    frame, centre = layout.frame[scene, slot], layout.centre[scene, slot]
    height, c, s = layout.height[scene], layout.pitch[scene, 0], layout.pitch[scene, 1]
    sun = layout.sun[scene]

    def inside(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> list[np.ndarray]:
        return [frame[:, i, 0] * x + frame[:, i, 1] * y + frame[:, i, 2] * z for i in range(3)]

    depth = centre[:, 1] * c + (height - centre[:, 2]) * s
    eye = inside(-centre[:, 0], -centre[:, 1], height - centre[:, 2])
    rays = [*inside(0.0, c, -s), *inside(1.0, 0.0, 0.0), *inside(0.0, s, c), *eye, depth]
    corners = _corners(frame, centre, _BOX[shape])
    fall = corners[2] / sun[:, 2]
    shadow = [corners[0] - fall * sun[:, 0], corners[1] - fall * sun[:, 1], np.zeros_like(fall)]
    view = (height, c, s, layout.zoom[scene], size)
    looked = appearance
    paint = [*looked.first, *looked.second, *looked.offset, looked.fine, looked.shine, looked.sharp]
    return Objects(
        scene=scene,
        slot=slot,
        shape=shape,
        starts=np.searchsorted(shape, np.arange(len(SHAPES) + 1)),
        rays=np.stack(rays).astype(np.float32),
        sun=np.stack(inside(sun[:, 0], sun[:, 1], sun[:, 2])).astype(np.float32),
        frame=frame.reshape(-1, 9).T.astype(np.float32),
        paint=np.stack(paint)[:, scene, slot],
        pattern=looked.pattern[scene, slot],
        salt=looked.salt[scene, slot],
        boxes=_outline(corners, *view),
        shade_boxes=_outline(shadow, *view),
    )


def _corners(frame: np.ndarray, centre: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
    """World x, y, z, [8, O] each, of the corners of the solids' bounding boxes."""
    # The rows of a frame are orthogonal, each divided by its stretch: over their squared lengths they give the inverse.
    squared = frame[..., 0] * frame[..., 0] + frame[..., 1] * frame[..., 1] + frame[..., 2] * frame[..., 2]
    sides = frame * (box / squared)[..., None]
    signs = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]).T[..., None]
    return [
        centre[:, i] + signs[0] * sides[:, 0, i] + signs[1] * sides[:, 1, i] + signs[2] * sides[:, 2, i] for i in range(3)
    ]


def _outline(points: list, height: np.ndarray, c: np.ndarray, s: np.ndarray, zoom: np.ndarray, size: int) -> np.ndarray:
    """int64 [4, O]: x1, y1, x2, y2 of the pixels that the points' outline can cover; the full image if a point is behind."""
    x, y, z = points[0], points[1], points[2] - height
    depth = y * c - z * s
    safe = np.maximum(depth, 0.05)
    across = (x / safe * zoom + 0.5) * size
    down = (0.5 - (y * s + z * c) / safe * zoom) * size
    behind = (depth < 0.05).any(axis=0)
    edges = [
        np.floor(across.min(axis=0)),
        np.floor(down.min(axis=0)),
        np.ceil(across.max(axis=0)),
        np.ceil(down.max(axis=0)),
    ]
    low = [np.where(behind, 0, np.clip(edge, 0, size)) for edge in edges[:2]]
    high = [np.where(behind, size, np.clip(edge, 0, size)) for edge in edges[2:]]
    return np.stack([*low, *high]).astype(np.int64)


def pair(objects: Objects, boxes: np.ndarray, size: int) -> Pairs:
    """Pairs each object with the rays of the pixels in its box, row by row; rays are numbered scene by scene, row by row."""
    wide, high = np.maximum(boxes[2] - boxes[0], 0), np.maximum(boxes[3] - boxes[1], 0)
    corner = objects.scene * size * size + boxes[1] * size + boxes[0]
    row_width = np.repeat(wide, high)
    row = np.arange(len(row_width)) - np.repeat(np.cumsum(high) - high, high)
    row_start = np.repeat(corner, high) + row * size
    shift = row_start - (np.cumsum(row_width) - row_width)
    ray = np.repeat(shift, row_width)
    ray += np.arange(len(ray))
    return Pairs(ray, wide * high)


def outlines(objects: Objects, owner: np.ndarray, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The bounding box of each object's visible pixels, int16 [S, M, 4], and its label, int8 [S, M], -1 if none is visible.

    owner: int64 [S H W], the object that each pixel shows, or -1.
    """
    seen = np.flatnonzero(owner >= 0)
    who = owner.take(seen)
    row = seen // size
    low, high = np.full((2, len(objects.slot)), size), np.zeros((2, len(objects.slot)), dtype=np.int64)
    for axis, place in enumerate((seen - row * size, row % size)):
        np.minimum.at(low[axis], who, place)
        np.maximum.at(high[axis], who, place + 1)
    box = np.zeros((count, OBJECTS, 4), dtype=np.int16)
    label = np.full((count, OBJECTS), -1, dtype=np.int8)
    shown = high[0] > 0
    at = objects.scene[shown], objects.slot[shown]
    box[at] = np.concatenate([low, high])[:, shown].T
    label[at] = objects.shape[shown]
    return box, label
