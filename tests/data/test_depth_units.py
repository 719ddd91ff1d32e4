"""The unit of stored depths: the same metres from any unit, and warnings where a unit cannot be right."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.check import check, lines
from tests.data.test_data_bad import ask
from tests.fixtures import data_sets as sets

METRES = np.array([[2.0, 4.0, 8.0, 0.0]] * 3)
UNITS = {"0.001": 0.001, "1/256": 1 / 256, "1/5000": 1 / 5000}


def stored(unit: float, metres: np.ndarray = METRES) -> np.ndarray:
    return np.round(metres / unit).astype(np.uint16)


def frames(root: Path, values: np.ndarray) -> str:
    sets.save(root / "test" / "rgb_0.png", sets.picture(0, *values.shape))
    sets.save(root / "test" / "depth_0.png", values)
    return f"rgbd(root={str(root)!r}"


@pytest.mark.parametrize("unit", UNITS)
def test_metres_are_the_same_in_any_unit(tmp_path, unit):
    data = open_data(f"{frames(tmp_path, stored(UNITS[unit]))}, unit={unit})")
    assert data.card.unit == UNITS[unit]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(data.split("test").sample(0).target["depth"], METRES, rtol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_metres_from_parquet(tmp_path, unit):
    buffer = io.BytesIO()
    Image.fromarray(stored(UNITS[unit])).save(buffer, "PNG")
    path = tmp_path / "test-00000-of-00001.parquet"
    sets.parquet(path, [(sets.picture(0, 3, 4), 0)], extra={"far": [buffer.getvalue()]})
    data = open_data(f"hfdata(name={str(tmp_path)!r}, image=image, depth=far, unit={unit})")
    assert data.card.unit == UNITS[unit]
    assert np.allclose(data.split("test").sample(0).target["depth"], METRES, rtol=1e-6)


def test_metres_from_nyu(tmp_path):
    sets.nyuv2(tmp_path)
    before = open_data(ask("nyuv2", tmp_path)).split("train").sample(0).target["depth"]
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["depths"][...] = file["depths"][...] * 4
    data = open_data(ask("nyuv2", tmp_path, unit=0.25))
    assert np.array_equal(data.split("train").sample(0).target["depth"], before) and data.card.unit == 0.25


def test_units_that_cannot_be_right(tmp_path):
    kitti = stored(1 / 256, METRES * 9)  # 18 to 72 m: as millimetres, 4.6 to 18.4 m
    spec = frames(tmp_path, kitti)
    with pytest.warns(
        UserWarning, match=r"max_depth=80 m can't be reached: values up to 65535 at unit=0.001 m are at most 65.5"
    ):
        open_data(f"{spec}, max_depth=80)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth = open_data(f"{spec}, max_depth=80, unit=1/256)").split("test").sample(0).target["depth"]
    assert np.allclose(depth, METRES * 9, rtol=1e-3)
    with pytest.warns(UserWarning, match=r"half of its depths are beyond 36,864.0 m .*KITTI 1/256 m"):
        open_data(f"{spec}, max_depth=80, unit=4)").split("test").sample(0)
    sets.save(tmp_path / "test" / "depth_0.png", METRES.astype(np.uint16))  # whole metres
    with pytest.warns(
        UserWarning, match=r"depth_0.png: half of its depths are below 0.004 m, so the unit is probably not 0.001"
    ):
        open_data(f"{spec})").split("test").sample(0)
    for unit in (0, -0.001, 1000):
        with pytest.raises(
            DataError, match=rf"unit={unit}: it must be the metres that one stored value stands for; sensors"
        ):
            open_data(f"{spec}, unit={unit})")


def test_check_says_the_unit(tmp_path):
    found = check(f"{frames(tmp_path, stored(1 / 256))}, unit=1/256)")
    assert found["unit"] == 1 / 256 and "unit     0.00390625 m per stored depth value" in lines(found)
    assert check("made(size=16, train=2, test=2)")["unit"] == 0
