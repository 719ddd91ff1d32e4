"""The store: atomic writes, plain errors, and nothing lost on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import StoreError
from hardsight.metrics import of
from hardsight.metrics.intervals import bootstrap, wilson
from hardsight.store.cells import Store, chunks
from hardsight.store.files import read_arrays, write_arrays, write_bytes
from tests.fixtures.processes import Command

ROWS = {"id": np.array(["a", "b"]), "error": np.array([0.0, 1.0], dtype=np.float32)}


def test_arrays_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_arrays(tmp_path / f"{name}.npz", ROWS)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    back = read_arrays(tmp_path / "one.npz")
    assert back["id"].tolist() == ["a", "b"]


def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        write_bytes(tmp_path / "x", b"after")
    assert (tmp_path / "x").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_has_exit_code_2(tmp_path: Path) -> None:
    """A real process whose files are limited to 300 bytes stops with one line, and leaves no partial file."""
    import resource
    import signal

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    words = [
        "bench",
        "--encoder",
        "tiny",
        "--task",
        "classify",
        "--count",
        "4",
        "--attack",
        "clean",
        "--store",
        str(tmp_path / "s"),
    ]
    words += ["--data", "made(size=16, train=16, test=8)", "--set", "probe=probe(epochs=1, images=16)"]
    code, message = Command(*words, before=small_files).end()
    assert code == 2, message
    assert "cannot write" in message.splitlines()[-1]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_broken_chunk_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows-00000.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="rows-00000"):
        read_arrays(path)


def test_a_pickle_in_a_chunk_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoreError, match="x.npz"):
        read_arrays(tmp_path / "x.npz")


def test_chunks_of_two_versions_are_read_by_what_both_have(tmp_path: Path) -> None:
    cell = Store(tmp_path).open("ab", {})
    cell.write_chunk(0, ROWS)
    cell.write_chunk(1, {})
    cell.write_chunk(2, {**ROWS, "members.new.hits": np.array([1, 0])})
    rows = cell.rows()
    assert list(rows) == ["id", "error"]
    assert rows["id"].tolist() == ["a", "b", "a", "b"]
    cell.write_chunk(0, {**ROWS, "members.new.hits": np.array([0, 1])})
    assert cell.rows()["members.new.hits"].tolist() == [0, 1, 1, 0]


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open("c", {"encoder": "e", "encoder_card": {"sha256": "1"}})
    with pytest.raises(StoreError, match="weights behind e"):
        Store(tmp_path).open("c", {"encoder": "e", "encoder_card": {"sha256": "2"}})


def test_names_of_a_cell_may_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open("c", {"place": 3, "encoder_card": {"sha256": "1"}})
    assert Store(tmp_path).open("c", {"place": 0, "encoder_card": {"sha256": "1"}}).what["place"] == 0
    assert store.cells()[0].what["place"] == 0


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="not a store"):
        Store(tmp_path, must_exist=True)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="cannot read"):
        Store(tmp_path)


def test_chunks_cover_every_place_once() -> None:
    assert [list(span) for _, span in chunks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_wilson_is_the_published_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        values = rng.normal(3.0, 1.0, 60)
        counts = {"sum": values, "n": np.ones(60)}
        low, high = bootstrap(counts, lambda sums: sums["sum"] / sums["n"], draws=300, seed=trial)
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_miou_counts_classes_that_occur() -> None:
    counts = {
        "intersection": np.array([[4, 0, 0]]),
        "predicted": np.array([[6, 0, 0]]),
        "labelled": np.array([[4, 2, 0]]),
    }
    found = of("segment").summary(counts)
    assert found["miou"] == pytest.approx((4 / 6 + 0) / 2)
    assert found["class_accuracy"] == pytest.approx(0.5)
