"""Appearance of the scenes: colours, patterns and light, drawn from the scene's key, independently of the shapes.

Colours are linear light in 0..1, float32 [3, P]; the renderer takes the square root (a gamma of 2) at the very end. Every
function works per pixel. A pattern is a weight between the two colours of an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardsight.data.made.draws import between, bits, choose, speck, spread, tone, uniform

PATTERNS = ("matte", "stripes", "checker", "speckle", "cloudy", "fade")
GROUNDS = ("earth", "tiles", "planks", "flags")
MIST = 18.0
"""The distance in metres at which the ground is blended half with the horizon colour."""
JOINT = np.float32(0.06)
"""Half the width of the joints between planks or flagstones, as a fraction of their size."""

ONE = np.float32(1)


@dataclass(frozen=True)
class Looks:
    """The appearance of S scenes of M objects each: colours float32 [3, ...], numbers float32, choices int64, salts uint32.

    first, second [3, S, M], pattern, fine (cells per unit), shine and sharp [S, M], offset [3, S, M], salt [S, M]; for the
    ground earth, joint [3, S], ground, ground_fine (cells per metre), ground_salt, ground_turn [2, S]; zenith, horizon,
    sunlight, skylight [3, S].
    """

    first: np.ndarray
    second: np.ndarray
    pattern: np.ndarray
    fine: np.ndarray
    shine: np.ndarray
    sharp: np.ndarray
    offset: np.ndarray
    salt: np.ndarray
    earth: np.ndarray
    joint: np.ndarray
    ground: np.ndarray
    ground_fine: np.ndarray
    ground_salt: np.ndarray
    ground_turn: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    sunlight: np.ndarray
    skylight: np.ndarray


def looks(key: np.ndarray, objects: int) -> Looks:
    """The appearance of the scenes with these keys (uint64 [S])."""
    u = uniform(key, "colour", objects, 6)
    first = colour(u[..., 0], between(0.15, 1.0, u[..., 1]), between(0.5, 1.0, u[..., 2]))
    # The second colour differs clearly from the first in hue or in brightness, so that every pattern is visible.
    second = colour(u[..., 0] + between(0.25, 0.75, u[..., 3]), u[..., 4], np.where(u[..., 2] < 0.5, 1.0, 0.32))
    pattern = choose(len(PATTERNS) + 1, uniform(key, "pattern", objects)) % len(PATTERNS)
    gloss = uniform(key, "gloss", objects, 2)
    soil = uniform(key, "soil", 5)
    air = uniform(key, "air", 4)
    earth = colour(between(0.03, 0.33, soil[:, 0]), between(0.0, 0.36, soil[:, 1]), between(0.4, 0.85, soil[:, 2]))
    joint = earth * np.where(soil[:, 3] < 0.7, between(0.35, 0.65, soil[:, 4]), between(1.3, 1.6, soil[:, 4]))
    horizon = colour(between(0.45, 0.68, air[:, 0]), between(0.0, 0.25, air[:, 1]), between(0.82, 1.0, air[:, 2]))
    zenith = colour(between(0.55, 0.65, air[:, 0]), between(0.2, 0.75, air[:, 3]), between(0.55, 0.95, air[:, 2]))
    warm = uniform(key, "warm")
    sunlight = np.stack([between(0.95, 1.1, warm), between(0.85, 0.95, warm), between(0.9, 0.65, warm)])
    turned = uniform(key, "ground turn")
    half = 1 + turned * turned
    offset = np.moveaxis(uniform(key, "offset", objects, 3), -1, 0) * 7 + 50
    salts = (bits(key, "salt", objects + 1) >> np.uint64(32)).astype(np.uint32)
    exact = (first, second, between(1.6, 3.4, uniform(key, "fine", objects)))
    first, second, fine = (part.astype(np.float32) for part in exact)
    return Looks(
        first=first,
        second=second,
        pattern=pattern,
        fine=fine,
        shine=np.where(gloss[..., 0] < 0.45, 0, between(0.25, 0.9, gloss[..., 0])).astype(np.float32),
        sharp=(gloss[..., 1] < 0.5).astype(np.float32),
        offset=offset.astype(np.float32),
        salt=salts[:, :objects],
        earth=earth.astype(np.float32),
        joint=np.minimum(joint, 0.9).astype(np.float32),
        ground=choose(len(GROUNDS), uniform(key, "ground")),
        ground_fine=between(0.9, 2.2, uniform(key, "ground fine")).astype(np.float32),
        ground_salt=salts[:, objects],
        ground_turn=np.stack([(1 - turned * turned) / half, 2 * turned / half]).astype(np.float32),
        zenith=zenith.astype(np.float32),
        horizon=horizon.astype(np.float32),
        sunlight=sunlight.astype(np.float32),
        skylight=(0.22 + 0.16 * zenith).astype(np.float32),
    )


def colour(hue: np.ndarray, strength: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Linear light [3, ...] from hue (in turns), saturation and value: HSV to RGB, then a gamma of 2."""
    h = (hue - np.floor(hue)) * 6
    wheel = np.stack([np.abs(h - 3) - 1, 2 - np.abs(h - 2), 2 - np.abs(h - 4)])
    display = value * (1 - strength * (1 - np.clip(wheel, 0, 1)))
    return display * display


def pattern_weight(kind: np.ndarray, p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """float32 [P]: the weight of the second colour at p (float32 [3, P], in cells) of a pattern (int [P])."""
    weight = np.zeros(len(kind), dtype=np.float32)
    for index, paint in ((1, _stripes), (2, _checker), (3, _speckle), (4, _cloudy), (5, _fade)):
        where = np.flatnonzero(kind == index)
        if len(where):
            weight[where] = paint(p[:, where], salt[where])
    return weight


def _stripes(p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    tilt = ((salt & np.uint32(3)).astype(np.float32) - np.float32(1.5)) * np.float32(0.4)
    across = (p[2] + p[0] * tilt) * np.float32(1.3)
    return (across - np.floor(across) < np.float32(0.5)).astype(np.float32)


def _checker(p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    cells = np.floor(p * np.float32(1.1)).astype(np.int32)
    return ((cells[0] + cells[1] + cells[2]) & 1).astype(np.float32)


def _speckle(p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    cells = np.floor(p * np.float32(3.5)).astype(np.int32)
    return (tone(speck(salt, cells[0], cells[1], cells[2])) < np.float32(0.3)).astype(np.float32)


def _cloudy(p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    soft = value_noise(p[0] + p[2] * np.float32(0.6), p[1] - p[2] * np.float32(0.8), salt)
    return np.clip(soft * np.float32(3) - ONE, 0, 1)


def _fade(p: np.ndarray, salt: np.ndarray) -> np.ndarray:
    along = p[2] * np.float32(0.35)
    saw = along - np.floor(along)
    return np.abs(saw * np.float32(2) - ONE)


def value_noise(x: np.ndarray, y: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """float32 in [0, 1): a random value at each integer point, smoothly interpolated (Perlin's cubic)."""
    left, low = np.floor(x), np.floor(y)
    i, j = left.astype(np.int32), low.astype(np.int32)
    u, v = x - left, y - low
    u, v = u * u * (np.float32(3) - u - u), v * v * (np.float32(3) - v - v)
    one = np.int32(1)
    a, b = tone(speck(salt, i, j)), tone(speck(salt, i + one, j))
    c, d = tone(speck(salt, i, j + one)), tone(speck(salt, i + one, j + one))
    top, bottom = a + (b - a) * u, c + (d - c) * u
    return top + (bottom - top) * v


def paint_ground(
    appearance: Looks,
    camera: np.ndarray,
    scene: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    dark: np.ndarray,
    size: int,
) -> np.ndarray:
    """Light [3, P] of the ground where rays x, y (at unit depth) hit it at depth t; scene int64 [P], sorted; dark: shadow.

    camera: [7, S] height, cosine and sine of the pitch, zoom, sun.
    """
    height, c, s, zoom = (spread(row, scene) for row in camera[:4])
    fine, (cosine, sine) = spread(appearance.ground_fine, scene), spread(appearance.ground_turn, scene)
    east, north = t * x * fine, t * (c + y * s) * fine
    u, v = (np.clip(part, -1e5, 1e5) for part in (cosine * east - sine * north, sine * east + cosine * north))
    # The length of a pixel on the ground, in cells: a pattern finer than a pixel is replaced by its mean.
    blur = t * t * fine / (height * zoom * np.float32(size))
    weight, bright = _ground_weight(spread(appearance.ground, scene), u, v, spread(appearance.ground_salt, scene), blur)
    earth = spread(appearance.earth, scene)
    base = (earth + (spread(appearance.joint, scene) - earth) * weight) * bright
    sun = spread(camera[6], scene) * ~dark
    seen = base * (spread(appearance.skylight, scene) * np.float32(1.1) + spread(appearance.sunlight, scene) * sun)
    mist = t * t
    mist = mist / (mist + np.float32(MIST * MIST))
    return seen + (spread(appearance.horizon, scene) - seen) * mist


def paint_sky(appearance: Looks, camera: np.ndarray, scene: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Light [3, P] of the sky along rays y (at unit depth)."""
    rise = np.clip((y * spread(camera[1], scene) - spread(camera[2], scene)) * np.float32(2.5), 0, 1)
    horizon = spread(appearance.horizon, scene)
    return horizon + (spread(appearance.zenith, scene) - horizon) * rise


def _ground_weight(kind: np.ndarray, x: np.ndarray, y: np.ndarray, salt: np.ndarray, blur: np.ndarray) -> tuple:
    """The weight of the joint colour and the brightness of the ground, float32 [P] each, at x, y (in cells)."""
    tiles, planks, flags = (kind == index for index in (1, 2, 3))
    left, low = np.floor(x), np.floor(y)
    u, v = x - left, y - low
    i, j = left.astype(np.int32), low.astype(np.int32) * ~planks
    u, v = np.minimum(u, ONE - u), np.minimum(v, ONE - v)
    joint = (np.minimum(u, v) < JOINT) & flags | (u < JOINT) & planks
    parity = ((i + j) & 1).astype(bool) & tiles
    share = planks * np.float32(2 * JOINT) + flags * np.float32(4 * JOINT) + tiles * np.float32(0.5)
    clear = np.clip(np.float32(1.6) - blur * np.float32(2), 0, 1)
    weight = share + ((joint | parity) - share) * clear
    shade = (tone(speck(salt, i, j)) - np.float32(0.5)) * (planks | flags)
    grain = value_noise(x * np.float32(5), y * np.float32(5), salt) - np.float32(0.5)
    fine = np.clip(np.float32(1.3) - blur * np.float32(4), 0, 1)
    broad = value_noise(x * np.float32(0.7), y * np.float32(0.7), salt) - np.float32(0.5)
    bright = ONE + shade * clear * np.float32(0.4) + grain * fine * np.float32(0.5) + broad * np.float32(0.35)
    return weight, bright


def lit(
    base: np.ndarray,
    n: np.ndarray,
    view: np.ndarray,
    sun: np.ndarray,
    sunlight: np.ndarray,
    skylight: np.ndarray,
    shine: np.ndarray,
    sharp: np.ndarray,
) -> np.ndarray:
    """Light [3, P] from a surface of colour `base` with unit normal n: sun, sky, reflection from below, and a highlight.

    n, view (unit, towards the camera), sun (unit): float32 [3, P]. The highlight is Blinn's, with exponent 16, or 64
    where `sharp` is 1, computed by squaring.
    """
    facing = np.maximum(n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2], 0)
    above = np.float32(0.72) + np.float32(0.38) * n[2]
    colours = base * (sunlight * facing + skylight * above)
    h = view + sun
    size = np.sqrt(h[0] * h[0] + h[1] * h[1] + h[2] * h[2])
    gleam = np.maximum(n[0] * h[0] + n[1] * h[1] + n[2] * h[2], 0) / size
    for _ in range(4):
        gleam = gleam * gleam
    tight = gleam * gleam
    gleam = gleam + (tight * tight - gleam) * sharp
    return colours + sunlight * (gleam * shine * (facing > 0))
