"""Ray casting from layouts to pixels: one ray through each pixel centre gives mask and depth; four more smooth edge pixels.

Rays have the direction `forward + x right + y up`, so that t is the depth along the optical axis, in metres. Each ray takes
the closest hit among its candidate solids and the ground; a ground point is in shadow if a solid is between it and the sun.

Every step is per pixel or takes a minimum, so a scene has the same pixels alone, in any block and on every machine.
Selections are written as sums with 0 and 1 where possible: numpy's `where` is many times slower for irregular masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardsight.data.made.draws import speck, spread, tone
from hardsight.data.made.light import Looks, lit, looks, paint_ground, paint_sky, pattern_weight
from hardsight.data.made.scene import OBJECTS, Layout
from hardsight.data.made.solids import FACE_SCALE, FACE_SHIFT, meet
from hardsight.data.made.view import Objects, Pairs, gather, outlines, pair

MAX_DEPTH = 20.0
"""Metres; points farther away, which are always ground, have no depth."""
EDGE = np.float32(0.09)
"""The brightness difference between neighbours above which a pixel is antialiased."""
CORNERS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)], dtype=np.float32)
"""A rotated grid of four points in a pixel: no two share a row or column, so axis-aligned edges get four grey levels."""
NOISE = np.float32(5.0)
"""The width of the uniform sensor noise, in steps of 1/255."""

_FAR = np.float32(1e9)
"""The depth of the sky."""
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Frames:
    """S rendered scenes: image uint8 [S, 3, H, W], mask uint8 [S, H, W] (0 sky, 1 ground, 2 + shape), depth float32
    [S, H, W] in metres (0 = none), box int16 [S, M, 4] (x1 y1 x2 y2 in pixels, x2 and y2 exclusive), and box_label
    int8 [S, M], -1 where a slot has no visible object."""

    image: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    box: np.ndarray
    box_label: np.ndarray


@dataclass(frozen=True)
class Rays:
    """R rays, sorted by scene: scene int64 [R]; x, y float32 [R], at unit depth."""

    scene: np.ndarray
    x: np.ndarray
    y: np.ndarray


def render(layout: Layout, size: int) -> Frames:
    """Renders the scenes of a layout as square images of `size` pixels."""
    count = len(layout.key)
    appearance = looks(layout.key, OBJECTS)
    camera = np.stack([layout.height, *layout.pitch.T, layout.zoom, *layout.sun.T]).astype(np.float32)
    objects = gather(layout, appearance, size)
    pairs, shades = pair(objects, objects.boxes, size), pair(objects, objects.shade_boxes, size)

    everywhere = np.arange(count * size * size)
    light, t, owner = _trace(camera, objects, appearance, _rays(camera, everywhere, size), pairs, shades, size)
    rough = np.flatnonzero(_edges(light, owner, count, size))
    rank = np.full(len(everywhere), -1)
    rank[rough] = np.arange(len(rough))
    corners = np.tile(CORNERS, (len(rough), 1)).T
    rays = _rays(camera, np.repeat(rough, len(CORNERS)), size, *corners)
    few, few_shades = pairs.among(rank, len(CORNERS)), shades.among(rank, len(CORNERS))
    smooth, _, _ = _trace(camera, objects, appearance, rays, few, few_shades, size)
    for channel in range(3):
        one, two, three, four = smooth[channel].reshape(-1, len(CORNERS)).T
        light[channel][rough] = ((one + two) + (three + four)) * np.float32(0.25)

    mask = (np.append(objects.shape, -1) + 2).astype(np.uint8)[owner] - ((t >= _FAR) & (owner < 0)).view(np.uint8)
    depth = t * (t <= np.float32(MAX_DEPTH))
    box, box_label = outlines(objects, owner, count, size)
    return Frames(
        image=_develop(light, appearance.ground_salt, count, size),
        mask=mask.reshape(count, size, size),
        depth=depth.reshape(count, size, size),
        box=box,
        box_label=box_label,
    )


def _rays(
    camera: np.ndarray, spot: np.ndarray, size: int, right: np.ndarray | float = 0, down: np.ndarray | float = 0
) -> Rays:
    """The rays through pixels, numbered scene by scene and row by row, at an offset from the pixel centres (in pixels)."""
    rows = spot // size
    scene = rows // size
    zoom = spread(camera[3], scene)
    column, row = (spot - rows * size).astype(np.float32), (rows - scene * size).astype(np.float32)
    half = np.float32(0.5)
    x = ((column + (half + right)) / np.float32(size) - half) / zoom
    y = (half - (row + (half + down)) / np.float32(size)) / zoom
    return Rays(scene, x, y)


def _trace(
    camera: np.ndarray, objects: Objects, appearance: Looks, rays: Rays, pairs: Pairs, shades: Pairs, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each ray: light float32 [3, R], depth t [R] (_FAR for the sky), and the object it hits, int64 [R], or -1."""
    t, owner, face = _first(objects, rays, pairs)
    fall = spread(camera[2], rays.scene) - rays.y * spread(camera[1], rays.scene)
    ground_t = np.minimum(spread(camera[0], rays.scene) / np.maximum(fall, np.float32(1e-9)), _FAR)
    owner = (owner + 1) * (t < ground_t) - 1
    t = np.minimum(t, ground_t)

    light = np.empty((3, len(t)), dtype=np.float32)
    bare = owner < 0
    solid, ground, sky = (np.flatnonzero(which) for which in (~bare, bare & (t < _FAR), bare & (t >= _FAR)))
    dark = _shaded(objects, rays, t, ground, shades)
    scene = rays.scene.take(ground)
    painted = paint_ground(appearance, camera, scene, rays.x.take(ground), rays.y.take(ground), t.take(ground), dark, size)
    sky_light = paint_sky(appearance, camera, rays.scene.take(sky), rays.y.take(sky))
    solid_light = _paint_solids(camera, objects, appearance, rays, t, owner, face, solid)
    for where, part in ((solid, solid_light), (ground, painted), (sky, sky_light)):
        for channel in range(3):
            light[channel][where] = part[channel]
    return np.clip(light, 0, 1, out=light), t, owner


def _first(objects: Objects, rays: Rays, pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each ray the depth of the closest object (_FAR for none), its number (-1 for none), and the face that is hit."""
    t, face = np.empty(len(pairs.ray), dtype=np.float32), np.empty(len(pairs.ray), dtype=np.uint8)
    start = 0
    for shape, (low, high) in enumerate(zip(objects.starts[:-1], objects.starts[1:], strict=True)):
        counts = pairs.counts[low:high]
        span = slice(start, start + int(counts.sum()))
        start = span.stop
        if span.start < span.stop:
            ray = pairs.ray[span]
            table = np.repeat(objects.rays[:, low:high], counts, axis=1)
            origin, direction = _ray(table, rays.x.take(ray, mode="clip"), rays.y.take(ray, mode="clip"))
            near, face[span] = meet(shape, origin, direction)
            t[span] = near + table[12]
    hit = np.flatnonzero(t < _FAR)
    # Positive floats sort like their bits: with depth in the high bits and the pair's number below, the minimum is closest.
    order = (t.take(hit).view(np.uint32).astype(np.int64) << 32) | hit
    best = np.full(len(rays.x), _NONE)
    np.minimum.at(best, pairs.ray.take(hit), order)
    found = np.flatnonzero(best < _NONE)
    winner = best.take(found) & 0xFFFFFFFF
    depth, owner, by = np.full(len(best), _FAR), np.full(len(best), -1), np.zeros(len(best), dtype=np.uint8)
    depth[found], by[found] = t.take(winner), face.take(winner)
    owner[found] = np.repeat(np.arange(len(pairs.counts)), pairs.counts).take(winner)
    return depth, owner, by


def _ray(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[tuple, tuple]:
    """Origin and direction of rays in their solids' frames, [R] each; they start near the centre, for float32 accuracy.

    table: [13, R], the rows of `Objects.rays`.
    """
    direction = tuple(table[i] + x * table[3 + i] + y * table[6 + i] for i in range(3))
    return tuple(table[9 + i] + table[12] * direction[i] for i in range(3)), direction


def _shaded(objects: Objects, rays: Rays, t: np.ndarray, ground: np.ndarray, shades: Pairs) -> np.ndarray:
    """bool [G]: whether the ground points hit by the rays numbered `ground` (int64 [G]) are in an object's shadow."""
    rank = np.full(len(t), -1)
    rank[ground] = np.arange(len(ground))
    shades = shades.among(rank)
    x, y, t = rays.x.take(ground), rays.y.take(ground), t.take(ground)
    dark = np.zeros(len(ground), dtype=bool)
    start = 0
    for shape, (low, high) in enumerate(zip(objects.starts[:-1], objects.starts[1:], strict=True)):
        counts = shades.counts[low:high]
        ray = shades.ray[start : start + int(counts.sum())]
        start += len(ray)
        if len(ray):
            table = np.repeat(objects.rays[:, low:high], counts, axis=1)
            origin, direction = _ray(table, x.take(ray, mode="clip"), y.take(ray, mode="clip"))
            further = t.take(ray, mode="clip") - table[12]
            origin = tuple(o + further * d for o, d in zip(origin, direction, strict=True))
            near, _ = meet(shape, origin, tuple(np.repeat(objects.sun[:, low:high], counts, axis=1)))
            dark[ray.take(np.flatnonzero((near < _FAR) & (near > 0)))] = True
    return dark


def _paint_solids(
    camera: np.ndarray,
    objects: Objects,
    appearance: Looks,
    rays: Rays,
    t: np.ndarray,
    owner: np.ndarray,
    face: np.ndarray,
    where: np.ndarray,
) -> np.ndarray:
    """Light [3, P] of the rays numbered `where` (int64 [P]), which hit an object."""
    x, y, t, owner, face = (part.take(where) for part in (rays.x, rays.y, t, owner, face))
    scene = rays.scene.take(where)
    table = objects.rays.take(owner, axis=1, mode="clip")
    origin, direction = _ray(table, x, y)
    p = np.stack([o + (t - table[12]) * d for o, d in zip(origin, direction, strict=True)])
    n = p * FACE_SCALE.take(face, axis=1, mode="clip") + FACE_SHIFT.take(face, axis=1, mode="clip")
    frame = objects.frame.take(owner, axis=1, mode="clip")
    n = np.stack([n[0] * frame[i] + n[1] * frame[3 + i] + n[2] * frame[6 + i] for i in range(3)])
    n /= np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    c, s = spread(camera[1], scene), spread(camera[2], scene)
    view = np.stack([-x, -c - y * s, s - y * c])
    view /= np.sqrt(view[0] * view[0] + view[1] * view[1] + view[2] * view[2])
    paint = objects.paint.take(owner, axis=1, mode="clip")
    first, second, offset, (fine, shine, sharp) = paint[:3], paint[3:6], paint[6:9], paint[9:]
    weight = pattern_weight(objects.pattern.take(owner), p * fine + offset, objects.salt.take(owner))
    base = first + (second - first) * weight
    sun, sunlight, skylight = (spread(table, scene) for table in (camera[4:7], appearance.sunlight, appearance.skylight))
    return lit(base, n, view, sun, sunlight, skylight, shine, sharp)


def _edges(light: np.ndarray, owner: np.ndarray, count: int, size: int) -> np.ndarray:
    """bool [S, H, W]: pixels that differ from a neighbour in object or in brightness."""
    bright = np.sqrt((light[0] + light[1] + light[1] + light[2]) * np.float32(0.25)).reshape(count, size, size)
    owner = owner.reshape(count, size, size)
    rough = np.zeros((count, size, size), dtype=bool)
    across = (owner[:, :, 1:] != owner[:, :, :-1]) | (np.abs(bright[:, :, 1:] - bright[:, :, :-1]) > EDGE)
    down = (owner[:, 1:] != owner[:, :-1]) | (np.abs(bright[:, 1:] - bright[:, :-1]) > EDGE)
    rough[:, :, 1:] |= across
    rough[:, :, :-1] |= across
    rough[:, 1:] |= down
    rough[:, :-1] |= down
    return rough


def _develop(light: np.ndarray, salt: np.ndarray, count: int, size: int) -> np.ndarray:
    """uint8 [S, 3, H, W]: applies gamma and sensor noise (salt uint32 [S]), and rounds."""
    spot = np.arange(size * size, dtype=np.int32)
    image = np.empty((count, 3, size * size), dtype=np.uint8)
    for channel in range(3):
        noise = tone(speck(salt[:, None], spot, np.full_like(spot, channel + 7))) - np.float32(0.5)
        value = np.sqrt(light[channel]).reshape(count, -1) * np.float32(255) + noise * NOISE + np.float32(0.5)
        image[:, channel] = np.clip(np.floor(value), 0, 255).astype(np.uint8)
    return image.reshape(count, 3, size, size)
