"""Training that a scheduler stops, or that loses a process, says so, ends with the code for another try, and goes on bit for bit."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardsight.training.engine import loop
from tests.fixtures.processes import Command
from tests.fixtures.training import images_in

REQUEUE, BOUND, PAUSE, WAIT = 75, 90, 0.3, 600
SAVED = "the run is saved, and the same command goes on"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    path = root / "small.toml"
    path.write_text(
        'encoder = "tiny(widths=(8, 8, 8, 8))"\nmethod = "supervised"\nbatch = 8\nepochs = 5\nsave = 1e-9\nwatch = ""\nlog = []\n'
        f'threads = 1\ndata = "{images_in(root / "images")}"\n'
    )
    return path


def slowly(seconds: float) -> None:
    """Every batch of training takes so much longer in this process, so that it is still under way when a signal comes."""
    batch = loop.Run.batch

    def slow(*given: Any) -> None:
        batch(*given)
        time.sleep(seconds)

    loop.Run.batch = slow  # type: ignore[method-assign]


def started(recipe: Path, out: Path, world: int = 1, pause: float = 0.0, **variables: str) -> list[Command]:
    """The command in as many processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    commands = []
    for rank in range(world):

        def before(rank: int = rank) -> None:
            os.environ.update(variables)
            slowly(pause)
            if world > 1:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

        words = ("pretrain", "--recipe", str(recipe), "--out", str(out), "--device", "cpu")
        commands.append(Command(*words, before=before))
    return commands


def ended(commands: list[Command]) -> None:
    for command in commands:
        code, said = command.end()
        assert code == 0, said


def going(out: Path) -> Callable[[], bool]:
    """Whether the run has saved something after its start."""
    return lambda: any(int(path.stem.partition("-")[2]) > 1 for path in out.glob("step-*.pt"))


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """The encoder of a run that nothing stopped, in one or in two processes."""
    kept: dict[int, bytes] = {}

    def of(world: int) -> bytes:
        if world not in kept:
            out = tmp_path_factory.mktemp("whole") / "run"
            ended(started(recipe, out, world))
            kept[world] = (out / "encoder.safetensors").read_bytes()
        return kept[world]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_is_killed_and_the_other_ends(
    recipe: Path, tmp_path: Path, whole: Callable[[int], bytes], killed: int
) -> None:
    out = tmp_path / "run"
    commands = started(recipe, out, 2, PAUSE)
    commands[killed].wait(going(out), WAIT)
    assert commands[killed].end(signal.SIGKILL)[0] == -signal.SIGKILL
    since = time.monotonic()
    code, said = commands[1 - killed].end()
    assert time.monotonic() - since < BOUND
    assert code == REQUEUE, said
    assert said.strip().splitlines()[-1] == (
        "hardsight: another process of this run has ended, and this one cannot go on alone; give the same command again: the run "
        "goes on from its last checkpoint"
    )
    assert "Traceback" not in said
    ended(started(recipe, out, 2))
    assert (out / "encoder.safetensors").read_bytes() == whole(2)


@pytest.mark.slow
def test_a_notice_to_one_of_two_stops_both(recipe: Path, tmp_path: Path, whole: Callable[[int], bytes]) -> None:
    out = tmp_path / "run"
    first, second = started(recipe, out, 2, PAUSE)
    second.wait(going(out), WAIT)
    code, said = second.end(signal.SIGTERM)
    assert code == REQUEUE
    assert "hardsight" not in said  # one process speaks for all
    code, said = first.end()
    assert code == REQUEUE
    assert said.strip().splitlines()[-1] == f"hardsight: SIGTERM: {SAVED}"
    ended(started(recipe, out, 2))
    assert (out / "encoder.safetensors").read_bytes() == whole(2)


@pytest.mark.parametrize(
    ("number", "answer", "asked", "more"),
    [
        (signal.SIGUSR2, "exit 0", "requeue 17\n", "; Slurm requeues job 17"),
        (signal.SIGUSR2, "echo no such job >&2; exit 1", "requeue 17\n", "; Slurm could not requeue job 17: no such job"),
        (signal.SIGTERM, "exit 0", "", ""),
    ],
)
def test_under_slurm(
    recipe: Path, tmp_path: Path, whole: Callable[[int], bytes], number: int, answer: str, asked: str, more: str
) -> None:
    """`scontrol` is a script that notes what it is asked: a time limit's notice has the job requeued, and SIGTERM does not."""
    out, told = tmp_path / "run", tmp_path / "told"
    told.touch()
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho $* >> {told}\n{answer}\n")
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    (command,) = started(recipe, out, pause=PAUSE, SLURM_JOB_ID="17", PATH=path)
    command.wait(going(out), WAIT)
    code, said = command.end(signal.Signals(number))
    assert code == REQUEUE, said
    assert said.strip().splitlines()[-1] == f"hardsight: {signal.Signals(number).name}: {SAVED}{more}"
    assert told.read_text() == asked
    ended(started(recipe, out))
    assert (out / "encoder.safetensors").read_bytes() == whole(1)
