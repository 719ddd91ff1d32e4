"""Sets in one file of arrays, .npz or HDF5: the parts, images and labels that their names and shapes say."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import Data
from hardsight.data.feed import choose, load
from tests.fixtures import data_sets as sets

FORMATS = ("npz", "hdf5")


def grey(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written(root: Path, kind: str, arrays: dict[str, Any], **options: Any) -> Data:
    path = root / str(len(list(root.iterdir()))) / f"pets.{kind}"
    path.parent.mkdir()
    if kind == "npz":
        np.savez(path, **{name.replace("/", "_"): value for name, value in arrays.items()})
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return open_data(call(kind, path, **options))


def call(kind: str, path: Path, **options: Any) -> str:
    return f"{kind}({', '.join([f'root={str(path)!r}', *(f'{key}={value!r}' for key, value in options.items())])})"


def whole(data: Data, part: str) -> tuple[np.ndarray, list[int]]:
    batch = load(data.split(part), range(len(data.split(part))))
    return batch.images.numpy(), batch.target["label"].tolist()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (1, 8, 9), (3, 8, 9)])
@pytest.mark.parametrize("names", ["{}_images {}_labels", "{}/images {}/labels", "x_{} y_{}"])
def test_the_parts_of_a_file(tmp_path: Path, kind: str, shape: tuple[int, ...], names: str) -> None:
    images, labels = names.split()
    arrays: dict[str, Any] = {}
    for seed, (part, count) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        arrays[images.format(part)] = grey(seed, count, *shape)
        arrays[labels.format(part)] = (
            np.arange(count, dtype=np.uint8)[:, None] if "train_l" in labels.format(part) else np.arange(count)
        )
    data = written(tmp_path, kind, arrays)
    assert data.card.size == (8, 9) and data.card.classes == ("0", "1", "2", "3") and data.card.name == "pets"
    assert list(data.splits) == ["train", "val", "test"]
    for part in data.splits:
        found, numbers = whole(data, part)
        stored = arrays[images.format(part)]
        stored = stored[:, None] if len(shape) == 2 else stored if shape[0] in (1, 3) else stored.transpose(0, 3, 1, 2)
        assert np.array_equal(found, np.broadcast_to(stored, (len(stored), 3, 8, 9)))
        assert numbers == list(range(len(stored)))


@pytest.mark.parametrize("kind", FORMATS)
def test_parts_are_drawn_where_there_are_none(tmp_path: Path, kind: str) -> None:
    arrays = {"images": grey(0, 20, 4, 5), "labels": np.arange(20)}
    data = written(tmp_path, kind, arrays, test=0.25, seed=3, classes=[f"c{n}" for n in range(20)])
    train, test = whole(data, "train"), whole(data, "test")
    assert len(test[1]) == 5 and sorted(train[1] + test[1]) == list(range(20)) and data.card.classes[7] == "c7"
    assert np.array_equal(test[0][:, 0], arrays["images"][test[1]])
    assert whole(written(tmp_path, kind, arrays, test=0.25, seed=3), "test")[1] == test[1]
    assert whole(written(tmp_path, kind, arrays, test=0.25), "test")[1] != test[1]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_size_fits_the_images(tmp_path: Path, kind: str) -> None:
    data = written(tmp_path, kind, {"images": grey(0, 3, 8, 12), "labels": np.zeros(3, int)}, size=6)
    assert data.card.size == (6, 6) and data.split("train").sample(0).image.shape == (3, 6, 6)
    assert data.split("train").sample(0).image.dtype == torch.uint8 and choose(data.split("train"), 1)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.float32), "labels": np.zeros(2, int)}, "images is float32 .*must be uint8, 0 to 255"),
        ({"images": grey(0, 2, 4, 4, 4), "labels": np.zeros(2, int)}, "one of the axes 1 and 3 must be the channels"),
        ({"images": grey(0, 2, 3, 4, 3), "labels": np.zeros(2, int)}, "one of the axes 1 and 3 must be the channels"),
        ({"images": grey(0, 2, 4, 4, 4, 1), "labels": np.zeros(2, int)}, "images must be uint8"),
        ({"images": grey(0, 2, 4, 4), "labels": np.zeros((2, 14), int)}, "one label for each of the 2 images"),
        ({"images": grey(0, 2, 4, 4), "labels": np.zeros(3, int)}, "one label for each of the 2 images"),
        ({"images": grey(0, 2, 4, 4), "labels": np.array([0, -1])}, "labels must be whole numbers from 0"),
        ({"images": grey(0, 2, 4, 4), "labels": np.array([0, 0.5])}, "labels must be whole numbers from 0"),
        ({"images": grey(0, 2, 4, 4), "imgs": grey(0, 2, 4, 4)}, "has both images and imgs"),
        ({"pixels": grey(0, 2, 4, 4)}, "contains no images that are known by name; expected .*found pixels"),
        ({"train_images": grey(0, 2, 4, 4), "test_images": grey(0, 2, 5, 5)}, "all parts must have one"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, kind: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path, kind, arrays)


def test_files_that_are_none(tmp_path: Path) -> None:
    for kind, message in (("npz", "is truncated, no .npz file, or has"), ("hdf5", "is truncated or not HDF5")):
        path = sets.text(tmp_path / f"a.{kind}", "junk")
        with pytest.raises(DataError, match=message):
            open_data(call(kind, path))
        with pytest.raises(DataError, match="no such file; expected one file with arrays such as"):
            open_data(call(kind, tmp_path / "gone"))
        with pytest.raises(DataError, match="it is a folder; expected one file"):
            open_data(call(kind, tmp_path))
    np.savez(tmp_path / "objects.npz", images=np.array([{}], object))
    with pytest.raises(DataError, match="arrays of Python objects"):
        open_data(call("npz", tmp_path / "objects.npz"))
    with pytest.raises(DataError, match="has the label 2, but classes= has 2 names"):
        written(tmp_path, "npz", {"images": grey(0, 3, 4, 4), "labels": np.arange(3)}, classes=["a", "b"])


def test_processes_that_are_forked_read_the_same(tmp_path: Path) -> None:
    data = written(tmp_path, "hdf5", {"images": grey(0, 24, 16, 16), "labels": np.arange(24)}, test=0.0)
    reader = Reader(data)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(reader, range(24), chunksize=1)
    assert np.array_equal(np.stack(found), whole(data, "train")[0])


class Reader:
    """Set before the fork, so that the children get the data without pickling it."""

    data: Data

    def __init__(self, data: Data) -> None:
        Reader.data = data

    def __call__(self, place: int) -> np.ndarray:
        return Reader.data.split("train").sample(place).image.numpy()
