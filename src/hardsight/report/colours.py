"""The colours of masks and depth maps: safe for colour-blind readers as far as the number of classes allows.

Classes: Okabe and Ito's palette of eight, then hues separated by the golden angle. Depth: viridis, dark near to bright far.
"""

from __future__ import annotations

import colorsys

import numpy as np

IGNORE = 255
VOID = (120, 120, 120)
"""The colour of ignored pixels, and of pixels without a depth measurement."""
OKABE_ITO = (
    (38, 44, 54),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (236, 236, 232),
)
VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)


def class_colour(place: int) -> tuple[int, int, int]:
    """The colour of class id `place`."""
    if place == IGNORE:
        return VOID
    if place < len(OKABE_ITO):
        return OKABE_ITO[place]
    later = place - len(OKABE_ITO)
    light, strong = ((0.45, 0.75), (0.65, 0.5), (0.3, 0.6))[later % 3]
    red, green, blue = colorsys.hls_to_rgb(later * 0.381966 % 1.0, light, strong)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_palette() -> np.ndarray:
    """uint8 [256, 3]: the colour of every class id."""
    return np.array([class_colour(place) for place in range(256)], dtype=np.uint8)


def depth_colours(depth: np.ndarray, far: float) -> np.ndarray:
    """uint8 [H, W, 3] of metres [H, W]: near is dark, `far` and beyond is bright; 0 and non-finite values are VOID."""
    valid = np.isfinite(depth) & (depth > 0)
    share = np.clip(np.where(valid, depth, 0.0) / max(far, 1e-9), 0, 1)
    anchors = np.array(VIRIDIS, dtype=np.float64)
    at = np.linspace(0, 1, len(anchors))
    painted = np.stack([np.interp(share, at, anchors[:, channel]) for channel in range(3)], axis=-1)
    return np.where(valid[..., None], np.round(painted), VOID).astype(np.uint8)


def gradient() -> str:
    """The depth scale as a CSS value."""
    return "linear-gradient(90deg," + ",".join(f"rgb({r},{g},{b})" for r, g, b in VIRIDIS) + ")"
