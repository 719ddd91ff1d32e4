"""Studies: their statistics, what their files may say, and that what is shipped is in the package."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import SpecError
from hardsight.measure.study import _place, check
from hardsight.metrics.over_runs import ratio, slope, spearman
from hardsight.report.study import Figures, document, markdown, note
from hardsight.report.study_page import html
from hardsight.report.study_reading import MISSING, OPEN, OPPOSITE, OUT, readings, resolve
from hardsight.specs.study import Finding, wrapped
from hardsight.specs.study_file import SHIPPED, load, read_study, shipped, summary

TEXT = """# A study of three arms. More about it.
# Command: STUDIED=PATH hardsight study three
title = "Three arms"
[measure]
data = ["made(size=32, train=64, test=16)"]
tasks = ["classify"]
attacks = ["clean"]
probe = "probe(images=64, epochs=2)"
[arms.one]
encoder = "tiny"
[arms.two]
encoder = "tiny(widths=(8, 8, 8, 8))"
[arms.three]
encoder = "tiny(widths=(4, 8, 8, 8))"
"""
MORE = """
[[dose]]
figure = "clean"
arms = ["one", "two", "three"]
at = [0, 0.5, 1]
[[correlate]]
x = "clean"
y = "uniformity"
[[finding]]
says = "two is better than one"
source = "paper 000"
figure = "clean"
of = "two"
to = "one"
expect = "higher"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "three.toml"
    path.write_text(text)
    return path


def figures(**arms: list[float]) -> Figures:
    found: Figures = {}
    for arm, values in arms.items():
        for seed, value in enumerate(values):
            note(found, "clean, accuracy", "%", "higher", arm, seed, value)
            note(found, "clean, relative", "%", "higher", arm, seed, value, derived=True)
            note(found, "uniformity", "", "lower", arm, seed, -value)
    return found


def test_fiellers_interval_is_the_set_of_ratios_that_a_paired_t_test_does_not_refuse() -> None:
    from scipy import stats

    above, below = [0.06, 0.05, 0.09, 0.05], [0.11, 0.09, 0.16, 0.12]
    found = ratio(above, below)
    for bound in (found.low, found.high):
        refused = stats.ttest_1samp(np.array(above) - bound * np.array(below), 0).pvalue
        assert refused == pytest.approx(0.05, abs=1e-3)
    assert found.low < found.value < found.high


def test_a_ratio_to_a_gap_of_about_zero_is_undefined() -> None:
    found = ratio([0.05, 0.06, 0.04], [0.01, -0.02, 0.01])
    assert np.isnan(found.value) and found.low == -np.inf


def test_fiellers_interval_covers_the_true_ratio() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        below = rng.normal(1.0, 0.2, 5)
        found = ratio((0.3 * below + rng.normal(0, 0.1, 5)).tolist(), below.tolist())
        held += found.low <= 0.3 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_rank_correlation_is_scipys_with_ties() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 5, 20), rng.integers(0, 5, 20)
    found = spearman(x.tolist(), y.tolist(), [place // 4 for place in range(20)])
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    assert np.isnan(spearman([1, 2, 3], [1, 1, 1], "abc").value)


def test_a_slope_has_the_interval_of_the_slopes_of_its_seeds() -> None:
    runs = np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]])
    found = slope([0, 1, 2], runs)
    assert found.value == pytest.approx(1.5)
    assert found.high - found.value == pytest.approx(12.706 * np.std([1, 2], ddof=1) / 2**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("one", "two", "expect", "verdict"),
    [
        ([0.1, 0.2, 0.3], [0.3, 0.41, 0.5], "higher", OUT),
        ([0.1, 0.2, 0.3], [0.3, 0.41, 0.5], "lower", OPPOSITE),
        ([0.1, 0.2, 0.3], [0.3, 0.1, 0.4], "higher", OPEN),
        ([0.1], [0.3], "higher", OPEN),
        ([0.1, 0.2, 0.3], [0.3, 0.4], "higher", MISSING),
        ([0.1, 0.2, 0.3], [0.3, float("nan"), 0.4], "higher", MISSING),
    ],
)
def test_a_finding_comes_out_where_its_interval_leaves_out_zero(
    tmp_path: Path, one: list[float], two: list[float], expect: str, verdict: str
) -> None:
    study = read_study(write(tmp_path, TEXT + MORE.replace("higher", expect)))
    assert readings(study, figures(one=one, two=two))[0].verdict == verdict


def test_a_finding_about_a_gap_that_narrows(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, TEXT))
    found = figures(one=[0.1, 0.2, 0.3], two=[0.4, 0.51, 0.6])
    for arm, values in {"one": [0.1, 0.2, 0.3], "two": [0.15, 0.25, 0.35]}.items():
        for seed, value in enumerate(values):
            note(found, "tuned", "%", "higher", arm, seed, value)
    narrower = Finding("it narrows", "paper 000", "higher", "clean", ("two",), ("one",), less="tuned")
    read = readings(replace(study, finding=(narrower,)), found)[0]
    assert read.verdict == OUT
    assert read.number is not None and read.number.value == pytest.approx(0.2533, abs=1e-3)
    wider = replace(narrower, less="clean", figure="tuned")
    assert readings(replace(study, finding=(wider,)), found)[0].verdict == OPPOSITE


def test_a_figure_is_found_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    found = figures(one=[0.1])
    assert resolve("clean", found) == "clean, accuracy"  # the derived one is named in full
    assert resolve("clean, rel", found) == "clean, relative"
    with pytest.raises(SpecError, match="did you mean 'uniformity'"):
        resolve("unifromity", found)
    note(found, "clean, mIoU", "%", "higher", "one", 0, 0.5)
    with pytest.raises(SpecError, match="the beginning of several figures"):
        resolve("clean", found)


def test_a_number_of_a_later_seed_is_not_paired_with_an_earlier_one() -> None:
    found: Figures = {}
    note(found, "clean", "%", "higher", "one", 2, 0.5)
    assert np.isnan(found["clean"]["arms"]["one"][:2]).all() and found["clean"]["arms"]["one"][2] == 0.5
    with pytest.raises(SpecError, match="two numbers of 'one' are named 'clean'"):
        note(found, "clean", "%", "higher", "one", 2, 0.6)


def test_tables_and_page_say_doses_correlations_and_the_reading(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, TEXT + MORE))
    found = figures(one=[0.1, 0.2, 0.3], two=[0.3, 0.41, 0.5], three=[0.5, 0.6, 0.7])
    text, page = markdown(study, found, 30.0), html(study, found, 30.0)
    assert "| clean, accuracy, uniformity | -1.00 | 9 |" in text
    assert "+40.0 ± 0.0" in text  # the slope from 0 to 1
    assert "| two is better than one (paper 000) | clean, accuracy: two − one | +20.3 ± 1.4 points | comes out |" in text
    assert "The study took 30 s." in text and "mean over 3 seeds ±" in text
    assert "mean over 1 of 3 seeds ±" in markdown(study, figures(one=[0.1], two=[0.3]))
    assert page.count("<svg") == 5 and "✓ comes out" in page
    assert document(study, found, 30.0)["findings"][0]["verdict"] == OUT


def test_many_comparisons_are_rows(tmp_path: Path) -> None:
    pair = '[[compare]]\nof = "two"\nto = "one"\n'
    found = figures(one=[0.1, 0.2], two=[0.3, 0.4])
    few = markdown(read_study(write(tmp_path, TEXT + 6 * pair)), found)
    many = markdown(read_study(write(tmp_path, TEXT + 7 * pair)), found)
    assert "| clean, accuracy (%) ↑ | +20.0 ± 0.0 | +20.0 ± 0.0 |" in few
    assert many.count("| two − one | +20.0 ± 0.0 | +20.0 ± 0.0 | -0.200 ± 0.000 |") == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at = [0, 0.5, 1]", "at = [0, 1]", "one number in 'at' for each arm"),
        ('arms = ["one", "two", "three"]', 'arms = ["one", "tow", "three"]', "did you mean 'two'"),
        ('expect = "higher"', 'expect = "hihger"', "did you mean 'higher'"),
        ('of = "two"\n', "", "exactly one of"),
        ('figure = "clean"\nof', 'dose = "clan"\nof', "no \\[\\[dose\\]\\] of 'clan'; did you mean 'clean'"),
        ('y = "uniformity"', "", "it needs 'y'"),
        ('title = "Three arms"', 'derive = ["realtive"]', "did you mean 'relative'"),
        ('title = "Three arms"', 'derive = ["area"]', "at least 3 radii"),
        ("[measure]\n", '[measure]\narms = ["on"]\n', "did you mean 'one'"),
        ("[measure]\n", '[measure]\nwrap = "crosp(n=2)"\n', "did you mean 'crops'"),
        ("[measure]\n", "[measures.first]\n[measure]\n", "or several"),
        ("[arms.one]\n", "[geometry]\ndata = 'mdae'\n[arms.one]\n", "did you mean 'made'"),
        ("[arms.one]\n", '[arms.one]\nmeasure = ["cuont=3"]\n', "did you mean 'count'"),
    ],
)
def test_a_wrong_part_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT + MORE
    with pytest.raises(SpecError, match=message):
        check(read_study(write(tmp_path, (TEXT + MORE).replace(old, new, 1))))


def test_a_missing_variable_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDIED", raising=False)
    study = read_study(write(tmp_path, TEXT.replace('"made(size=32, train=64, test=16)"', '"folder:$STUDIED"')))
    with pytest.raises(SpecError, match="STUDIED, which is not set: STUDIED=PATH hardsight study three"):
        check(study)


def test_arms_with_the_same_training_share_its_encoder(tmp_path: Path) -> None:
    arm = '[arms.{0}]\nrecipe = "made-simclr"\nset = ["epochs=1"]\n{1}\n'
    after = '[arms.{0}]\nrecipe = "made-deacl"\nafter = "{1}"\n'
    arms = arm.format("a", "") + arm.format("b", 'measure = ["count=8"]') + after.format("c", "a") + after.format("d", "b")
    study = read_study(write(tmp_path, TEXT + arms))
    assert {name: study.trained(study.arm(name)).name for name in "abcd"} == {"a": "a", "b": "a", "c": "c", "d": "c"}


def test_an_encoder_within_a_call_draws_from_the_seed_of_the_run() -> None:
    place = f"run({str(_place(Path('runs'), 'an arm', 2))!r})"
    assert wrapped("crops(n=4)", place, 2) == "crops(run('runs/an-arm-2'), n=4, seed=2)"
    assert wrapped("crops(n=4, seed=7)", "tiny", 2) == "crops(tiny, n=4, seed=7)"
    assert wrapped("", "tiny", 2) == "tiny"


def test_a_set_of_the_command_line_changes_every_measuring_recipe(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, TEXT)).with_set("measure.probe.epochs=1")
    assert "epochs=1" in study.measures[0].recipe.probe
    with pytest.raises(SpecError, match="such as 'measure.count=100'"):
        study.with_set("count=100")


def test_studies_are_known_by_name_and_described() -> None:
    assert {"paper002-hardening", "paper003", "paper003-cifar100"} <= set(shipped())
    assert summary(TEXT) == "A study of three arms"
    with pytest.raises(SpecError, match="did you mean 'paper003'"):
        load("papper003")
    for name, path in shipped().items():
        assert f"hardsight study {name}" in load(name).command, f"{path} gives the command that runs it"


def test_the_wheel_takes_every_file_of_the_package() -> None:
    """The wheel is the package's folder without what git ignores, and git ignores none of its recipes, studies and pages."""
    package = SHIPPED.parents[1]
    root = package.parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["src/hardsight"]}
    ignored = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines() if line and line[0] != "#"]
    files = [path for path in package.rglob("*") if path.suffix in (".toml", ".md", ".j2")]
    assert {path.parent for path in files} >= {SHIPPED, package / "specs" / "recipes", package / "report"}
    for path in files:
        parts = path.relative_to(root).parts
        assert not any(fnmatch.fnmatch(part, one) for part in parts for one in ignored), path
