"""A study: arms and seeds are trained and measured in the same way, resumed, and summarized in a table."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hardsight.core.errors import SpecError, StoreError
from hardsight.core.progress import Watch
from hardsight.measure.study import _timed, check, run, training_recipe
from hardsight.metrics.intervals import mean_over_runs
from hardsight.report.study import Figures, markdown
from hardsight.specs.catalog import build
from hardsight.specs.study_file import read_study

SMALL = """
title = "A small study"
seeds = 2
[measure]
data = ["made(size=32, train=64, test=16)"]
tasks = ["classify"]
attacks = ["clean", "embed(2)"]
eps = ["2/255"]
count = 16
audit = 0
probe = "probe(images=64, epochs=2)"
[arms.SimCLR]
recipe = "made-simclr"
set = ["encoder=tiny(widths=(8, 8, 8, 8))", "epochs=1", "data=made(size=32, train=64)", "batch=32", "watch=", "method.negatives=oracle(0.5)"]
[arms.hardened]
recipe = "made-deacl"
set = ["epochs=1", "data=made(size=32, train=64)", "batch=32", "watch=", "method.adversary.search.steps=1"]
after = "SimCLR"
[arms.there]
encoder = "tiny(widths=(8, 8, 8, 8))"
[[compare]]
of = "hardened"
to = "SimCLR"
[[compare]]
of = "hardened"
to = "SimCLR"
gap = "there"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def test_arms_are_trained_measured_and_resumed(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, SMALL))
    found = run(study, tmp_path / "runs", "cpu", Watch(quiet=True))
    assert set(found) >= {"clean, accuracy", "EmbedAttack(2) 2/255, accuracy", "training"}
    assert all(len(values) == 2 for values in found["clean, accuracy"]["arms"].values())
    assert set(found["training"]["arms"]) == {"SimCLR", "hardened"}
    assert found["detector precision, last epoch"]["arms"] == {"SimCLR": [1.0, 1.0]}, "an oracle finds nothing else"
    assert all(0.3 < recall < 0.7 for recall in found["detector recall, last epoch"]["arms"]["SimCLR"])
    weights = sorted((tmp_path / "runs").glob("*/encoder.safetensors"))
    assert [path.parent.name for path in weights] == ["SimCLR-0", "SimCLR-1", "hardened-0", "hardened-1"]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    written = [path.stat().st_mtime_ns for path in weights]
    assert run(study, tmp_path / "runs", "cpu", Watch(quiet=True)) == found
    assert [path.stat().st_mtime_ns for path in weights] == written
    assert "hardened − SimCLR" in (tmp_path / "runs" / "table.md").read_text()


def test_the_table_says_means_differences_and_closed_gaps(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, SMALL))
    arms = {"SimCLR": [0.2, 0.4], "hardened": [0.4, 0.6], "there": [0.6, 0.8]}
    figures: Figures = {"clean, accuracy": {"unit": "%", "better": "higher", "arms": arms}}
    text = markdown(study, figures)
    assert "| clean, accuracy (%) ↑ | 30.0 ± 127.1 | 50.0 ± 127.1 | 70.0 ± 127.1 |" in text
    assert "| +20.0 ± 0.0 | 0.50 ± 0.00 |" in text


def test_the_interval_over_seeds_is_students() -> None:
    from scipy import stats

    for n in (2, 3, 5, 11, 12, 30):
        values = [float(i * i % 7) for i in range(n)]
        low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        middle, half = mean_over_runs(values)
        assert middle == pytest.approx((low + high) / 2)
        assert half == pytest.approx((high - low) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('after = "SimCLR"', 'after = "SimCRL"', "is not an arm defined above it"),
        ('of = "hardened"', 'of = "hardend"', "did you mean 'hardened'"),
        ("seeds = 2", "seeds = 0", "at least 1"),
        ("[arms.there]\nencoder", "[arms.there]\nencodr", "did you mean 'encoder'"),
        ('encoder = "tiny(widths=(8, 8, 8, 8))"', 'set = ["epochs=1"]', "either a recipe"),
        ("count = 16", "cuont = 16", "did you mean 'count'"),
        ("count = 16", "count = 16\nseed = 3", "is not allowed here, since the arms and 'seeds' set it"),
        ('set = ["encoder=tiny', 'set = ["method=smclr", "encoder=tiny', "did you mean 'simclr'"),
        ('set = ["encoder=tiny', 'set = ["seed=7", "encoder=tiny', "give their number as 'seeds'"),
        ('"method.adversary.search.steps=1"]\nafter', '"x"]\nset = "epochs=1"\nafter', "not TOML"),
        ('set = ["epochs=1", "data=made(size=32, train=64)", ', "set = [3, ", "a list of strings"),
        ('recipe = "made-simclr"', "recipe = 3", "it must be a string"),
        ("[arms.there]\n", "[arms.there]\nafter = 'hardened'\n", "takes no 'after'"),
        ("[arms.there]", '[arms."hardened+"]', "it would have the same folder as 'hardened'"),
        ('to = "SimCLR"\n', "", "it needs 'to'"),
        ("seeds = 2\n", "seeds = 2\narms.odd = 3\n", "is not a table"),
    ],
)
def test_a_wrong_study_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(SpecError, match=message):
        check(read_study(write(tmp_path, SMALL.replace(old, new))))


def test_a_changed_arm_is_not_taken_for_the_one_that_was_trained(tmp_path: Path) -> None:
    study, runs = read_study(write(tmp_path, SMALL)), tmp_path / "runs"
    run(replace(study, seeds=1), runs, "cpu", Watch(quiet=True))
    longer = read_study(write(tmp_path, SMALL.replace('8))", "epochs=1', '8))", "epochs=2')))
    with pytest.raises(StoreError, match=r"SimCLR-0 holds a run of another recipe: epochs \(1, now 2\)"):
        run(replace(longer, seeds=1), runs, "cpu", Watch(quiet=True))
    shutil.rmtree(runs / "SimCLR-0")
    with pytest.raises(StoreError, match="hardened-0 was trained from an encoder that has changed since"):
        run(replace(longer, seeds=1), runs, "cpu", Watch(quiet=True))


def test_an_arm_starts_from_an_existing_encoder(tmp_path: Path) -> None:
    text = SMALL.replace('after = "SimCLR"', 'after = "first"').replace(
        "[arms.SimCLR]", '[arms.first]\nencoder = "tiny"\n[arms.SimCLR]'
    )
    study = read_study(write(tmp_path, text))
    arm = next(one for one in study.arms if one.after)
    recipe = training_recipe(study, arm, 1, tmp_path)
    assert recipe is not None
    assert recipe.encoder == "tiny"


def test_the_seconds_of_a_killed_training_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.measure.study.NOTED", 0.01)
    path = tmp_path / "run" / "seconds.json"
    with _timed(path, time.process_time):
        deadline = time.monotonic() + 20
        while not (path.exists() and json.loads(path.read_text()) > 0.1) and time.monotonic() < deadline:
            sum(range(10_000))
        within = json.loads(path.read_text())  # the content if the process were killed here
    assert within > 0.1
    with _timed(path, time.process_time):
        pass
    assert json.loads(path.read_text()) >= within


def test_workers_find_the_same_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = replace(read_study(write(tmp_path, SMALL)), seeds=1)
    found = []
    for name, on in (("here", None), ("there", "local(2)")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        figures = run(study, Path("runs"), "cpu", Watch(quiet=True), engine=build(on, "Engine") if on else None)
        figures.pop("training")  # seconds
        found.append(figures)
    assert found[0] == found[1]
    stores = [{path.name for path in (tmp_path / name / "runs/store/cells").iterdir()} for name in ("here", "there")]
    assert stores[0] == stores[1] and len(stores[0]) == 6
    assert not list((tmp_path / "there").rglob("*.tmp"))
