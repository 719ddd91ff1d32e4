"""Sets of one's own in one file of arrays: .npz as MedMNIST and Keras write them, or HDF5; recognized by the arrays' names.

    train_images, train_labels, val_images, ...    MedMNIST, also with x and y: x_train, y_train
    train/images, train/labels, ...                HDF5 with a group a part
    images, labels                                 without parts: they are drawn by a seed

Images are uint8: [N, H, W], or [N, H, W, C] or [N, C, H, W] with one or three channels. Labels are whole numbers [N] or [N, 1].
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.drawn import drawn
from hardsight.data.globs import SPLITS
from hardsight.data.images import Size, check_size, expand, sides
from hardsight.data.lazy import need
from hardsight.data.preprocess import Preprocess
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

KINDS = {
    "images": ("images", "image", "imgs", "img", "x", "data", "features"),
    "labels": ("labels", "label", "y", "targets", "target", "classes"),
}  # fmt: skip
WORDS = {word: kind for kind, words in KINDS.items() for word in words}
EXPECTED = "arrays such as train_images and train_labels, x_train and y_train, or images and labels"
ORDER = ("train", "val", "test")


class Part(NamedTuple):
    """Arrays of one part, with the names that they have in the file; labels [N] or None."""

    name: str
    images: Any
    labels: np.ndarray | None


class Stored:
    """An HDF5 data set, opened anew in each process: two processes must not read through one handle."""

    def __init__(self, hdf: Any, path: Path, name: str) -> None:
        self._open, self._found, self._process = lambda: hdf.File(path, "r")[name], None, 0
        self.shape, self.dtype, self.ndim = self._array.shape, self._array.dtype, self._array.ndim

    @property
    def _array(self) -> Any:
        if self._found is None or self._process != os.getpid():
            self._found, self._process = self._open(), os.getpid()
        return self._found

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> np.ndarray:
        return self._array[place]


@register
def npz(
    root: str,
    size: int | tuple[int, int] | Preprocess | None = None,
    classes: tuple[str, ...] = (),
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """Labelled images in one .npz file, such as MedMNIST's: train_images, train_labels, val_images, ..., or images and labels.

    root: the file. size: (h, w), or an int: resize the shorter side to it, then centre crop. classes: names of the labels 0,
    1, ...; numbers by default. test, seed: the share of images that is drawn for testing, if the file has no parts. Raises
    `DataError`.
    """
    path = _file(root)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise DataError(f"{path} is truncated, no .npz file, or has arrays of Python objects: {error}") from None
    return _data(path, arrays, size, classes, test, seed)


@register
def hdf5(
    root: str,
    size: int | tuple[int, int] | Preprocess | None = None,
    classes: tuple[str, ...] = (),
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """Labelled images in one HDF5 file, with the data sets images and labels, or train/images, train_labels, x_test, ...

    Images are read one at a time. root: the file. size: (h, w), or an int: resize the shorter side to it, then centre crop.
    classes: names of the labels 0, 1, ...; numbers by default. test, seed: the share of images that is drawn for testing, if
    the file has no parts. Raises `DataError`, `MissingDependency` (h5py).
    """
    hdf, path, names = need("h5py", "hdf5"), _file(root), []
    try:
        with hdf.File(path, "r") as file:
            file.visititems(lambda name, one: names.append(name) if isinstance(one, hdf.Dataset) else None)
        arrays = {name: Stored(hdf, path, name) for name in names}
    except OSError as error:
        raise DataError(f"{path} is truncated or not HDF5: {error}") from None
    return _data(path, arrays, size, classes, test, seed)


def _file(root: str) -> Path:
    path = expand(root)
    if not path.is_file():
        raise DataError(
            f"{path}: {'it is a folder' if path.is_dir() else 'no such file'}; expected one file with {EXPECTED}"
        )
    return path


def _data(path: Path, arrays: Mapping[str, Any], size: Size, classes: tuple[str, ...], test: float, seed: int) -> Data:
    check_size(size)
    parts = {split: _part(path, split, named, arrays) for split, named in _parts(path, arrays).items()}
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise DataError(f"{path} has images of the shapes {sorted(shapes)}; all parts must have one")
    labelled = [part.labels for part in parts.values() if part.labels is not None and len(part.labels)]
    most = max((int(labels.max()) for labels in labelled), default=-1)
    if classes and most >= len(classes):
        raise DataError(f"{path} has the label {most}, but classes= has {len(classes)} names, of 0 to {len(classes) - 1}")
    last = _channels(path, next(iter(parts.values())))
    card = DataCard(
        name=path.stem,
        targets=("label",) if labelled else (),
        size=sides(size) or _sides(next(iter(shapes)), last),
        classes=(classes or tuple(map(str, range(most + 1)))) if labelled else (),
        source="a file of arrays",
    )
    if "" in parts:
        places = drawn(len(parts[""].images), test, seed)
        return Data(card, {split: _split(path, parts[""], rows, last, size) for split, rows in places.items()})
    kept = [split for split in ORDER if split in parts and len(parts[split].images)]
    return Data(card, {split: _split(path, parts[split], range(len(parts[split].images)), last, size) for split in kept})


def _parts(path: Path, arrays: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By part ("" if names have none): the name of the array of each kind."""
    found: dict[str, dict[str, str]] = {}
    for name in arrays:
        words = re.split(r"[^a-z0-9]+", name.lower())
        splits, kinds = [w for w in words if w in SPLITS], [w for w in words if w in WORDS]
        if len(kinds) != 1 or len(splits) > 1 or len(words) > 2:
            continue
        part = found.setdefault(SPLITS[splits[0]] if splits else "", {})
        if WORDS[kinds[0]] in part:
            raise DataError(f"{path} has both {part[WORDS[kinds[0]]]} and {name}; there must be one of them")
        part[WORDS[kinds[0]]] = name
    found = {split: named for split, named in found.items() if "images" in named}
    if not found or ("" in found and len(found) > 1):
        raise DataError(f"{path} contains no images that are known by name; expected {EXPECTED}, found {', '.join(arrays)}")
    return found


def _part(path: Path, split: str, named: dict[str, str], arrays: Mapping[str, Any]) -> Part:
    name, images = named["images"], arrays[named["images"]]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise DataError(
            f"{path}: {name} is {images.dtype} {list(images.shape)}; images must be uint8, 0 to 255: [N, H, W], or [N, H, W, C] "
            "or [N, C, H, W] with one or three channels"
        )
    if "labels" not in named:
        return Part(name, images, None)
    stored = np.asarray(arrays[named["labels"]][()])
    where = f"{path}: {named['labels']} is {stored.dtype} {list(stored.shape)}"
    if stored.shape not in ((len(images),), (len(images), 1)):
        raise DataError(f"{where}; it must have one label for each of the {len(images)} images of {name}, [N] or [N, 1]")
    if stored.dtype.kind not in "iu" or (stored.size and int(stored.min()) < 0):
        raise DataError(f"{where}; labels must be whole numbers from 0")
    return Part(name, images, stored.reshape(-1).astype(np.int64))


def _channels(path: Path, part: Part) -> int | None:
    """The axis of the channels in one image: 2, 0, or None for grey images without one."""
    shape = part.images.shape[1:]
    if len(shape) == 2:
        return None
    axes = [axis for axis in (2, 0) if shape[axis] in (1, 3)]
    if len(axes) != 1:
        raise DataError(
            f"{path}: {part.name} is {list(part.images.shape)}; one of the axes 1 and 3 must be the channels, 1 or 3 of them"
        )
    return axes[0]


def _sides(shape: tuple[int, ...], channels: int | None) -> tuple[int, int]:
    high, wide = (side for axis, side in enumerate(shape) if axis != channels)
    return high, wide


def _split(path: Path, part: Part, rows: Any, channels: int | None, size: Size) -> Files:
    rows = list(rows)

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        row = rows[place]
        try:
            image = np.asarray(part.images[row])
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path}: image {row} of {part.name} can't be read: {error}") from None
        image = image[..., None] if channels is None else np.moveaxis(image, channels, -1)
        image = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
        return image, {} if part.labels is None else {"label": np.array(part.labels[row])}

    return Files([f"{part.name}/{row}" for row in rows], read, size=size)
