"""Colour images with one depth map each, a 16-bit PNG in millimetres, in one of two layouts or as given by a list.

    train/rgb_00000.jpg  train/depth_00000.png       in one folder
    train/rgb/00000.jpg  train/depth/00000.png       NYU's layout; the image folder may be called rgb, color or images
    train.txt            "path-of-image path-of-depth" per line, relative to the root; if it exists, only it is used

Colour and depth must already be registered to each other; they are used as stored.
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.depths import FAR
from hardsight.data.images import (
    check_size,
    common_size,
    contents,
    fit,
    folder_at,
    is_image,
    natural,
    open_depth,
    open_image,
)
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

SPLITS = ("train", "val", "test")
COLOUR = ("rgb", "color", "images")
EXPECTED = "train/ and test/ with rgb_*.jpg and depth_*.png, or with rgb/ and depth/, or train.txt and test.txt"

Pair = tuple[Path, Path]


@register
def rgbd(root: str, size: tuple[int, int] | None = None, max_depth: float = 10.0) -> Data:
    """Colour and depth frames: {train,test}/rgb_* with depth_* (16-bit PNG, millimetres), or NYU's rgb/ and depth/ folders.

    size: (h, w) to resize to; depth uses nearest neighbour. max_depth, metres: values beyond it count as not measured, 0, as
    do zeros in the file. Raises `DataError`; warns once per split if half of a map's measurements are beyond max_depth or
    1,000 m, because its unit is then probably not millimetres.
    """
    check_size(size)
    if not max_depth > 0:
        raise DataError(f"max_depth={max_depth}: it must be a depth above 0 in metres, such as 10.0")
    place = folder_at(root, EXPECTED)
    pairs = {name: found for name in SPLITS if (found := _pairs(place, name))}
    if not pairs:
        raise DataError(f"{place} contains no RGB-D frames; expected {EXPECTED}, found {contents(place)}")
    real = size or common_size([image for found in pairs.values() for image, _ in found])
    card = DataCard(place.resolve().name, ("depth",), real, max_depth=float(max_depth), source="a folder of RGB-D frames")
    return Data(card, {name: _split(place, found, size, max_depth) for name, found in pairs.items()})


def read_frame(pair: Pair, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and depth float32 [H, W] in metres, as measured."""
    image, depth = open_image(pair[0]), open_depth(pair[1])
    (high, wide), (image_high, image_wide) = depth.shape, image.shape[:2]
    if depth.shape != image.shape[:2] and (size is None or abs(high * image_wide / (wide * image_high) - 1) > 0.02):
        hint = "; give size= to resize both" if size is None else ", a different aspect ratio"
        raise DataError(f"{pair[1]} is {wide}x{high} pixels, its image is {image_wide}x{image_high}{hint}")
    return fit(image, size), fit(depth, size, nearest=True)


def _split(place: Path, pairs: list[Pair], size: tuple[int, int] | None, max_depth: float) -> Files:
    warned: list[Path] = []

    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, depth = read_frame(pairs[number], size)
        measured = depth[depth > 0]
        if not warned and measured.size and (median := float(np.median(measured))) > min(max_depth, FAR):
            warned.append(pairs[number][1])
            warnings.warn(
                f"{pairs[number][1]}: half of its depths are beyond {median:,.1f} m (max_depth is {max_depth:g} m); "
                "the unit is probably not millimetres",
                stacklevel=2,
            )
        return image, {"depth": np.where(depth > max_depth, np.float32(0), depth)}

    return Files([image.relative_to(place).as_posix() for image, _ in pairs], read)


def _pairs(place: Path, split: str) -> list[Pair]:
    """Image and depth of every frame of a split, in list order or natural order; empty if the split does not exist."""
    inside = place / split
    if (listed := place / f"{split}.txt").is_file():
        pairs = _listed(place, listed)
    elif not inside.is_dir():
        return []
    elif folder := next((inside / name for name in COLOUR if (inside / name).is_dir()), None):
        pairs = [(path, (inside / "depth" / path.name).with_suffix(".png")) for path in _images(folder)]
    else:
        colour = [path for path in _images(inside) if path.name.startswith("rgb_")]
        pairs = [(path, path.with_name(f"depth_{path.stem.removeprefix('rgb_')}.png")) for path in colour]
    if not pairs:
        raise DataError(f"{inside} contains no frames; expected rgb_*.jpg and depth_*.png, found {contents(inside)}")
    for image, depth in pairs:
        for path in (image, depth):
            if not path.is_file():
                raise DataError(f"{image.relative_to(place)} has no pair: no such file {path}")
    return pairs


def _images(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if is_image(path.name)), key=lambda path: natural(path.name))


def _listed(place: Path, file: Path) -> list[Pair]:
    pairs = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read: {error}") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2:
            raise DataError(f"{file}, line {number}: '{line}' must be the path of an image and the path of its depth map")
        for word in words:
            if PurePosixPath(word).is_absolute() or ".." in PurePosixPath(word).parts:
                raise DataError(f"{file}, line {number}: {word} is outside the folder")
        pairs.append((place / words[0], place / words[1]))
    if not pairs:
        raise DataError(f"{file} lists no frames")
    return pairs
