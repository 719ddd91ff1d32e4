"""End to end on synthetic scenes: recipe -> probes -> attacks -> store -> report; killed and resumed runs, and bad input."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hardsight import cli
from hardsight.cli import app
from hardsight.core.errors import DataError
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from tests.fixtures.processes import Command

SMALL = Recipe(
    audit=0,
    name="small",
    encoders=("tiny",),
    data=("made(size=32, train=48, test=24)",),
    attacks=("clean", "embed(steps=2)", "task"),
    eps=("8/255",),
    probe="probe(epochs=2, images=48, batch=16)",
    count=12,
    chunk=5,
    gallery=2,
)
FAST = [
    "--set",
    "audit=0",
    "--set",
    "chunk=4",
    "--set",
    "probe=probe(epochs=1, images=32, batch=16)",
    "--data",
    "made(size=32, train=32, test=40)",
]


def hardsight(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hardsight", *words], capture_output=True, text=True, env={**os.environ, **more}, check=False
    )


def inside(*words: str) -> subprocess.CompletedProcess[str]:
    """Like `hardsight`, but in this process: faster, and included in the coverage."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, handler = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = ["hardsight", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as exit:
        code = int(exit.code or 0)
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def rows_of(folder: Path) -> dict[str, bytes]:
    """Every file with results, by its path in the store."""
    names = [*folder.glob("cells/*/*.npz"), *folder.glob("cells/*/cell.json"), *folder.glob("heads/*.safetensors")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    Bench(plan(SMALL), Store(folder), gallery=2).run()
    return folder


def test_every_cell_is_measured_and_evaluated(measured: Path) -> None:
    cells = Store(measured).cells()
    assert [(c.what["task_name"], c.what["column"]) for c in cells][:3] == [
        ("classify", "clean"),
        ("classify", "EmbedAttack(2)"),
        ("classify", "task"),
    ]
    assert len(cells) == 9
    for cell in cells:
        rows = cell.rows()
        assert len(rows["id"]) == 12 == cell.done["images"]
        assert ((rows["error"] >= 0) & (rows["error"] <= 1)).all()
        assert (rows["size"] <= cell.what["eps"] + 1e-6).all()
        gallery = cell.gallery()
        assert gallery is not None
        assert len(gallery["image"]) == 2
        assert np.abs(gallery["delta"]).max() <= cell.what["eps"] + 1e-6


def test_all_cells_of_a_task_see_the_same_images(measured: Path) -> None:
    ids = {tuple(cell.rows()["id"]) for cell in Store(measured).cells()}
    assert len(ids) == 1


@pytest.mark.parametrize("lost", [["rows-00001.npz"], ["rows-00001.npz", "done.json"], ["rows-00000.npz", "gallery.npz"]])
def test_what_is_lost_of_a_cell_is_made_again_byte_for_byte(measured: Path, tmp_path: Path, lost: list[str]) -> None:
    shutil.copytree(measured, tmp_path / "copy")
    cell = Store(tmp_path / "copy").cells()[2]
    for name in lost:
        (cell.path / name).unlink()
    Bench(plan(SMALL), Store(tmp_path / "copy"), gallery=2).run()
    assert rows_of(tmp_path / "copy") == rows_of(measured)


def test_encoders_that_share_weights_do_not_share_heads(tmp_path: Path) -> None:
    """Different layers of the same weights are different features: each gets its own head."""
    encoders = ("timm:test_vit(pretrained=False, layers=(0,))", "timm:test_vit(pretrained=False, layers=(1,))")
    recipe = replace(SMALL, encoders=encoders, tasks=("depth",), attacks=("clean",))
    Bench(plan(recipe), Store(tmp_path)).run()
    assert len(list(tmp_path.glob("heads/*.safetensors"))) == 2


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """An image folder of two classes, four noise images each, in train/ and test/."""
    rng = np.random.default_rng(0)
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "data" / part / f"{n}.png")
    return tmp_path / "data"


def test_other_images_behind_the_same_folder_are_another_cell(pictures: Path) -> None:
    recipe = replace(SMALL, data=(f"folder:{pictures}",), attacks=("clean",), tasks=("classify",))
    before = plan(recipe).cells[0].id
    assert plan(recipe).cells[0].id == before
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(pictures / "test" / "a" / "0.png")
    assert plan(recipe).cells[0].id != before


def test_the_same_number_twice_is_one_cell() -> None:
    assert len(plan(replace(SMALL, eps=("8/255", "8/255"))).cells) == len(plan(SMALL).cells)


def test_unreadable_images_are_left_out_even_if_they_fill_a_chunk(pictures: Path, tmp_path: Path) -> None:
    for n in range(4):
        (pictures / "test" / "a" / f"{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    recipe = replace(SMALL, data=(f"folder:{pictures}(size=16)",), attacks=("clean",), tasks=("classify",), chunk=1)
    cells = Bench(plan(recipe), Store(tmp_path / "store"), on_error="skip").run()
    assert cells[0].done["images"] == 4
    assert len(cells[0].done["skipped"]) == 4


def test_no_readable_image_is_an_error(pictures: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, data=(f"folder:{pictures}(size=16)",), attacks=("clean",), tasks=("classify",))
    for path in pictures.glob("test/*/*.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    for _ in range(2):
        with pytest.raises(DataError, match="none of the 8 images"):
            Bench(plan(recipe), Store(tmp_path / "store"), on_error="skip").run()
    for path in list(pictures.glob("train/*/*.png"))[1:]:
        path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match="1 readable training image"):
        Bench(plan(recipe), Store(tmp_path / "other"), on_error="skip").run()


def test_features_that_are_not_kept_train_the_same_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense features that don't fit in memory are computed again in each epoch: slower, but the same numbers."""
    from hardsight.probes import bank

    recipe = replace(SMALL, attacks=("clean",))
    Bench(plan(recipe), Store(tmp_path / "kept")).run()
    monkeypatch.setattr(bank, "CACHE_BYTES", 0)
    Bench(plan(recipe), Store(tmp_path / "again")).run()
    for one, two in zip(Store(tmp_path / "kept").cells(), Store(tmp_path / "again").cells(), strict=True):
        assert one.done["summary"] == pytest.approx(two.done["summary"], rel=1e-4)


@pytest.mark.parametrize("attack", ["embed(steps=3)", "task", "pgd(3)"])
def test_eps_zero_is_clean_for_every_task(tmp_path: Path, attack: str) -> None:
    recipe = Recipe(**{**SMALL.__dict__, "attacks": ("clean", attack), "eps": ("0",)})
    Bench(plan(recipe), Store(tmp_path)).run()
    by_task: dict[str, list] = {}
    for cell in Store(tmp_path).cells():
        by_task.setdefault(cell.what["task_name"], []).append(cell.rows())
    assert set(by_task) == {"classify", "segment", "depth"}
    for clean, attacked in by_task.values():
        for key in clean:
            if key not in (
                "queries",
                "flat",
            ):
                assert np.array_equal(clean[key], attacked[key]), key


def test_done_cells_are_not_done_again(measured: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in measured.rglob("*.npz")}
    started = time.monotonic()
    Bench(plan(SMALL), Store(measured)).run()
    assert {path: path.stat().st_mtime_ns for path in measured.rglob("*.npz")} == before
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    words = ["bench", "--encoder", "tiny", "--count", "40", "--eps", "4/255", "--set", "gallery=2", *FAST]
    words += ["--attack", "embed(steps=2)", "--attack", "pgd(2)"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert inside(*words, "--store", str(whole)).returncode == 0
    kills = 0
    for wanted in (3, 25, 60):
        command = Command(*words, "--store", str(broken))
        command.wait(lambda wanted=wanted: len(list(broken.glob("cells/*/rows-*.npz"))) >= wanted)
        kills += command.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert kills == 3
    assert len(rows_of(broken)) < len(rows_of(whole))
    assert inside(*words, "--store", str(broken)).returncode == 0
    assert rows_of(broken) == rows_of(whole)


def test_json_is_one_document_and_the_files_are_there(tmp_path: Path) -> None:
    done = inside(
        "bench",
        "--encoder",
        "tiny",
        "--task",
        "classify",
        "--count",
        "8",
        "--eps",
        "8/255",
        "--json",
        "--store",
        str(tmp_path),
        *FAST,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["results"]
    for kind in ("html", "csv", "md", "tex", "json"):
        assert (tmp_path / f"report.{kind}").stat().st_size > 100
    again = inside("report", str(tmp_path), "--json")
    assert json.loads(again.stdout) == document


def test_dry_run_measures_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    done = inside(
        "bench", "--encoder", "tiny", "--count", "8", "--dry-run", "--store", str(folder), *FAST, "--set", "audit=2"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    audits = [line for line in lines if " audit " in line]
    assert all(line.split()[3].replace(",", "").isdigit() and "passes" in line for line in lines[:-1])
    assert len(audits) == 3, "one per task"
    sums = sum(int(line.split()[3].replace(",", "")) for line in lines[:-1])
    assert f"{len(lines) - 1 - len(audits)} cells, {sums:,} passes" in lines[-1]
    assert not folder.exists()


BAD = [
    (["bench", "--encoder", "tinny"], "did you mean 'tiny'"),
    (["bench", "--encoder", "zoo:made_simclrr"], "did you mean 'made_simclr'"),
    (["bench", "--recipe", "mad"], "did you mean 'made'"),
    (["bench", "--task", "clasify"], "did you mean 'classify'"),
    (["bench", "--attack", "segpdg"], "did you mean 'segpgd'"),
    (["bench", "--attack", "pgd(stepz=3)"], "did you mean 'steps'"),
    (["bench", "--eps", "8"], "did you mean '8/255'"),
    (["bench", "--eps", "3%"], "percentage"),
    (["bench", "--eps", "abc"], "not a number"),
    (["bench", "--eps", ""], "no eps"),
    (["bench", "--set", "seed=abc"], "seed is"),
    (["bench", "--set", "name=../../out"], "letters, digits"),
    (["bench", "--set", "split=foo", "--encoder", "tiny"], "no 'foo' part"),
    (["bench", "--encoder", "tiny", "--task", "depth(high=0.05)"], "the maximum must be the larger one"),
    (["attack", "--encoder", "tiny", "--images", ".", "--out", "./adv"], "lies within"),
    (["attack", "--encoder", "tiny", "--images", "photos", "--out", "out", "--attack", "depthpgd"], "does not fit"),
    (["bench", "--eps", "-1/255"], "negative"),
    (["bench", "--norm", "linff"], "did you mean 'linf'"),
    (["bench", "--count", "0"], "at least 1"),
    (["bench", "--precision", "bf15"], "did you mean 'bf16'"),
    (["bench", "--set", "probe.epoch=3"], "epoch"),
    (["bench", "--set", "cuont=3"], "did you mean 'count'"),
    (["bench", "--on-error", "go"], "--on-error"),
    (["bench", "--data", "folder:/nowhere/at/all"], "/nowhere/at/all"),
    (["bench", "--attack", "segpgd", "--task", "classify"], "nothing to measure"),
    (["bench", "--device", "cuda:7", "--encoder", "tiny"], "no device"),
    (["report", "/nowhere"], "not a store"),
    (["list", "atacks"], "did you mean 'attacks'"),
    (["show", "pdg"], "did you mean 'pgd'"),
    (["attack", "--encoder", "tiny", "--images", "/nowhere", "--out", "out"], "/nowhere"),
    (["attack", "--encoder", "tiny", "--images", "photos", "--out", "out", "--attack", "pgd"], "needs a head"),
    (["attack", "--encoder", "tiny", "--images", ".", "--out", "out", "--eps", "8"], "8/255"),
    (["probe", "--encoder", "tiny", "--task", "deph"], "did you mean 'depth'"),
    (["pretrain", "--recipe", "made-simcl"], "did you mean 'made-simclr'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_plain_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = {Path("photos")} if "photos" in words else set()
    for folder in there:
        folder.mkdir()
        Image.new("RGB", (32, 32)).save(folder / "one.png")
    done = inside(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("hardsight: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
    assert not set(tmp_path.iterdir()) - {tmp_path / one for one in there}, "something was written"


def test_unknown_option_has_exit_code_2() -> None:
    assert hardsight("bench", "--encodr", "tiny").returncode == 2


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"version": 99}')
    done = inside("bench", "--encoder", "tiny", "--store", str(tmp_path), *FAST)
    assert done.returncode == 2
    assert "version 99" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    words = [
        "bench",
        "--encoder",
        "tiny",
        "--count",
        "40",
        "--eps",
        "4/255",
        "--store",
        str(tmp_path / "store"),
        *FAST,
        "--attack",
        "embed(steps=3)",
    ]
    command = Command(*words)
    command.wait(lambda: len(list(tmp_path.glob("store/cells/*/rows-*.npz"))) >= 3)
    code, message = command.end(signal.SIGINT)
    assert code == 130
    assert "run the same command again to resume" in message.splitlines()[-1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_probe_verb_measures_clean(tmp_path: Path) -> None:
    done = inside(
        "probe", "--encoder", "tiny", "--task", "depth", "--data", "made(size=32, train=32, test=16)",
        "--probe", "probe(epochs=1)", "--count", "8", "--store", str(tmp_path), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("heads/*.safetensors"))) == 1
    assert json.loads(done.stdout)["results"]


def test_help_and_doctor_answer() -> None:
    runner = CliRunner()
    for words in (
        ["--help"],
        ["bench", "--help"],
        ["doctor"],
        ["doctor", "--json"],
        ["--version"],
        ["list", "tasks"],
        ["list", "data", "--json"],
    ):
        found = runner.invoke(app, words)
        assert found.exit_code == 0, (words, found.output)
        assert found.output.strip()


def test_numbers_are_audited_by_default_and_only_once(tmp_path: Path) -> None:
    words = [
        "bench",
        "--encoder",
        "tiny",
        "--task",
        "classify",
        "--count",
        "4",
        "--eps",
        "4/255",
        *FAST[2:],
        "--set",
        "audit=2",
    ]
    first = inside(*words, "--attack", "clean", "--attack", "pgd(2)", "--store", str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert re.search(r"audit of 1 number by \d+ checks", first.stdout)
    stored = [cell for cell in Store(tmp_path).cells() if cell.audit]
    assert len(stored) == 1
    assert stored[0].what["attack_name"] == "pgd(2)"
    assert stored[0].audit["images"] == 2
    assert "Can these numbers be trusted?" in (tmp_path / "report.html").read_text()
    before = (stored[0].path / "audit.json").stat().st_mtime_ns
    (stored[0].path / "rows-00000.npz").unlink()
    assert inside(*words, "--attack", "clean", "--attack", "pgd(2)", "--store", str(tmp_path)).returncode == 0
    assert (stored[0].path / "audit.json").stat().st_mtime_ns == before
    assert Recipe(encoders=("tiny",)).audit > 0
