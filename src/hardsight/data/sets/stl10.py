"""STL-10 in its original binary files: 96x96 images of ten classes, and 100,000 more without labels.

An image is three channels, red first, each stored column by column; labels are bytes 1 to 10. The files are memory-mapped,
so the 2.6 GB of unlabelled images use no memory until they are accessed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.images import contents, folder_at
from hardsight.data.splits import Arrays
from hardsight.specs.catalog import register

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
FOLDER = "stl10_binary"
SIDE = 96
IMAGE = 3 * SIDE * SIDE
PUBLISHED = {
    "stl10": Published(
        "https://cs.stanford.edu/~acoates/stl10/",
        {"train": 5000, "test": 8000, "unlabeled": 100000},
        files=(("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),),
    )
}


@register
def stl10(root: str) -> Data:
    """STL-10, 96x96, 10 classes, from the folder `stl10_binary` or its parent.

    Splits train, test, and unlabeled (whose samples have no label), if their files exist; ids such as `test_00012`.
    Source: Coates, Ng and Lee, 2011. Raises `DataError`, with the file's name, for an invalid file.
    """
    expected = f"the folder {FOLDER} or its parent, with train_X.bin, train_y.bin, test_X.bin and test_y.bin"
    place = folder_at(root, expected)
    place = place / FOLDER if (place / FOLDER).is_dir() else place
    names = [name for name in ("train", "test", "unlabeled") if (place / f"{name}_X.bin").is_file()]
    if not names:
        raise DataError(f"{place} contains no STL-10; expected {expected}, found {contents(place)}")
    card = DataCard("STL-10", ("label",), (SIDE, SIDE), CLASSES, source="Coates, Ng and Lee, 2011")
    return Data(card, {name: _split(place, name) for name in names})


def _split(place: Path, name: str) -> Arrays:
    path = place / f"{name}_X.bin"
    length = path.stat().st_size
    if length == 0 or length % IMAGE:
        raise DataError(f"{path} has {length:,} bytes; STL-10 has {IMAGE:,} per image, so it is truncated or another file")
    images = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, SIDE, SIDE)
    labels = None if name == "unlabeled" else _labels(place / f"{name}_y.bin", len(images))
    return Arrays([f"{name}_{number:05d}" for number in range(len(images))], images.transpose(0, 1, 3, 2), labels)


def _labels(path: Path, count: int) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file, but {count:,} images need labels")
    written = np.fromfile(path, dtype=np.uint8).astype(np.int64)
    if len(written) != count:
        raise DataError(f"{path}: {len(written):,} labels for {count:,} images")
    if written.min() < 1 or written.max() > len(CLASSES):
        strange = written[(written < 1) | (written > len(CLASSES))][0]
        raise DataError(f"{path}: a label is {strange}; STL-10 labels are 1 to {len(CLASSES)}")
    return written - 1
