"""NYU Depth V2, the 1,449 labelled frames: colour and depth in metres, from the publisher's .mat or FastDepth's .h5 files.

    nyu_depth_v2_labeled.mat        images, depths (holes filled in) and rawDepths (0 where nothing was measured)
    train/<scene>/*.h5  val/*/*.h5  one frame per file, with rgb and depth: FastDepth's layout, also on the Hugging Face hub

The official split, 795 and 654 frames, is published in a second file, splits.mat. Its 654 frame numbers are included below,
so that file is not needed. The .mat is HDF5 with MATLAB's order of axes: [N, 3, W, H] and [N, W, H].
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Images
from hardsight.data.depths import Metres
from hardsight.data.get import Published
from hardsight.data.images import MAX_PIXELS, Size, check_size, contents, expand, fit, folder_at, natural
from hardsight.data.lazy import Lazy, need
from hardsight.data.lists import lines_of
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

FILE = "nyu_depth_v2_labeled.mat"
FRAMES = 1449
TEST = (
    "wIfIH//mAb4AHh/gAAAOD7yAAOADvx///8PwHAAAAEABA4P4AfwHOA/+AAM/8AAB/DgAPAAH4P8AB8/4AAAAH7/8OOAOP//gPgPAPhj4APwYYcMfn4fM4H+M"
    "HzwDAAP////gAfB8DgD//HD8DgAAAABwDgceAOADzn+AA+DwcA4BxgGYwAA/8f9/eA4/4wH//H5nPwHw//HwfOADx/+APw/+5/BgAPPwOPAZgAH+f4P8DweA"
    "/4A="
)
"""The official split, one bit per frame in order, 1 for test; verified with the publisher's splits.mat."""
EIGEN = slice(45, 471), slice(41, 601)
"""The rows and columns evaluated by Eigen, Puhrsch and Fergus, 2014: the frame borders are not registered."""
WHOLE = 480, 640
EXPECTED = f"{FILE}, the folder that contains it, or train/ and val/ with *.h5 frames"
PUBLISHED = {
    "nyuv2": Published(
        "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        {"train": 795, "test": 654},
        files=((f"http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/{FILE}", "520609c519fba3ba5ac58c8fefcc3530"),),
    )
}


Pair = tuple[np.ndarray, dict[str, np.ndarray]]
Finish = Callable[[np.ndarray, np.ndarray, str], Pair]
"""Maps an image [H, W, 3], its depth [H, W] in metres and the frame's name to the image and targets of a sample."""
Found = tuple[dict[str, Images], tuple[int, int]]
"""The splits, and the original size (h, w) of the frames."""


@register
def nyuv2(
    root: str,
    size: int | tuple[int, int] | None = None,
    max_depth: float = 10.0,
    raw: bool = False,
    eigen: bool = False,
    unit: float = 1.0,
) -> Data:
    """NYU Depth V2, indoor depth at 480x640, with the official split: the labelled .mat file, or FastDepth's .h5 frames.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; depth uses nearest neighbour. max_depth,
    metres: values beyond it count as not measured, 0. raw: use the .mat's raw camera depths with holes, not the filled ones.
    eigen: pixels outside Eigen's crop count as not measured, as in most published tables. unit: metres per stored value. A .mat without exactly 1,449
    frames is split by a file test.txt next to it, with frame numbers from 1. Source: Silberman et al., 2012. Raises
    `DataError`, `MissingDependency` (h5py).
    """
    check_size(size)
    hdf = need("h5py", "nyuv2")
    place = expand(root)
    single = place if place.is_file() else folder_at(root, EXPECTED) / FILE
    finish = functools.partial(_read, size=size, metres=Metres(max_depth, unit), eigen=eigen)
    splits, real = _labelled(hdf, single, raw, finish) if single.is_file() else _frames(hdf, place, finish)
    sides = (size, size) if isinstance(size, int) else size or real
    card = DataCard("NYUv2", ("depth",), sides, max_depth=float(max_depth), unit=unit, source="Silberman et al., 2012")
    return Data(card, splits)


def official_test() -> list[int]:
    """The 654 frames of the official test split, numbered from 0."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(base64.b64decode(TEST), np.uint8))[:FRAMES]).tolist()


def _read(image: np.ndarray, depth: np.ndarray, where: str, size: Size, metres: Metres, eigen: bool) -> Pair:
    depth = metres(depth, image, where)
    if eigen:
        if depth.shape != WHOLE:
            raise DataError(
                f"{where} is {depth.shape[1]}x{depth.shape[0]} pixels; Eigen's crop is defined for 640x480 frames"
            )
        inner = np.zeros_like(depth)
        inner[EIGEN] = depth[EIGEN]
        depth = inner
    return fit(image, size), {"depth": fit(depth, size, nearest=True)}


def _labelled(hdf: Any, path: Path, raw: bool, finish: Finish) -> Found:
    """The splits of the .mat file, and the size (h, w) of its frames; frames are read one at a time."""
    file = _opened(hdf, path)
    depths = "rawDepths" if raw else "depths"
    for name, axes in (("images", 4), (depths, 3)):
        if name not in file or file[name].ndim != axes:
            raise DataError(f"{path} has no '{name}' with {axes} axes; it contains {', '.join(file) or 'nothing'}")
    count, channels, wide, high = file["images"].shape
    if channels != 3 or file["images"].dtype != np.uint8 or len(file[depths]) != count or wide * high > MAX_PIXELS:
        found = f"images {file['images'].dtype} {list(file['images'].shape)}, {depths} {list(file[depths].shape)}"
        raise DataError(f"{path} contains {found}; expected uint8 [N, 3, W, H] and [N, W, H]")
    test = set(official_test() if count == FRAMES else _own_test(path, count))

    def split(name: str, members: list[int]) -> Files:
        def read(place: int) -> Pair:
            where = f"{path}, frame {members[place] + 1}"
            try:
                image, depth = file["images"][members[place]].T, file[depths][members[place]].T
            except (OSError, RuntimeError) as error:
                raise DataError(f"{where} can't be read: {error}") from None
            return finish(image, depth, where)

        return Files([f"{name}/{number + 1:04d}" for number in members], read)

    parts = {"train": [n for n in range(count) if n not in test], "test": sorted(test)}
    splits: dict[str, Images] = {name: split(name, members) for name, members in parts.items() if members}
    return splits, (high, wide)


def _own_test(path: Path, count: int) -> list[int]:
    listed = path.with_name("test.txt")
    if not listed.is_file():
        raise DataError(
            f"{path} has {count} frames, not the {FRAMES} of the official split; list the test frames, "
            f"numbered from 1, in {listed}"
        )
    lines = lines_of(listed)
    if strange := [line for line in lines if not line.isdigit() or not 1 <= int(line) <= count]:
        raise DataError(f"{listed} has the frame '{strange[0]}'; {path.name} has the frames 1 to {count}")
    return [int(line) - 1 for line in lines]


def _frames(hdf: Any, place: Path, finish: Finish) -> Found:
    """The splits of FastDepth's layout: train/, and val/, which is the official test split."""
    found = {"train": place / "train", "test": place / "val"}
    found = {name: folder for name, folder in found.items() if folder.is_dir() and next(folder.rglob("*.h5"), None)}
    if not found:
        raise DataError(f"{place} contains no NYU Depth V2; expected {EXPECTED}, found {contents(place)}")
    first = next(next(iter(found.values())).rglob("*.h5"))
    real = _frame(hdf, first)[0].shape[:2]

    def split(folder: Path) -> Files:
        paths = sorted(folder.rglob("*.h5"), key=lambda path: natural(path.as_posix()))

        def read(number: int) -> Pair:
            return finish(*_frame(hdf, paths[number]), str(paths[number]))

        return Files([path.relative_to(place).as_posix() for path in paths], read)

    splits: dict[str, Images] = {name: Lazy(functools.partial(split, folder)) for name, folder in found.items()}
    return splits, (real[0], real[1])


def _frame(hdf: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and depth [H, W] from the .h5 file of one frame."""
    with _opened(hdf, path) as file:
        if "rgb" not in file or "depth" not in file:
            raise DataError(f"{path} contains {', '.join(file) or 'nothing'}; a frame must have rgb and depth")
        try:
            image, depth = file["rgb"][()], file["depth"][()]
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path} can't be read: {error}") from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3 or depth.ndim != 2:
        raise DataError(
            f"{path} contains rgb {image.dtype} {list(image.shape)} and depth {list(depth.shape)}; "
            "expected uint8 [3, H, W] and [H, W]"
        )
    return image.transpose(1, 2, 0), depth


def _opened(hdf: Any, path: Path) -> Any:
    try:
        return hdf.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is truncated or not an HDF5 file (MATLAB 7.3): {error}") from None
