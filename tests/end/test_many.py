"""Many processes on one store: the same bytes as one process, whoever is killed."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan, rebuilt
from hardsight.store.cells import Store
from tests.end.test_bench import SMALL, rows_of
from tests.fixtures.processes import Command

ENCODERS = ("tiny", "tiny(widths=(4, 8, 8, 8))")
GRID = replace(SMALL, encoders=ENCODERS, tasks=("classify", "depth"), audit=4)
WORDS = [
    "bench", *(word for one in ENCODERS for word in ("--encoder", one)), "--task", "classify", "--task", "depth",
    "--data", SMALL.data[0], "--attack", "clean", "--attack", "embed(steps=2)", "--attack", "task", "--eps", "8/255",
    "--count", "12", "--set", "audit=4", "--set", "chunk=5", "--set", f"probe={SMALL.probe}", "--set", "gallery=2",
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
