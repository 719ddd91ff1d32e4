"""The shapes, and ray intersection with them.

A solid is a union of convex parts, and a part is an intersection of surfaces. A ray enters each surface at one t and leaves
it at another: it enters a part at the last entry, if that is before the first exit. Only a hole is subtracted from a part.
The outward normal of every surface is `scale * p + shift`, per axis, so one small table covers both planes and quadrics.

Points p are in the solid's own frame, z up, about one unit from the centre to the rim. Rays are three arrays of origins and
three of directions, float32 [P]; only +, -, *, /, sqrt and comparisons touch them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Vector = tuple[np.ndarray, np.ndarray, np.ndarray]
Crossing = tuple[np.ndarray, np.ndarray, np.ndarray | int]
"""The t where a ray enters, the t where it leaves, and the number of the face where it enters."""

FAR = np.float32(1e12)
"""Added to the t of surfaces that a ray misses: far beyond everything visible."""
TINY = np.float32(1e-30)
"""Prevents 0 / 0 for a ray parallel to a surface; lost in rounding for all other rays."""

_faces: list[tuple[tuple[float, ...], tuple[float, ...]]] = []


def _face(scale: tuple[float, ...], shift: tuple[float, ...]) -> int:
    _faces.append((scale, shift))
    return len(_faces) - 1


def _dot(normal: Sequence[float], v: Sequence[np.ndarray]) -> np.ndarray:
    """The dot product of the constant `normal` and v, summed in a fixed order, without zero terms."""
    terms = [part if weight == 1 else part * np.float32(weight) for weight, part in zip(normal, v, strict=True) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@dataclass(frozen=True)
class Slab:
    """low <= normal . p <= high; a half-space if low is -inf."""

    normal: tuple[float, float, float]
    low: float
    high: float
    face: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "face", _face((0, 0, 0), self.normal))
        _face((0, 0, 0), tuple(-n for n in self.normal))

    def cross(self, o: Vector, d: Vector) -> Crossing:
        speed = _dot(self.normal, d) + TINY
        start = _dot(self.normal, o)
        pace = np.float32(1) / speed
        high, low = (np.float32(self.high) - start) * pace, (np.float32(self.low) - start) * pace
        return np.minimum(low, high), np.maximum(low, high), (speed > 0).view(np.uint8) + np.uint8(self.face)


@dataclass(frozen=True)
class Round:
    """sum_i scale_i (p_i - centre_i)^2 <= radius^2: a ball (1, 1, 1), an infinite cylinder (1, 1, 0)."""

    scale: tuple[float, float, float]
    radius: float
    centre: tuple[float, float, float] = (0, 0, 0)
    face: int = field(init=False)

    def __post_init__(self) -> None:
        shift = tuple(-s * c for s, c in zip(self.scale, self.centre, strict=True))
        object.__setattr__(self, "face", _face(self.scale, shift))

    def cross(self, o: Vector, d: Vector) -> Crossing:
        a, b, c = _quadratic(self.scale, self.centre, self.radius, o, d)
        inside = b * b - a * c
        root, pace = np.sqrt(np.maximum(inside, np.float32(0))), np.float32(1) / a
        missed = (inside <= 0) * FAR
        return (-b - root) * pace + missed, (root - b) * pace - missed, self.face


@dataclass(frozen=True)
class Cone:
    """x^2 + y^2 <= slope^2 (apex - z)^2 below the apex: the lower half of a double cone."""

    apex: float
    slope: float
    face: int = field(init=False)

    def __post_init__(self) -> None:
        k = self.slope * self.slope
        object.__setattr__(self, "face", _face((1, 1, -k), (0, 0, k * self.apex)))

    def cross(self, o: Vector, d: Vector) -> Crossing:
        a, b, c = _quadratic((1, 1, -self.slope * self.slope), (0, 0, self.apex), 0, o, d)
        inside = b * b - a * c
        root, pace = np.sqrt(np.maximum(inside, np.float32(0))), np.float32(1) / a
        one, two = (-b - root) * pace, (root - b) * pace
        first, second = np.minimum(one, two), np.maximum(one, two)
        # A ray steeper than the side is inside the double cone before the first root and after the second, once per half.
        steep, down = a < 0, d[2] < 0
        later, sooner = steep & down, steep & ~down
        enter = np.where(later, second, first) - sooner * FAR
        leave = np.where(sooner, first, second) + later * FAR
        return enter + (inside <= 0) * FAR, leave, self.face


def _quadratic(scale: tuple, centre: tuple, radius: float, o: Vector, d: Vector) -> Vector:
    """a, b, c of a t^2 + 2 b t + c = 0 along the ray."""
    near = [x - np.float32(c) if c else x for x, c in zip(o, centre, strict=True)]
    a = _dot(scale, [x * x for x in d]) + TINY
    b = _dot(scale, [x * y for x, y in zip(near, d, strict=True)])
    c = _dot(scale, [x * x for x in near]) - np.float32(radius * radius)
    return a, b, c


Surface = Slab | Round | Cone


@dataclass(frozen=True)
class Part:
    """A convex body, minus a hole."""

    surfaces: tuple[Surface, ...]
    hole: Round | None = None


@dataclass(frozen=True)
class Solid:
    """One shape class.

    box: half the sides of its bounding box, centred at the origin. reach: the largest distance of a point from the origin.
    rests: the poses on the ground, each as a plane n . p = h that touches the solid, with the whole solid at n . p <= h.
    give: how much each axis may be stretched, as a fraction. turns: whether it may be rotated to any angle; the others stay
    within 70 degrees, because from behind they look like another shape (a cone on its side like a ball).
    """

    parts: tuple[Part, ...]
    box: tuple[float, float, float]
    reach: float
    rests: tuple[tuple[float, float, float, float], ...]
    give: tuple[float, float, float] = (0, 0, 0)
    turns: bool = True


def _block(x: float, y: float, z: float) -> tuple[Surface, ...]:
    return Slab((1, 0, 0), -x, x), Slab((0, 1, 0), -y, y), Slab((0, 0, 1), -z, z)


def _ball(radius: float, z: float = 0) -> Part:
    return Part((Round((1, 1, 1), radius, (0, 0, z)),))


def _rod(radius: float, z: float, hole: float = 0) -> Part:
    cut = Round((1, 1, 0), hole) if hole else None
    return Part((Round((1, 1, 0), radius), Slab((0, 0, 1), -z, z)), cut)


def _stair(back: float, low: float, high: float) -> Part:
    return Part((Slab((1, 0, 0), -0.8, 0.8), Slab((0, 1, 0), back, 0.9), Slab((0, 0, 1), low, high)))


UNDER = -np.inf

SOLIDS: dict[str, Solid] = {
    "sphere": Solid((_ball(0.9),), (0.9, 0.9, 0.9), 0.9, ((0, 0, -1, 0.9),)),
    "cube": Solid((Part(_block(0.75, 0.75, 0.75)),), (0.75, 0.75, 0.75), 1.3, ((0, 0, -1, 0.75),)),
    "cylinder": Solid(
        (_rod(0.66, 0.9),), (0.66, 0.66, 0.9), 1.12, ((0, 0, -1, 0.9), (0, 0, -1, 0.9), (1, 0, 0, 0.66)), (0.0, 0.0, 0.2)
    ),
    "cone": Solid(
        (Part((Cone(1.0, 0.4), Slab((0, 0, 1), -0.9, 1.0))),),
        (0.76, 0.76, 1.0),
        1.18,
        ((0, 0, -1, 0.9), (0, 0, -1, 0.9), (1, 0, 0.4, 0.4)),
        (0.1, 0.1, 0.15),
        turns=False,
    ),
    "pyramid": Solid(
        (
            Part(
                (
                    Slab((0, 0, 1), -0.75, np.inf),
                    Slab((1.7, 0, 0.9), UNDER, 0.855),
                    Slab((-1.7, 0, 0.9), UNDER, 0.855),
                    Slab((0, 1.7, 0.9), UNDER, 0.855),
                    Slab((0, -1.7, 0.9), UNDER, 0.855),
                )
            ),
        ),
        (0.9, 0.9, 0.95),
        1.48,
        ((0, 0, -1, 0.75), (0, 0, -1, 0.75), (0, 0, -1, 0.75), (1.7, 0, 0.9, 0.855)),
        (0.0, 0.0, 0.15),
        turns=False,
    ),
    "capsule": Solid(
        (_rod(0.46, 0.6), _ball(0.46, 0.6), _ball(0.46, -0.6)),
        (0.46, 0.46, 1.06),
        1.06,
        ((0, 0, -1, 1.06), (1, 0, 0, 0.46)),
    ),
    "octahedron": Solid(
        (Part(tuple(Slab((x, y, 1), -1.1, 1.1) for x in (1, -1) for y in (1, -1))),),
        (1.1, 1.1, 1.1),
        1.1,
        ((0, 0, -1, 1.1), (1, 1, 1, 1.1)),
    ),
    "prism": Solid(
        (
            Part(
                (
                    Slab((0, 1, 0), -0.85, 0.85),
                    Slab((0, 0, 1), -0.6, np.inf),
                    Slab((1.5, 0, 0.9), UNDER, 0.81),
                    Slab((-1.5, 0, 0.9), UNDER, 0.81),
                )
            ),
        ),
        (0.9, 0.85, 0.9),
        1.38,
        ((0, 0, -1, 0.6), (0, 0, -1, 0.6), (0, 0, -1, 0.6), (0, -1, 0, 0.85)),
        (0.0, 0.2, 0.0),
        turns=False,
    ),
    "ring": Solid(
        (_rod(1.0, 0.28, 0.6),),
        (1.0, 1.0, 0.28),
        1.04,
        ((0, 0, -1, 0.28), (1, 0, 0, 1.0), (1, 0, 0, 1.0)),
        turns=False,
    ),
    "cross": Solid(
        (Part(_block(1.05, 0.3, 0.3)), Part(_block(0.3, 1.05, 0.3)), Part(_block(0.3, 0.3, 1.05))),
        (1.05, 1.05, 1.05),
        1.14,
        ((0, 0, -1, 1.05), (1, 1, 1, 1.65)),
    ),
    "dumbbell": Solid(
        (_ball(0.5, 0.62), _rod(0.2, 0.6), _ball(0.5, -0.62)),
        (0.5, 0.5, 1.12),
        1.12,
        ((0, 0, -1, 1.12), (1, 0, 0, 0.5), (1, 0, 0, 0.5)),
    ),
    "steps": Solid(
        (_stair(-0.9, -0.75, -0.25), _stair(-0.3, -0.25, 0.25), _stair(0.3, 0.25, 0.75)),
        (0.8, 0.9, 0.75),
        1.43,
        ((0, 0, -1, 0.75),),
        (0.2, 0.1, 0.1),
        turns=False,
    ),
}

SHAPES = tuple(SOLIDS)
PARTS = tuple(solid.parts for solid in SOLIDS.values())
FACE_SCALE, FACE_SHIFT = (np.ascontiguousarray(np.array(rows, dtype=np.float32).T) for rows in zip(*_faces, strict=True))
"""float32 [3, faces]: the outward normal at p on face f is FACE_SCALE[:, f] * p + FACE_SHIFT[:, f], not of unit length."""
HOLES = np.zeros(len(_faces), dtype=np.float32) + 1
for _solid in SOLIDS.values():
    for _part in _solid.parts:
        if _part.hole:
            HOLES[_part.hole.face] = -1
FACE_SCALE *= HOLES
FACE_SHIFT *= HOLES


def meet(shape: int, o: Vector, d: Vector) -> tuple[np.ndarray, np.ndarray]:
    """t (float32 [P], at least FAR / 2 for a miss) and face (uint8 [P]) where rays from outside first hit a solid."""
    nearest, by = _enter(PARTS[shape][0], o, d)
    for part in PARTS[shape][1:]:
        t, face = _enter(part, o, d)
        by ^= _pick(t < nearest, by, face)
        nearest = np.minimum(t, nearest)
    return nearest, by


def _pick(chosen: np.ndarray, old: np.ndarray, new: np.ndarray | int) -> np.ndarray:
    """The value to xor `old` with to get `new` where chosen, uint8: branch-free, so several times faster than `where`."""
    return (old ^ np.uint8(new) if isinstance(new, int) else old ^ new) & -chosen.view(np.uint8)


def _enter(part: Part, o: Vector, d: Vector) -> tuple[np.ndarray, np.ndarray]:
    enter, leave, face = part.surfaces[0].cross(o, d)
    face = face if isinstance(face, np.ndarray) else np.full(len(enter), face, dtype=np.uint8)
    for surface in part.surfaces[1:]:
        t, out, by = surface.cross(o, d)
        face ^= _pick(t > enter, face, by)
        enter, leave = np.maximum(t, enter), np.minimum(leave, out)
    if part.hole:
        start, stop, by = part.hole.cross(o, d)
        through = (start <= enter) & (enter < stop)
        face ^= _pick(through, face, by)
        enter = np.where(through, stop, enter)
    return enter + (enter >= leave) * FAR, face
