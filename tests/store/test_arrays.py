"""The reader of .npz files: the arrays that numpy reads, and no damaged byte passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import StoreError
from hardsight.store.files import read_arrays, write_arrays

ARRAYS = {
    "id": np.array(["a", "bü", "ccc"]),
    "counts.hits": np.arange(3),
    "counts.found": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)),
    "left_out": np.array([True, False, True]),
    "scalar": np.array(1.5),
    "none": np.zeros((0, 5), np.int16),
}


def test_arrays_are_those_that_numpy_reads(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS)
    np.savez(tmp_path / "b.npz", **ARRAYS)  # type: ignore[arg-type]
    for name in ("a.npz", "b.npz"):
        found = read_arrays(tmp_path / name)
        assert list(found) == list(ARRAYS)
        for key, value in ARRAYS.items():
            assert found[key].dtype == value.dtype and np.array_equal(found[key], value) and found[key].shape == value.shape
            assert found[key].flags.writeable
    assert list(read_arrays(tmp_path / "a.npz", lambda name: name.startswith("counts."))) == ["counts.hits", "counts.found"]
    write_arrays(tmp_path / "empty.npz", {})
    assert read_arrays(tmp_path / "empty.npz") == {}


def test_a_damaged_byte_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Each byte in turn; some are read by nobody, such as a date."""
    write_arrays(tmp_path / "a.npz", {"id": ARRAYS["id"], "hits": np.arange(40) % 3})
    content = (tmp_path / "a.npz").read_bytes()
    whole, errors = read_arrays(tmp_path / "a.npz"), 0
    for at in range(len(content)):
        (tmp_path / "b.npz").write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            found = read_arrays(tmp_path / "b.npz")
            assert all(np.array_equal(value, whole[key]) for key, value in found.items() if key in whole)
        except StoreError:
            errors += 1
    assert errors > len(content) / 2
    for size in range(0, len(content), 7):
        (tmp_path / "b.npz").write_bytes(content[:size])
        with pytest.raises(StoreError, match="cannot read"):
            read_arrays(tmp_path / "b.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", bad=np.array([{}, 1], dtype=object))
    with pytest.raises(StoreError, match="Object arrays"):
        read_arrays(tmp_path / "a.npz")
