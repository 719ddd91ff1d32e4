"""CIFAR-10 and CIFAR-100 from their original pickle files, read without executing any code from the pickle.

A pickle names the functions that rebuild its objects. Here each name that CIFAR's files need (NumPy's functions for
rebuilding an array, written by Python 2 or 3 and any NumPy) is replaced by a stub that only records its arguments; all other
names raise.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Images
from hardsight.data.get import Published
from hardsight.data.images import contents, folder_at, natural
from hardsight.data.splits import Arrays
from hardsight.specs.catalog import register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50000, "test": 10000}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
HOST = "https://www.cs.toronto.edu/~kriz"
PUBLISHED = {
    "cifar10": Published(PAGE, COUNTS, files=((f"{HOST}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),)),
    "cifar100": Published(PAGE, COUNTS, files=((f"{HOST}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),)),
}


class Format(NamedTuple):
    """One of the two formats: its name, its folder, the files of each split, and the key and number of its labels."""

    name: str
    folder: str
    splits: dict[str, re.Pattern[str]]
    expected: str
    key: str
    count: int


TEN = Format(
    "CIFAR-10",
    "cifar-10-batches-py",
    {"train": re.compile(r"data_batch_\d+"), "test": re.compile(r"test_batch")},
    "data_batch_1 ... and test_batch",
    "labels",
    10,
)
HUNDRED = {
    key: Format(
        "CIFAR-100",
        "cifar-100-python",
        {"train": re.compile("train"), "test": re.compile("test")},
        "train and test",
        f"{key}_labels",
        count,
    )
    for key, count in (("fine", 100), ("coarse", 20))
}


@register
def cifar10(root: str) -> Data:
    """CIFAR-10, 32x32, 10 classes, from the folder `cifar-10-batches-py` or its parent; a subset of the files is enough.

    Splits train (data_batch_*) and test (test_batch), if their files exist; ids such as `test_00012` count within the split.
    Source: A. Krizhevsky, 2009. Raises `DataError`, with the file's name, for an invalid file.
    """
    _, splits = _splits(root, TEN)
    return Data(_card(TEN, CLASSES), splits)


@register
def cifar100(root: str, labels: Literal["fine", "coarse"] = "fine") -> Data:
    """CIFAR-100, 32x32, 100 classes, from the folder `cifar-100-python` or its parent; one of the files is enough.

    labels: `fine`, or the 20 `coarse` ones. Splits train and test, if their files exist. Class names come from the file
    `meta`; without it they are numbers. Source: A. Krizhevsky, 2009. Raises `DataError`, with the file's name, for an
    invalid file.
    """
    kind = HUNDRED[labels]
    place, splits = _splits(root, kind)
    return Data(_card(kind, _names(place / "meta", f"{labels}_label_names", kind.count)), splits)


def read_batch(path: Path, kind: Format = TEN) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one file."""
    named = _dict(path, kind, f"'data' and '{kind.key}'")
    if missing := [key for key in ("data", kind.key) if key not in named]:
        other = "fine_labels" in named or "labels" in named
        hint = f"; it looks like {'CIFAR-100' if 'fine_labels' in named else 'CIFAR-10'}" if other else ""
        raise DataError(f"{path} is not a {kind.name} file: it has no '{missing[0]}'{hint}")
    images, labels = _array(named["data"], path), named[kind.key]
    labels = _array(labels, path).tolist() if isinstance(labels, _Array) else labels
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise DataError(f"{path}: 'data' is {images.dtype} {list(images.shape)}; {kind.name} has uint8 [N, 3072]")
    if len(images) == 0:
        raise DataError(f"{path} contains no image")
    if not isinstance(labels, list) or len(labels) != len(images):
        count = len(labels) if isinstance(labels, list) else "no list of"
        raise DataError(f"{path}: {count} labels for {len(images)} images")
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < kind.count:
            raise DataError(f"{path}: a label is {label!r}; {kind.name} labels are 0 to {kind.count - 1}")
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _splits(root: str, kind: Format) -> tuple[Path, dict[str, Images]]:
    """The folder with the files, and the existing splits."""
    expected = f"the folder {kind.folder} or its parent, with {kind.expected}"
    place = folder_at(root, expected)
    place = place / kind.folder if (place / kind.folder).is_dir() else place
    splits: dict[str, Images] = {}
    for name, pattern in kind.splits.items():
        paths = [path for path in place.iterdir() if path.is_file() and pattern.fullmatch(path.name)]
        if paths:
            parts = [read_batch(path, kind) for path in sorted(paths, key=lambda path: natural(path.name))]
            images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
            splits[name] = Arrays([f"{name}_{number:05d}" for number in range(len(images))], images, labels)
    if not splits:
        raise DataError(f"{place} contains no {kind.name}; expected {expected}, found {contents(place)}")
    return place, splits


def _card(kind: Format, classes: tuple[str, ...]) -> DataCard:
    return DataCard(kind.name, ("label",), (32, 32), classes, source="A. Krizhevsky, 2009", licence="none stated")


def _names(path: Path, key: str, count: int) -> tuple[str, ...]:
    """The class names from the file `meta`, or numbers if it does not exist."""
    if not path.is_file():
        return tuple(str(number) for number in range(count))
    names = _dict(path, HUNDRED["fine"], f"'{key}'").get(key)
    if not isinstance(names, list) or len(names) != count:
        raise DataError(f"{path} has no list '{key}' of {count} names")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)


def _dict(path: Path, kind: Format, keys: str) -> dict[str, Any]:
    found = safe_pickle(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a {kind.name} file: it contains a {type(found).__name__}, not a dict with {keys}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in found.items()}


def safe_pickle(path: Path) -> Any:
    """The contents of a pickle of plain objects and NumPy arrays; arrays as unbuilt records, Python 2 text as bytes.

    Raises `DataError` if the pickle is broken or requests anything else; nothing that it names is imported or called.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path} is rejected: {error}") from None
    except Exception as error:  # a broken pickle can raise almost any error
        raise DataError(f"{path} is truncated or not a pickle file: {error or type(error).__name__}") from None


class _Array:
    """Records the data from which an array will be built."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state


class _Dtype:
    """Records the name of a dtype."""

    __slots__ = ("name",)

    def __setstate__(self, state: Any) -> None:
        """Ignored: the rest of a dtype (byte order, fields) does not matter for bytes and little-endian integers."""


class _Admitted:
    """A callable that a pickle may name; the pickle can neither modify nor inspect it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise DataError("it would modify the functions that read it")


def _dtype(name: Any, *_: Any) -> _Dtype:
    dtype = _Dtype()
    dtype.name = name.decode("latin1") if isinstance(name, bytes) else str(name)
    return dtype


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _encode(text: Any, how: Any = "latin1") -> bytes:
    if not isinstance(text, str) or how not in ("latin1", b"latin1"):
        raise DataError("it requests a text encoding that no array needs")
    return text.encode("latin1")


def _type_only(*_: Any) -> Any:
    raise DataError("it builds an array directly, which NumPy's own pickles don't")


ADMITTED = {
    "_reconstruct": lambda *_: _Array(),
    "_frombuffer": _from_buffer,
    "ndarray": _type_only,
    "dtype": _dtype,
    "encode": _encode,
    "bytes": lambda *_: b"",
}
HOMES = {
    "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
    "_frombuffer": ("numpy.core.numeric", "numpy._core.numeric"),
    "ndarray": ("numpy",),
    "dtype": ("numpy",),
    "encode": ("_codecs",),
    "bytes": ("__builtin__", "builtins"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module not in HOMES.get(name, ()):
            raise DataError(f"its pickle requests {module}.{name}, which no array needs; such a file may execute code")
        return _Admitted(ADMITTED[name])


def _array(note: Any, path: Path) -> np.ndarray:
    if not isinstance(note, _Array):
        raise DataError(f"{path}: 'data' is a {type(note).__name__}, not an array")
    try:
        kind = np.dtype(note.dtype.name)
        if kind.kind not in "iu":
            raise DataError(f"{path}: 'data' contains {kind}; CIFAR has uint8")
        return np.frombuffer(note.raw, kind).reshape(note.shape, order="F" if note.fortran else "C")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} contains a broken array: {error}") from None
