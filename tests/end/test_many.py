"""Many processes on one store: the same bytes as one process, whoever is killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan, rebuilt
from hardsight.store.cells import Store
from hardsight.store.claims import held
from tests.end.test_bench import SMALL, inside, rows_of
from tests.fixtures.processes import Command

ENCODERS = ("tiny", "tiny(widths=(4, 8, 8, 8))")
GRID = replace(SMALL, encoders=ENCODERS, tasks=("classify", "depth"), attacks=("clean", "embed(steps=2)", "pgd(3)"), audit=2)
WORDS = [
    "bench", *(word for one in ENCODERS for word in ("--encoder", one)), "--task", "classify", "--task", "depth",
    "--data", SMALL.data[0], "--attack", "clean", "--attack", "embed(steps=2)", "--attack", "pgd(3)", "--eps", "8/255",
    "--count", "12", "--set", "audit=2", "--set", "chunk=5", "--set", f"probe={SMALL.probe}", "--set", "gallery=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    Bench(plan(GRID), Store(folder), gallery=2).run()
    return folder


def test_two_commands_share_the_work_of_one_store(measured: Path, tmp_path: Path) -> None:
    commands = [Command(*WORDS, "--store", str(tmp_path)) for _ in range(2)]
    ended = [command.end() for command in commands]
    assert [code for code, _ in ended] == [0, 0], ended
    assert rows_of(tmp_path) == rows_of(measured)
    assert sum(", n = 12" in line for _, text in ended for line in text.splitlines()) == 12, (
        "each is finished by one of the two"
    )
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "claims").exists()


def test_what_a_killed_process_was_at_is_done_by_the_other(measured: Path, tmp_path: Path) -> None:
    first, second = (Command(*WORDS, "--store", str(tmp_path)) for _ in range(2))
    first.wait(lambda: len(list(tmp_path.glob("cells/*/rows-*.npz"))) >= 3)
    assert first.end(signal.SIGKILL)[0] == -9
    code, said = second.end()
    assert code == 0, said
    assert rows_of(tmp_path) == rows_of(measured)
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "claims").exists()


def test_a_plan_is_rebuilt_from_its_cells() -> None:
    here = plan(GRID)
    there = rebuilt(here.cells, here.audit, here.protocol)
    assert there.cells == here.cells
    assert [one.attack_name for one in there.resolved] == [one.attack_name for one in here.resolved]
    assert there.earlier == here.earlier
    assert [[cell.encoder for cell in cells] for cells in here.earlier.values()] == [[], [ENCODERS[0]]] * 2


def pids(store: Path) -> set[int]:
    """The processes that have claims."""
    return {int(one["who"].split("-")[1]) for one in held(store).values()}


def gone(numbers: set[int], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{one}").exists() for one in numbers) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(Path(f"/proc/{one}").exists() for one in numbers)


def clean(store: Path) -> bool:
    return not list(store.rglob("*.tmp")) and not (store / "claims").exists()


def test_rows_on_workers_are_those_of_one_process(measured: Path, tmp_path: Path) -> None:
    done = inside(*WORDS, "--store", str(tmp_path), "--on", "local(3)")
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path) == rows_of(measured)
    assert done.stderr.count(", n = 12") == 12 and done.stderr.count("· audit:") == 4
    assert clean(tmp_path)
    again = inside(*WORDS, "--store", str(tmp_path), "--on", "local(3)", "--quiet")
    assert (again.returncode, again.stderr) == (0, ""), "nothing is done twice"
    assert again.stdout == done.stdout


def test_a_killed_worker_is_replaced(measured: Path, tmp_path: Path) -> None:
    command = Command(*WORDS, "--store", str(tmp_path), "--on", "local(2)", parent=True)
    found: set[int] = set()
    for chunks in (2, 12):
        command.wait(lambda chunks=chunks: len(list(tmp_path.glob("cells/*/rows-*.npz"))) >= chunks)
        found.clear()
        command.wait(lambda: bool(found.update(pids(tmp_path)) or found))
        os.kill(found.pop(), signal.SIGKILL)
    code, said = command.end()
    assert code == 0, said
    assert "was killed by signal 9; another one takes its place" in said
    assert rows_of(tmp_path) == rows_of(measured)
    assert clean(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_the_command_and_it_goes_on(
    measured: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = Command(*WORDS, "--store", str(tmp_path), "--on", "local(2)", parent=True)
    command.wait(lambda: len(list(tmp_path.glob("cells/*/rows-*.npz"))) >= 4)
    workers = pids(tmp_path)
    ended, said = command.end(number)
    assert ended == code
    if code == 130:
        assert said.splitlines()[-1].endswith("run the same command again to resume")
        assert clean(tmp_path)
    assert gone(workers)
    Bench(plan(GRID), Store(tmp_path), gallery=2).run()
    assert rows_of(tmp_path) == rows_of(measured)
    assert clean(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB, in memory: less than the grid's results take."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_full_disk_and_one_gone_read_only_lose_nothing(measured: Path, disk: Path) -> None:
    words = [*WORDS, "--store", str(disk / "store")]
    full = Command(*words, "--on", "local(2)", parent=True).end()
    assert full[0] == 2 and "Traceback" not in full[1]
    assert re.search("cannot write .*: the disk is full; .*run the same command again to resume", full[1])
    there = len(list(disk.glob("store/cells/*/rows-*.npz")))
    assert there and not list(disk.rglob("*.tmp"))
    remount(disk, "size=1m")
    command = Command(*words)
    command.wait(lambda: len(list(disk.glob("store/cells/*/rows-*.npz"))) > there)
    while command.process.is_alive():
        with contextlib.suppress(subprocess.CalledProcessError):  # refused while a file is being written
            remount(disk, "ro")
            break
    code, said = command.end()
    assert code == 2 and "Read-only file system" in said and "Traceback" not in said, said
    remount(disk, "rw,size=8m")
    done = inside(*words)
    assert done.returncode == 0, done.stderr
    store = disk / "store"
    assert rows_of(store) == rows_of(measured)
    assert clean(store)


def jump() -> None:
    """From now on, this process's clock is a year ahead and a year behind by turns."""
    real, turns = time.time, itertools.cycle((3e7, -3e7))
    time.time = lambda: real() + next(turns)


def test_a_clock_that_jumps_changes_nothing(measured: Path, tmp_path: Path) -> None:
    commands = [Command(*WORDS, "--store", str(tmp_path), before=one) for one in (jump, None)]
    ended = [command.end() for command in commands]
    assert [code for code, _ in ended] == [0, 0], ended
    assert rows_of(tmp_path) == rows_of(measured)
    assert clean(tmp_path)


def test_random_kills_lose_and_double_nothing(measured: Path, tmp_path: Path) -> None:
    """A short version of `benchmarks/performance/many.py soak`."""
    rng, killed = random.Random(0), set[int]()
    command = Command(*WORDS, "--store", str(tmp_path), "--on", "local(4)", parent=True)
    while command.process.is_alive() and len(killed) < 6:
        time.sleep(rng.uniform(0.05, 0.5))
        if there := sorted(pids(tmp_path) - killed):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim := rng.choice(there), signal.SIGKILL)
                killed.add(victim)
    code, said = command.end()
    assert code == 0, said
    assert len(killed) >= 3
    assert rows_of(tmp_path) == rows_of(measured)
    assert said.count(", n = 12") == 12 and said.count("· audit:") == 4
    assert clean(tmp_path)
