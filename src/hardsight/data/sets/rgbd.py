"""Colour images with one depth map each, a 16-bit PNG, in one of two layouts or as given by a list.

    train/rgb_00000.jpg  train/depth_00000.png       in one folder
    train/rgb/00000.jpg  train/depth/00000.png       NYU's layout; the image folder may be called rgb, color or images
    train.txt            "path-of-image path-of-depth" per line, relative to the root; if it exists, only it is used

Colour and depth must already be registered to each other; they are used as stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.depths import Metres
from hardsight.data.images import (
    STORED,
    check_size,
    contents,
    fit,
    folder_at,
    list_images,
    open_depth,
    open_image,
    passed_over,
    shared_size,
)
from hardsight.data.lists import inside, numbered
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

SPLITS = ("train", "val", "test")
COLOUR = ("rgb", "color", "images")
EXPECTED = "train/ and test/ with rgb_*.jpg and depth_*.png, or with rgb/ and depth/, or train.txt and test.txt"

Pair = tuple[Path, Path]


@register
def rgbd(root: str, size: tuple[int, int] | None = None, max_depth: float = 10.0, unit: float = 0.001) -> Data:
    """Colour and depth frames: {train,test}/rgb_* with depth_* (16-bit PNG), or NYU's rgb/ and depth/ folders.

    size: (h, w) to resize to; depth uses nearest neighbour. max_depth, metres: values beyond it count as not measured, 0, as
    do zeros in the file. unit: metres per stored value, such as 1/256 for KITTI or 1/5000 for TUM RGB-D. Raises `DataError`;
    warns once if the unit is probably another: half of a map is beyond max_depth or closer than 1 cm, or no value can reach
    max_depth.
    """
    check_size(size)
    metres = Metres(max_depth, unit, STORED)
    place = folder_at(root, EXPECTED)
    pairs = {name: found for name in SPLITS if (found := _pairs(place, name))}
    if not pairs:
        raise DataError(f"{place} contains no RGB-D frames; expected {EXPECTED}, found {contents(place)}")
    card = DataCard(
        name=place.resolve().name,
        targets=("depth",),
        size=shared_size(size, lambda: [image for found in pairs.values() for image, _ in found]),
        max_depth=float(max_depth),
        unit=unit,
        source="a folder of RGB-D frames",
    )
    return Data(card, {name: _split(place, found, size, metres) for name, found in pairs.items()})


def read_frame(pair: Pair, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and depth float32 [H, W] as stored."""
    image, depth = open_image(pair[0]), open_depth(pair[1])
    (high, wide), (image_high, image_wide) = depth.shape, image.shape[:2]
    if depth.shape != image.shape[:2] and (size is None or abs(high * image_wide / (wide * image_high) - 1) > 0.02):
        hint = "; give size= to resize both" if size is None else ", a different aspect ratio"
        raise DataError(f"{pair[1]} is {wide}x{high} pixels, its image is {image_wide}x{image_high}{hint}")
    return fit(image, size), fit(depth, size, nearest=True)


def _split(place: Path, pairs: list[Pair], size: tuple[int, int] | None, metres: Metres) -> Files:
    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, depth = read_frame(pairs[number], size)
        return image, {"depth": metres(depth, image, str(pairs[number][1]))}

    return Files([image.relative_to(place).as_posix() for image, _ in pairs], read)


def _pairs(place: Path, split: str) -> list[Pair]:
    """Image and depth of every frame of a split, in list order or natural order; empty if the split does not exist."""
    folder = place / split
    if (listed := place / f"{split}.txt").is_file():
        pairs = _listed(place, listed)
    elif not folder.is_dir():
        return []
    elif colour := next((folder / name for name in COLOUR if (folder / name).is_dir()), None):
        pairs = [(path, (folder / "depth" / path.relative_to(colour)).with_suffix(".png")) for path in list_images(colour)]
    else:
        found = list_images(folder)
        passed_over(folder, [path.name for path in found if not path.name.startswith(("rgb_", "depth_"))])
        frames = [path for path in found if path.name.startswith("rgb_")]
        pairs = [(path, path.with_name(f"depth_{path.stem.removeprefix('rgb_')}.png")) for path in frames]
    if not pairs:
        raise DataError(f"{folder} contains no frames; expected rgb_*.jpg and depth_*.png, found {contents(folder)}")
    for image, depth in pairs:
        for path in (image, depth):
            if not path.is_file():
                raise DataError(f"{image.relative_to(place)} has no pair: no such file {path}")
    return pairs


def _listed(place: Path, file: Path) -> list[Pair]:
    pairs = []
    for number, line in numbered(file):
        words, where = line.split(), f"{file}, line {number}"
        if line.startswith("#"):
            continue
        if len(words) != 2:
            raise DataError(f"{where}: '{line}' must be the path of an image and the path of its depth map")
        pairs.append((place / inside(words[0], where), place / inside(words[1], where)))
    if not pairs:
        raise DataError(f"{file} lists no frames")
    return pairs
