"""What a report keeps beside the cells: the same pages with it, anew where anything has changed, and no more work for more rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardsight import report
from hardsight.metrics import of
from hardsight.metrics import worst as worst_case
from hardsight.metrics.intervals import bootstrap
from hardsight.report import figured
from hardsight.report.kept import NAME
from hardsight.store.cells import Store
from hardsight.store.files import read_arrays, write_arrays
from tests.report.test_report import add


def a_store(folder: Path) -> Store:
    store = Store(folder)
    for encoder in ("one", "two"):
        for task in ("classify", "depth"):
            for column, eps in (("clean", 0), ("embed", 4), ("task", 4), ("task", 8)):
                add(store, encoder, task, column, eps)
    return store


def _depth(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    sums = ("squared", "relative", "log10", "delta1", "delta2", "delta3", "image_rmse", "image_silog")
    return {"pixels": np.full(n, 9.0), "images": np.ones(n), **{name: rng.random(n) * 9 for name in sums}}


def pages(store: Store, folder: Path) -> dict[str, bytes]:
    return {kind: path.read_bytes() for kind, path in report.write(store, folder).items()}


def test_the_second_report_is_the_first_one_and_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "store")
    first = pages(store, tmp_path / "first")
    assert len(list((tmp_path / "store").rglob(NAME))) == 4  # one a row
    monkeypatch.setattr(figured, "_number", lambda *_: pytest.fail("a figure was computed again"))
    assert pages(store, tmp_path / "second") == first


def test_other_rows_are_computed_anew(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    first = json.loads(pages(store, tmp_path / "first")["json"])
    cell = next(one for one in store.cells() if one.what["encoder_name"] == "one" and one.what["task_name"] == "depth")
    rows = read_arrays(cell.chunk(0))
    write_arrays(cell.chunk(0), {**rows, "counts.squared": rows["counts.squared"] * 2})
    changed = json.loads(pages(store, tmp_path / "second")["json"])
    for kept in (tmp_path / "store").rglob(NAME):
        kept.unlink()
    assert json.loads(pages(store, tmp_path / "third")["json"]) == changed
    differs = [key for key, value in changed["results"].items() if value != first["results"][key]]
    assert len(differs) == 1 and differs[0].startswith("one/")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "x"}', b'{"key": 1, "row": {}}', b"\xff"])
def test_a_damaged_file_is_computed_anew(tmp_path: Path, content: bytes) -> None:
    store = a_store(tmp_path / "store")
    first = pages(store, tmp_path / "first")
    for path in (tmp_path / "store").rglob(NAME):
        path.write_bytes(content)
    assert pages(store, tmp_path / "second") == first


def test_a_changed_code_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "store")
    pages(store, tmp_path / "first")
    asked = []
    monkeypatch.setattr("hardsight.report.kept._code", lambda: b"another")
    monkeypatch.setattr(figured, "facts_of", lambda rows: asked.append(1) or {"largest": 0.0})
    pages(store, tmp_path / "second")
    assert len(asked) == 16


@pytest.mark.parametrize("task", ["segment", "depth"])
def test_many_images_at_once_choose_as_one_after_the_other(task: str) -> None:
    metric, rng = of(task), np.random.default_rng(1)
    for n, members in ((1, 2), (7, 3), (60, 4), (130, 2)):
        counts = _depth(rng, n * members)
        if task == "segment":
            labelled = rng.integers(0, 9, (n * members, 5))
            counts = {"labelled": labelled, "intersection": rng.integers(0, labelled + 1), "predicted": labelled}
        stacked = {name: value.reshape(members, n, *value.shape[1:]).astype(float) for name, value in counts.items()}
        for key in metric.labels:
            alone = worst_case.set_wise_each({name: value[None] for name, value in stacked.items()}, metric, key)
            twice = worst_case.set_wise_each(
                {name: np.stack([value, value]) for name, value in stacked.items()}, metric, key
            )
            assert (twice == alone).all()


def test_intervals_of_several_figures_are_those_of_each() -> None:
    metric, counts = of("depth"), _depth(np.random.default_rng(2), 50)
    found = metric.intervals(counts, list(metric.labels))
    assert found == {key: bootstrap(counts, lambda sums, key=key: metric.totals(sums)[key]) for key in metric.labels}
    shares = {"hits": np.arange(10) % 2, "images": np.ones(10)}
    assert of("classify").intervals(shares, ["accuracy"]) == {"accuracy": of("classify").interval(shares)}
