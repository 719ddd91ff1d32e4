"""`hardsight status`: done, running, stale and missing, from the files alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hardsight.core import process
from hardsight.store import status as module
from hardsight.store.cells import Store, chunk_name
from hardsight.store.claims import STALE, Claims
from tests.end.test_bench import inside
from tests.store.test_claims import ELSEWHERE, claim, ended


def entry(name: str, audited: bool = False, encoder: str = "tiny") -> dict[str, Any]:
    what = f"{encoder} classify made {name}"
    return {"id": name, "what": what, "encoder": encoder, "passes": 100, "chunks": 2, "audited": audited}


def finished(folder: Path, name: str, chunks: int = 2, seconds: float = 4.0, audit: bool = False) -> None:
    place = folder / "cells" / name
    place.mkdir(parents=True)
    (place / "cell.json").write_text("{}")
    for chunk in range(chunks):
        (place / chunk_name(chunk)).write_bytes(b"")
    if chunks == 2:
        (place / "done.json").write_text(json.dumps({"seconds": seconds}))
    if audit:
        (place / "audit.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six cells: a done, b half done, c and d not begun; e and f of another encoder, e done and audited."""
    store = Store(tmp_path)
    store.create()
    store.keep_plan([entry("a", True), *map(entry, "bcd"), entry("e", True, "large"), entry("f", encoder="large")])
    finished(tmp_path, "a")
    finished(tmp_path, "b", chunks=1)
    finished(tmp_path, "e", seconds=40.0, audit=True)
    return tmp_path


def test_counts_and_time_left_come_from_the_files(store: Path) -> None:
    found = module.status(store)
    assert (found.cells, found.done, found.audits, found.audited) == (6, 2, 2, 1)
    assert found.missing == ("b", "c", "d", "f") and found.unaudited == ("a",)
    assert found.left == 50 + 100 + 100 + 100
    assert found.seconds == pytest.approx(250 * 0.04 + 100 * 0.4), "each encoder by its own pace"


def test_nothing_is_known_of_the_time_before_a_cell_is_finished(tmp_path: Path) -> None:
    Store(tmp_path).create()
    Store(tmp_path).keep_plan([entry("a")])
    assert module.status(tmp_path).seconds is None
    assert "unknown until" in inside("status", str(tmp_path)).stdout


def test_who_runs_and_who_is_stale(store: Path) -> None:
    claim(store, "cell-c", ended())
    claim(store, "head-x", ELSEWHERE)
    claim(store, "cell-f", ELSEWHERE)
    with Claims(store) as mine:
        assert mine.take("group-1", "tiny · made") and mine.take("cell-b", "tiny · classify · clean")
        found = module.status(store)
        assert [(one.who, one.cell, one.chunks, one.of) for one in found.running if one.who == process.token()] == [
            (process.token(), "b", 1, 2)
        ]
        assert [one.cell for one in found.stale] == ["c"]
        assert {one.host for one in found.running} >= {"there"}, "of another machine, silence decides"
        assert found.seconds == pytest.approx((250 * 0.04 + 100 * 0.4) / 2), "two processes"
        for name in ("head-x", "cell-f"):
            past = time.time() - STALE - 60
            os.utime(store / "claims" / f"{name}.json", (past, past))
        assert {one.cell for one in module.status(store).stale} == {"c", "f"}
        said = inside("status", str(store)).stdout
        assert (
            f"running  tiny · classify · clean on {os.uname().nodename}, process {os.getpid()}, 1 of 2 chunks, since" in said
        )
        assert "no sign of life" in said and "missing  tiny classify made d" in said
        assert "missing  tiny classify made b" not in said


def test_a_clock_that_is_behind_shows_no_negative_times(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(store) as mine:
        assert mine.take("cell-b")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        (one,) = module.status(store).running
        assert 0 <= one.seconds < 100 and one.silent >= 0


def test_json_and_what_is_wrong(store: Path, tmp_path: Path) -> None:
    document = json.loads(inside("status", str(store), "--json").stdout)
    assert document["missing"] == ["b", "c", "d", "f"] and document["running"] == [] and document["done"] == 2
    before = sorted(path.name for path in store.rglob("*"))
    inside("status", str(store))
    assert sorted(path.name for path in store.rglob("*")) == before, "a look changes nothing"
    done = inside("status", str(tmp_path / "none"))
    assert done.returncode == 2 and "is not a store" in done.stderr
    Store(tmp_path / "empty").create()
    done = inside("status", str(tmp_path / "empty"))
    assert done.returncode == 2 and "has no plan: 'hardsight bench --store" in done.stderr


def test_a_plan_of_20000_cells_is_checked_in_time(tmp_path: Path) -> None:
    """3 s of this process's own time, so that other work on the machine doesn't count."""
    store = Store(tmp_path)
    store.create()
    store.keep_plan([entry(f"{place:016x}", encoder=f"e{place % 50}") for place in range(20000)])
    for place in range(0, 20000, 2):
        finished(tmp_path, f"{place:016x}")
    started = time.process_time()
    found = module.status(tmp_path)
    assert time.process_time() - started < 3
    assert (found.done, len(found.missing)) == (10000, 10000)
