"""Training from the command line: pretrain, harden, resume, then bench; interrupted and resumed runs, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hardsight.cli import app
from tests.fixtures.processes import Command
from tests.fixtures.training import images_in

SMALL = 'encoder = "tiny(widths=(8, 8, 8, 8))"\nmethod = "simclr(width=16)"\nepochs = 2\nbatch = 8\n'


def hardsight(*words: str) -> Result:
    """Runs the command in this process, where torch is imported already."""
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(
            app, [*words, "--device", "cpu"] if words[0] in ("pretrain", "harden", "resume") else words
        )
    finally:
        signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    images_in(tmp_path / "images")
    data = images_in(tmp_path / "images", 12, "test")
    path.write_text(SMALL + f'data = "{data}"\nwatch = "watching(held=4, k=3)"\n')
    return path


def test_pretrain_then_harden_then_bench(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = hardsight("pretrain", "--recipe", str(recipe), "--out", str(run), "--set", "epochs=1", "--seed", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(run / "encoder.safetensors")
    assert json.loads((run / "recipe.json").read_text())["seed"] == 3
    data = json.loads((run / "recipe.json").read_text())["data"]
    method = "deacl(adversary(pgd(1, keep=last)))"
    words = ["harden", "--encoder", f"run:{run}", "--method", method, "--data", data, "--epochs", "1", "--set", "batch=8"]
    hard = hardsight(*words, "--out", str(tmp_path / "hard"))
    assert hard.exit_code == 0, hard.output
    assert json.loads((tmp_path / "hard" / "encoder.json").read_text())["name"] == "run-deacl"
    words = ["--data", data, "--task", "classify(head='knn', k=3)", "--attack", "clean", "--count", "12", "--set", "audit=0"]
    measured = hardsight(
        "bench", "--encoder", f"run:{run}", "--encoder", f"run:{tmp_path / 'hard'}", *words, "--store", str(tmp_path / "s"),
        "--json",
    )  # fmt: skip
    assert measured.exit_code == 0, measured.output
    text = json.dumps(json.loads(measured.stdout))
    assert "small" in text and "run-deacl" in text


def test_in_pieces_and_resumed(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = hardsight("pretrain", "--recipe", str(recipe), "--out", str(run), "--minutes", "0")
    assert done.exit_code == 130
    assert "saved after 0 minutes" in done.stderr and f" next  hardsight resume {run} " in done.stderr
    refused = hardsight("resume", str(run), "--set", "optimizer.lr=1.0")
    assert "another recipe: optimizer (adamw, now adamw(1.0))" in str(refused.exception)
    done = hardsight("resume", str(run), "--set", "keep=2")
    assert done.exit_code == 0, done.output
    assert "resumes after batch 1 of 8" in done.stderr
    assert hardsight("resume", str(run)).exit_code == 0


def test_interrupted_loses_nothing(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "--recipe", str(recipe), "--out", str(run), "--device", "cpu", "--set", "epochs=2000"]
    command = Command(*words)
    command.wait((run / "log.jsonl").exists)
    code, message = command.end(signal.SIGINT)
    assert code == 130, message
    assert message.strip().splitlines()[-1] == (
        "hardsight: interrupted; finished parts are kept, run the same command again to resume"
    )
    last = max(int(path.stem.partition("-")[2]) for path in run.glob("step-*.pt"))
    assert last >= max(json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_two_processes_under_torchrun(recipe: Path, tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hardsight", "pretrain"]
    words += ["--recipe", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu", "--set", "epochs=1"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    assert done.stdout.split() == [str(tmp_path / "run" / "encoder.safetensors")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--recipe", "made-simcl"], "there is no recipe 'made-simcl'; did you mean 'made-simclr'?"),
        (["pretrain", "--recipe", "made-simclr", "--set", "epoch=2"], "did you mean 'epochs'?"),
        (["pretrain", "--recipe", "made"], "a recipe to measure, which goes to 'hardsight bench'"),
        (
            ["pretrain", "--recipe", "made-simclr", "--set", "data=made(train=8, size=16)"],
            "batch is 256, and made has only 8",
        ),
        (["harden", "--encoder", "zoo:made_simcl"], "did you mean 'made_simclr'"),
        (["harden", "--encoder", "zoo:made_simclr", "--method", "decal"], "did you mean 'deacl'"),
        (["harden"], "give --encoder SPEC, or a --recipe that names one"),
        (["resume", "nowhere"], "nowhere holds no run"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    import re

    out = [] if words[0] == "resume" else ["--out", str(tmp_path)]
    done = hardsight(*words, *out)
    assert done.exception is not None and done.exit_code != 0
    assert re.search(message, str(done.exception)) and "\n" not in str(done.exception)
