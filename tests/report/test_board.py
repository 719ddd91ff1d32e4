"""The board: its rankings against the report and against known skills, what it refuses to rank together, damage, names."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import StoreError
from hardsight.report import board, page
from hardsight.report.board.data import gathered, index, outcomes
from hardsight.report.measured import read
from hardsight.report.results import WORST, grid
from hardsight.store.cells import Store
from tests.fixtures.boards import fabricated
from tests.report.test_report import HOSTILE

SKILL = {"good": 0.1, "alike": 0.12, "poor": 0.5, HOSTILE: 0.8}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fabricated(tmp_path_factory.mktemp("board") / "store", list(SKILL), skill=SKILL)


@pytest.fixture(scope="module")
def made(store: Store) -> board.Board:
    return gathered(*read([store.path]))


def data_of(path: Path) -> dict:
    return json.loads(re.sub(r"^window\.\w+=|;\s*$", "", path.read_text(encoding="utf-8")))


def test_every_figure_and_worst_case_is_the_report_s(store: Store, made: board.Board) -> None:
    rows = {(row.encoder, row.task): row for row in grid(store.cells()).rows}
    seen = 0
    for one in made.rankings:
        for place, entry in enumerate(one.entries):
            row = rows[entry.name, entry.what["task_name"]]
            kind = WORST if one.kind == WORST else "clean" if one.kind == "clean" else None
            for column, number in row.numbers.items():
                attack = column.attack if kind else row.names[column]
                if attack == (kind or entry.attack) and column.eps == pytest.approx(one.eps, abs=1e-8):
                    assert (one.values[place], one.low[place], one.high[place]) == pytest.approx(
                        (number.value, number.low, number.high)
                    ), (one.title, entry.name)
                    seen += 1
    assert seen == sum(len(one.entries) for one in made.rankings) > 90


def test_encoders_far_apart_are_ranked_and_those_alike_are_tied(made: board.Board) -> None:
    clean = next(one for one in made.rankings if one.kind == "clean" and one.metric.headline == "miou")
    place = {entry.name: n for n, entry in enumerate(clean.entries)}
    found = clean.standing
    assert found.group[place["good"]] == found.group[place["alike"]] == 1
    assert (found.low[place["poor"]], found.high[place["poor"]]) == (3, 3)
    assert found.group[place["good"]] < found.group[place["poor"]]


def test_the_worst_tenth(made: board.Board) -> None:
    for one in made.rankings:
        tenth = round(len(one.ids) / 10)
        if one.right is not None:
            order = np.argsort(one.right.sum(0), kind="stable")[:tenth]
            assert one.tail == pytest.approx(one.right[:, order].mean(1))
        else:
            assert ((one.tail < one.values) == (one.metric.better == "higher")).all()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"count": 80}, "count 80"),
        ({"probe": "probe(epochs=5)"}, "head probe(epochs=5)"),
        ({"split": "val"}, "split val"),
        ({"stamp": "e0:other"}, "files of the data other"),
        ({"seed": 3}, "seed 3"),
        ({"data": "cifar10(size=(64, 64))"}, "data cifar10(size=(64, 64))"),
        ({"preprocess": "evaluation(96, 112)"}, "pictures prepared by evaluation(96, 112)"),
    ],
)
def test_what_is_measured_otherwise_is_not_ranked_with_the_rest(tmp_path: Path, changed: dict, why: str) -> None:
    few = {"tasks": ("classify",), "eps": (4,), "n": 20, "pictures": False}
    fabricated(tmp_path / "a", ["one", "two"], **few)
    fabricated(tmp_path / "b", ["other"], **few, **changed)
    found = gathered(*read([tmp_path / "a", tmp_path / "b"]))
    for one in found.rankings:
        assert {entry.name for entry in one.entries} in ({"one", "two"}, {"other"})
    assert any(why in name for _, name in found.setups)
    assert [setup["unlike"] for setup in index(found)["setups"]][1]


def test_departures_other_eps_and_other_images_are_rankings_of_their_own(tmp_path: Path) -> None:
    few = {"tasks": ("classify",), "n": 20, "pictures": False}
    fabricated(tmp_path / "a", ["one", "two"], eps=(4,), **few)
    fabricated(tmp_path / "b", ["apart"], eps=(4,), **few, protocol={"name": "p", "version": 1, "departures": ["20 images"]})
    fabricated(tmp_path / "c", ["far"], eps=(2,), **few)
    short = fabricated(tmp_path / "d", ["short"], eps=(4,), **few)
    for cell in short.cells():  # an image could not be read
        rows = cell.rows()
        cell.write_chunk(0, {key: value[1:] for key, value in rows.items()})
    found = gathered(*read([tmp_path / name for name in "abcd"]))
    groups = {(one.title, frozenset(entry.name for entry in one.entries)) for one in found.rankings}
    assert ("PGD · Linf 4/255", frozenset({"one", "two"})) in groups
    assert ("PGD · Linf 4/255", frozenset({"apart"})) in groups and ("PGD · Linf 4/255", frozenset({"short"})) in groups
    assert ("clean", frozenset({"one", "two", "far"})) in groups  # without an attack they are comparable
    assert ("worst case · Linf 2/255", frozenset({"far"})) in groups
    assert next(one["departures"] for one in index(found)["rankings"] if one["protocol"]) == "20 images"


def test_worst_cases_over_other_attacks_are_not_ranked_together(tmp_path: Path) -> None:
    few = {"tasks": ("classify",), "eps": (4,), "n": 20, "pictures": False}
    fabricated(tmp_path / "a", ["one", "two"], **few)
    fabricated(tmp_path / "b", ["less"], **few)
    shutil.rmtree(next(cell.path for cell in Store(tmp_path / "b").cells() if cell.what["attack_name"] == "APGD"))
    worst = [one for one in gathered(*read([tmp_path / "a", tmp_path / "b"])).rankings if one.kind == WORST]
    assert {frozenset(entry.name for entry in one.entries) for one in worst} == {
        frozenset({"one", "two"}),
        frozenset({"less"}),
    }
    assert len({dict(one.under)["attack"] for one in worst}) == 2


def test_a_damaged_store_says_which_cells_it_left_out(tmp_path: Path) -> None:
    made = fabricated(tmp_path / "store", ["one", "two", "three"], ("classify",), (4,), 20, 10)
    cells = made.cells()
    (cells[0].path / "cell.json").write_text("{")
    cells[1].chunk(0).write_bytes(b"PK no archive")
    (cells[2].path / "done.json").unlink()
    (cells[3].path / "cell.json").unlink()
    cells[4].chunk(0).unlink()
    cells[4].chunk(1).unlink()
    (cells[5].path / "done.json").write_text("[]")
    found = board.write([made.path], tmp_path / "site")
    text = (tmp_path / "site" / "index.html").read_text()
    assert len(found.left_out) == 6 and len(found.rankings)
    for cell in cells[:6]:
        assert sum(cell.id in line for line in found.left_out) == 1
        assert cell.id in text
    kept = sum(one.kind != WORST for one in found.rankings for _ in one.entries)
    assert kept == len(cells) - 6
    with pytest.raises(StoreError, match="is not a store"):
        board.write([tmp_path], tmp_path / "site")
    for cell in cells:
        (cell.path / "done.json").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="no finished cell"):
        board.write([made.path], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_same_stores_give_the_same_bytes_and_twice_the_same_store_changes_nothing(store: Store, tmp_path: Path) -> None:
    for name, stores in (("a", [store.path]), ("b", [store.path, store.path])):
        board.write(stores, tmp_path / name, title="T")
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "ab"]
    assert files[0] == files[1] and len(files[0]) == 8 + 2 * len(SKILL) - 1


def test_an_encoder_measured_again_counts_once(tmp_path: Path) -> None:
    few = {"tasks": ("classify",), "eps": (4,), "n": 20, "pictures": False}
    fabricated(tmp_path / "old", ["one"], **few)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    for done in (tmp_path / "new").rglob("done.json"):
        done.write_text(done.read_text().replace("2026-11-21", "2026-11-22"))
    found = gathered(*read([tmp_path / "new", tmp_path / "old"]))
    assert found.names == ["one"] and {entry.store for entry in found.entries[0]} == {str(tmp_path / "new")}
    assert all("measured again in" in line for line in found.left_out) and found.left_out


def test_names_stay_text(store: Store, tmp_path: Path) -> None:
    made = board.write([store.path], tmp_path, title=HOSTILE)
    for path in tmp_path.rglob("*.html"):
        assert "<script>alert" not in path.read_text() and "\x1b" not in path.read_text()
    for path in (tmp_path / "data").glob("*.js"):
        assert "<" not in path.read_text() and ">" not in path.read_text()
    assert [one["name"] for one in data_of(tmp_path / "data" / "board.js")["encoders"]] == made.names
    assert page.plain(HOSTILE) in made.names
    assert all(re.fullmatch(r"\d+-[A-Za-z0-9-]+\.html", name) for name in made.files)


def test_packed_outcomes_are_the_rows(made: board.Board) -> None:
    number = made.names.index("poor")
    for place, packed in outcomes(made, number).items():
        one = made.rankings[int(place)]
        at = [entry.name for entry in one.entries].index("poor")
        bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["differ"]), np.uint8))[: len(one.entries)]
        assert (bits.astype(bool) == one.differ[at]).all()
        if one.right is not None:
            right = np.unpackbits(np.frombuffer(base64.b64decode(packed["right"]), np.uint8))[: len(one.ids)]
            assert (right.astype(bool) == one.right[at]).all()
        else:
            error = np.frombuffer(base64.b64decode(packed["error"]), np.uint8) / 255
            assert error == pytest.approx(one.error[at], abs=1 / 500)
            assert one.errors is not None
            assert np.frombuffer(base64.b64decode(packed["errors"]), "<f4") == pytest.approx(one.errors[at], rel=1e-6)


def test_the_page_of_an_encoder_says_how_to_measure_it_again(made: board.Board, store: Store, tmp_path: Path) -> None:
    board.write([store.path], tmp_path)
    text = (tmp_path / "encoder" / made.files[made.names.index("good")]).read_text()
    command = "hardsight bench --encoder zoo:good --task &#39;segment()&#39; --data &#39;camvid()&#39; --attack clean"
    assert command in text and "data:image/jpeg" in text and "<svg" in text and "abc" in text


def test_a_report_names_at_most_twelve_encoders_before_its_table(tmp_path: Path) -> None:
    names = [f"enc{k:02d}" for k in range(13)]
    made = fabricated(tmp_path / "store", names, ("classify",), (4,), 10, 10, False, skill=dict.fromkeys(names, 0.0))
    table = grid(made.cells())
    assert page.summary(table).startswith("13 encoders on 1 task")
    assert "enc00" not in page.summary(table) and not re.search("enc00, enc01, enc02", page.finding(table, list(table.rows)))
    few = fabricated(tmp_path / "few", names[:12], ("classify",), (4,), 10, 10, False)
    assert "(enc00, enc01" in page.summary(grid(few.cells()))
