"""`hardsight compare`: what is paired, what fails, what is said about the rest, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from hardsight.cli import app
from hardsight.core.errors import SpecError
from hardsight.metrics import of
from hardsight.metrics.paired import difference
from hardsight.report.compare import compare, document, junit
from hardsight.report.over import counts_of
from hardsight.store.cells import Store
from tests.fixtures.boards import fabricated

RUN = CliRunner()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of one encoder each: `new` is much worse than `old`, `same` equal to it; `both` holds two encoders."""
    root, few = tmp_path_factory.mktemp("compare"), {"eps": (4,), "pictures": False}
    fabricated(root / "old", ["net"], skill={"net": 0.1}, **few)
    fabricated(root / "new", ["net"], skill={"net": 0.6}, **few)
    fabricated(root / "both", ["one", "two"], skill={"one": 0.1, "two": 0.6}, **few)
    shutil.copytree(root / "old", root / "same")
    return {path.name: path for path in root.iterdir()}


def test_lines_are_the_paired_differences_of_the_cells(places: dict[str, Path]) -> None:
    found = compare(str(places["old"]), str(places["new"]))
    assert len(found.lines) == 3 + 3 + 2 + 2 and not found.missing
    by_id = [{cell.id: cell for cell in Store(places[name]).cells()} for name in ("old", "new")]
    for line, (key, cell) in zip(found.lines, by_id[0].items(), strict=True):
        metric = of(cell.what["task_name"])
        expected = difference(metric, counts_of(cell.rows()), counts_of(by_id[1][key].rows()))
        assert (line.found.value, line.found.low, line.found.p) == pytest.approx((expected.value, expected.low, expected.p))
        assert line.adjusted >= line.found.p and line.fails is None
    assert all(line.verdict == "B worse" for line in found.lines)


def test_a_limit_fails_only_what_is_surely_worse_by_more(places: dict[str, Path]) -> None:
    old, new, same = (str(places[name]) for name in ("old", "new", "same"))
    assert compare(old, new, limit=0).failures == 10 and compare(new, old, limit=0).failures == 0
    assert compare(old, same, limit=0).failures == 0
    strict = compare(old, new, limit=40)
    assert 0 < strict.failures < 10
    for line in strict.lines:
        allowed = 0.4 * (1 if line.metric.unit == "%" else line.a)
        best = line.found.high if line.metric.better == "higher" else -line.found.low
        assert line.fails == (best < -allowed)


def test_exit_codes_and_junit(places: dict[str, Path], tmp_path: Path) -> None:
    old, new, same = (str(places[name]) for name in ("old", "new", "same"))
    done = RUN.invoke(app, ["compare", old, new, "--fail-under", "1", "--junit", str(tmp_path / "j.xml")])
    assert done.exit_code == 3 and "B fails in 10 comparisons" in done.output
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert suite.get("failures") == "10" == str(len(suite.findall(".//failure"))) and len(suite.findall("testcase")) == 10
    assert RUN.invoke(app, ["compare", old, new]).exit_code == 0
    assert RUN.invoke(app, ["compare", old, same, "--fail-under", "0"]).exit_code == 0
    printed = RUN.invoke(app, ["compare", old, new, "--json"])
    assert json.loads(printed.stdout)["lines"][0]["verdict"] == "B worse"
    wrong = RUN.invoke(app, ["compare", old, new, "--fail-under", "-1"])
    assert isinstance(wrong.exception, SpecError)


def test_encoders_and_cells_of_one_store(places: dict[str, Path]) -> None:
    found = compare("one", "zoo:two", places["both"])
    assert len(found.lines) == 10 and "encoder: zoo:two, not zoo:one" in found.lines[0].settings
    cells = [cell.path for cell in Store(places["both"]).cells() if cell.what["attack_name"] == "PGD"]
    assert [line.title for line in compare(*map(str, cells)).lines] == ["classify on cifar10: PGD · Linf 4/255"]
    with pytest.raises(SpecError, match="did you mean 'two'"):
        compare("one", "twoo", places["both"])
    with pytest.raises(SpecError, match="give --store"):
        compare("one", "two")


def test_what_b_lacks_fails_and_says_why(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["old"], tmp_path / "less")
    cell = next(cell for cell in Store(tmp_path / "less").cells() if cell.what["attack_name"] == "PGD")
    what = json.loads((cell.path / "cell.json").read_text()) | {"count": 30}
    (cell.path / "cell.json").write_text(json.dumps(what))
    found = compare(str(places["old"]), str(tmp_path / "less"), limit=0)
    assert found.failures == 1 and found.lacking == ["only A has net, classify, PGD · Linf 4/255 (count: 60, not 30)"]
    assert "only B has net, classify, PGD" in found.missing[1]
    assert b"no finished cell to compare with" in junit(found) and document(found)["failures"] == 1
    assert compare(str(places["old"]), str(tmp_path / "less")).failures == 0
    with pytest.raises(SpecError, match="can be compared: only A has net, classify"):
        compare(str(places["old"]), str(cell.path))


def test_only_shared_images_are_compared(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["old"], tmp_path / "short")
    for cell in Store(tmp_path / "short").cells():
        cell.chunk(1).unlink()
    assert {line.found.n for line in compare(str(places["old"]), str(tmp_path / "short")).lines} == {30}


def test_an_encoder_is_named_as_in_the_table_or_by_any_writing_of_its_spec(places: dict[str, Path], tmp_path: Path) -> None:
    store = shutil.copytree(places["both"], tmp_path / "both")
    for path in store.glob("cells/*/cell.json"):  # as `bench` keeps it
        path.write_text(path.read_text().replace('"zoo:one"', "\"zoo('made_simclr')\""))
    lines = compare("one", "two", store).lines
    assert len(lines) == 10
    for text in ("zoo:made_simclr", "zoo('made_simclr')", "zoo(name=made_simclr)"):
        assert compare(text, "two", store).lines == lines
    with pytest.raises(SpecError, match="no finished cell of an encoder 'zoo:one'"):
        compare("zoo:one", "two", store)
