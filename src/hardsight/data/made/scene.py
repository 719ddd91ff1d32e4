"""Scene layout: the positions of camera, sun and objects in a block of scenes, drawn from their keys, for any image size.

The main object is placed first, near the centre of the view. For each clutter slot a few positions are tried, and the slot
stays empty if all of them collide with an object or hide the main one. World axes: x right, y ahead, z up, metres, ground at
z = 0; the camera is above the origin. A layout is one point in time: a moving scene is one `Layout` per frame, which needs
only changes to `height`, `pitch`, `centre` and `frame` between `lay` and the renderer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardsight.data.made.draws import between, choose, keys, uniform
from hardsight.data.made.solids import SHAPES, SOLIDS

CLUTTER = 6
OBJECTS = 1 + CLUTTER
TRIES = 6
NEAREST, FARTHEST = 2.0, 10.0
"""The range of distances ahead of the camera, in metres, for clutter."""

_RESTS = max(len(solid.rests) for solid in SOLIDS.values())
REST = np.array([[solid.rests[i % len(solid.rests)] for i in range(_RESTS)] for solid in SOLIDS.values()])
REST_COUNT = np.array([len(solid.rests) for solid in SOLIDS.values()])
GIVE = np.array([solid.give for solid in SOLIDS.values()])
REACH = np.array([solid.reach for solid in SOLIDS.values()])
TURNS = np.array([solid.turns for solid in SOLIDS.values()])
FLAT = np.array([SHAPES.index("cube"), SHAPES.index("cylinder")])
"""Shapes whose first rest pose has a flat top, as far above the origin as the ground is below: objects can rest on them."""


@dataclass(frozen=True)
class Layout:
    """S scenes of up to M objects each; float64 unless stated otherwise.

    key uint64 [S]; label int64 [S]; height [S] of the camera; pitch [S, 2] cosine and sine of its downward angle; zoom [S]
    its focal length in image widths; sun [S, 3] unit vector towards the light; shape int64 [S, M], -1 if a slot is empty,
    slot 0 is the main object; centre [S, M, 3]; frame [S, M, 3, 3], from world coordinates to the solid's axes and unit.
    """

    key: np.ndarray
    label: np.ndarray
    height: np.ndarray
    pitch: np.ndarray
    zoom: np.ndarray
    sun: np.ndarray
    shape: np.ndarray
    centre: np.ndarray
    frame: np.ndarray


def labels(seed: int, part: int, places: np.ndarray) -> np.ndarray:
    """int64 [S]: each block of K indices contains every class once, in an order that differs between blocks."""
    count = len(SHAPES)
    run = uniform(keys(seed, 1000 + part, places // count), "order", 2)
    steps = np.array([step for step in range(1, count) if np.gcd(step, count) == 1])
    step = steps[choose(len(steps), run[:, 0])]
    return (places % count * step + choose(count, run[:, 1])) % count


def turn(u: np.ndarray, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle drawn from u in [0, 1): any angle, or -70 to 70 degrees if `half`; rational, so exact."""
    t = (u * 2 - 1) * 0.7 if half else np.abs(u * 4 - 2) - 1
    sign = 1.0 if half else np.where(u < 0.5, 1.0, -1.0)
    return sign * (1 - t * t) / (1 + t * t), sign * 2 * t / (1 + t * t)


def lay(seed: int, part: int, places: np.ndarray) -> Layout:
    """The layout of the scenes at indices `places` (int64 [S]) of one split."""
    key, label = keys(seed, part, places), labels(seed, part, places)
    count = len(key)
    shape = choose(len(SHAPES), uniform(key, "shape", OBJECTS))
    shape[:, 0] = label
    tower = uniform(key, "tower") < 0.45
    shape[:, 1] = np.where(tower, FLAT[choose(len(FLAT), uniform(key, "foot"))], shape[:, 1])
    rest = choose(REST_COUNT[shape], uniform(key, "rest", OBJECTS))
    rest[:, 1] = np.where(tower, 0, rest[:, 1])

    size = between(0.22, 0.62, uniform(key, "size", OBJECTS))
    size[:, 0] = between(0.45, 0.75, uniform(key, "main size"))
    size[:, 1] = np.where(tower, between(0.35, 0.6, uniform(key, "foot size")), size[:, 1])
    size[:, 2] = np.where(tower, size[:, 1] * between(0.6, 0.85, uniform(key, "top size")), size[:, 2])
    frame, rise = _poses(key, shape, rest, size)
    reach = size * REACH[shape]

    zoom = between(1.0, 1.3, uniform(key, "zoom"))
    share = between(0.44, 0.66, uniform(key, "share"))
    away = 2 * size[:, 0] * zoom / share
    lift = np.minimum(between(0.16, 0.55, uniform(key, "lift")), (2.5 - rise[:, 0]) / away)
    height = rise[:, 0] + lift * away
    ahead = away * np.sqrt(1 - lift * lift)
    aim = between(-0.12, 0.12, uniform(key, "aim", 2))
    cosine = np.sqrt(1 - lift * lift)
    tilt = np.sqrt(1 + aim[:, 1] * aim[:, 1])
    pitch = np.stack([(cosine + lift * aim[:, 1]) / tilt, (lift - cosine * aim[:, 1]) / tilt], axis=1)

    centre = np.zeros((count, OBJECTS, 3))
    centre[:, :, 2] = rise
    centre[:, 0, 0] = aim[:, 0] * away
    centre[:, 0, 1] = ahead
    present = np.zeros((count, OBJECTS), dtype=bool)
    present[:, 0] = True
    wanted = between(2, CLUTTER + 1, uniform(key, "clutter"))
    for slot in range(1, OBJECTS):
        spot = _spots(uniform(key, f"spot {slot}", TRIES, 2), rise[:, slot], ahead, zoom)
        if slot == 2:
            top = centre[:, 1].copy()
            top[:, 2] += rise[:, 1] + rise[:, 2]
            spot = np.where(tower[:, None, None], top[:, None], spot)
        free = _free(spot, reach[:, slot], centre, reach, present, skip=np.where(tower, 1, -1) if slot == 2 else None)
        free &= _shows_main(spot, reach[:, slot], centre[:, 0], reach[:, 0], height, pitch, zoom)
        first = np.argmax(free, axis=1)
        centre[:, slot] = spot[np.arange(count), first]
        present[:, slot] = free.any(axis=1) & (slot <= wanted)
        if slot == 2:
            present[:, 2] &= ~tower | present[:, 1]
    return Layout(key, label, height, pitch, zoom, _suns(key), np.where(present, shape, -1), centre, frame)


def _suns(key: np.ndarray) -> np.ndarray:
    """[S, 3]: 35 to 65 degrees high, from any side except straight ahead, where all visible surfaces would be in shadow."""
    u = uniform(key, "sun", 2)
    cosine, sine = turn(u[:, 0], half=True)
    flat = between(0.42, 0.8, u[:, 1])
    side = np.stack([sine, -cosine * 1.2 + 0.35], axis=1)
    length = np.sqrt(side[:, 0] * side[:, 0] + side[:, 1] * side[:, 1])
    return np.stack([side[:, 0] / length * flat, side[:, 1] / length * flat, np.sqrt(1 - flat * flat)], axis=1)


def _poses(key: np.ndarray, shape: np.ndarray, rest: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """frame [S, M, 3, 3] and rise [S, M], the height of the origin, of solids resting on the face given by `rest`."""
    stretch = size[..., None] * (1 + GIVE[shape] * (2 * uniform(key, "stretch", OBJECTS, 3) - 1))
    plane = REST[shape, rest]
    normal = plane[..., :3] / stretch
    length = np.sqrt(normal[..., 0] * normal[..., 0] + normal[..., 1] * normal[..., 1] + normal[..., 2] * normal[..., 2])
    up = -normal / length[..., None]
    # Any pair of horizontal axes works, because a rotation about the vertical follows: start from the least vertical axis.
    helper = np.where((np.abs(up[..., 0]) < 0.6)[..., None], np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    along = helper[..., 0] * up[..., 0] + helper[..., 1] * up[..., 1]
    right = helper - along[..., None] * up
    right /= np.sqrt(right[..., 0] * right[..., 0] + right[..., 1] * right[..., 1] + right[..., 2] * right[..., 2])[
        ..., None
    ]
    a, b = up, right
    front = np.stack([a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=-1)
    u = uniform(key, "spin", OBJECTS)
    whole, half = turn(u), turn(u, half=True)
    cosine, sine = (np.where(TURNS[shape], w, h)[..., None] for w, h in zip(whole, half, strict=True))
    axes = (cosine * right - sine * front, sine * right + cosine * front, up)
    return np.stack(axes, axis=-1) / stretch[..., None], plane[..., 3] / length


def _spots(u: np.ndarray, rise: np.ndarray, ahead: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """[S, T, 3]: candidate positions, from u [S, T, 2]; denser near the camera, as wide as the view at their depth."""
    nearest = np.minimum(np.maximum(ahead - 0.6, NEAREST), FARTHEST - 1)[:, None]
    y = nearest + (FARTHEST - nearest) * u[..., 0] * (0.35 + 0.65 * u[..., 0])
    x = (u[..., 1] * 2 - 1) * 0.5 * y / zoom[:, None]
    return np.stack([x, y, np.broadcast_to(rise[:, None], x.shape)], axis=-1)


def _free(
    spot: np.ndarray, radius: np.ndarray, centre: np.ndarray, reach: np.ndarray, present: np.ndarray, skip: np.ndarray | None
) -> np.ndarray:
    """bool [S, T]: whether a ball around the position intersects none of those around existing objects, except `skip`."""
    free = np.ones(spot.shape[:2], dtype=bool)
    for other in range(OBJECTS):
        x, y, z = (spot[..., i] - centre[:, other, None, i] for i in range(3))
        room = 0.9 * (radius + reach[:, other])[:, None]
        apart = x * x + y * y + z * z > room * room
        counts = present[:, other] if skip is None else present[:, other] & (skip != other)
        free &= apart | ~counts[:, None]
    return free


def _shows_main(
    spot: np.ndarray,
    radius: np.ndarray,
    main: np.ndarray,
    main_radius: np.ndarray,
    height: np.ndarray,
    pitch: np.ndarray,
    zoom: np.ndarray,
) -> np.ndarray:
    """bool [S, T]: whether the object is in view, appears smaller than the main object and, if closer, does not cover it."""
    c, s = pitch[:, 0, None], pitch[:, 1, None]

    def seen(point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = point[..., 2] - height[:, None]
        depth = point[..., 1] * c - z * s
        return point[..., 0] / depth, (point[..., 1] * s + z * c) / depth, depth

    x, y, depth = seen(spot)
    main_x, main_y, main_depth = seen(main[:, None])
    wide, main_wide = radius[:, None] / depth, main_radius[:, None] / main_depth
    edge = 0.5 / zoom[:, None]
    in_view = (np.abs(x) < edge) & (np.abs(y) < edge) & (depth > 1.2)
    gap = 0.72 * (wide + main_wide)
    x, y = x - main_x, y - main_y
    return in_view & (wide < 0.8 * main_wide) & ((depth > main_depth) | (x * x + y * y > gap * gap))
