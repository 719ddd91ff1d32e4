"""Claims: one of many processes gets each, the dead ones' are taken over, and no clock is trusted."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from hardsight.core import process
from hardsight.core.errors import StoreError
from hardsight.store import claims as module
from hardsight.store.claims import STALE, Claims, held
from hardsight.store.files import sweep, write_bytes

ELSEWHERE = "0000beef-1-1"
"""The token of a process on another machine."""


def claim(store: Path, what: str, who: str) -> Path:
    """A claim of another process."""
    path = store / "claims" / f"{what}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"who": who, "host": "there", "since": 0.0, "what": ""}))
    return path


def ended() -> str:
    """The token of a process of this machine that has ended."""
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    found = f"{process.machine()}-{child.pid}-{process._started(child.pid or 0)}"
    child.join()
    return found


def race(store: Path, names: int, line: multiprocessing.Barrier, got: multiprocessing.Queue) -> None:  # type: ignore[valid-type]
    mine = Claims(store)
    line.wait()
    got.put([name for name in range(names) if mine.take(f"{name}")])
    line.wait()


def test_of_many_processes_one_gets_each(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    line, got = fork.Barrier(6), fork.Queue()
    children = [fork.Process(target=race, args=(tmp_path, 40, line, got)) for _ in range(6)]
    for child in children:
        child.start()
    taken = [name for _ in children for name in got.get(timeout=60)]
    for child in children:
        child.join(60)
    assert sorted(taken) == list(range(40))


def test_a_claim_is_given_back_and_leaves_nothing(tmp_path: Path) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        with one.held("x") as mine:
            assert mine
            assert not two.take("x")
            assert two.taken("x") and not one.taken("x")
        assert two.take("x", "resnet18")
        assert held(tmp_path)["x"]["what"] == "resnet18"
    assert not list(tmp_path.iterdir())


def test_what_a_dead_process_claimed_is_taken_over_at_once(tmp_path: Path) -> None:
    claim(tmp_path, "x", ended())
    with Claims(tmp_path) as mine:
        assert mine.take("x")


def test_process_numbers_are_used_again(tmp_path: Path) -> None:
    """A process with the number of a dead one is not that one."""
    claim(tmp_path, "x", f"{process.machine()}-{os.getppid()}-1")
    assert process.runs(process.token())
    with Claims(tmp_path) as mine:
        assert mine.take("x")


def test_of_another_machine_silence_counts_and_no_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    path = claim(tmp_path, "x", ELSEWHERE)
    os.utime(path, (0, 0))  # its clock is half a century behind: that says nothing
    with Claims(tmp_path) as mine:
        assert not mine.take("x")
        now[0] += STALE - 1
        assert not mine.take("x")
        os.utime(path, (10**10, 10**10))  # it was renewed, by a clock that has jumped
        now[0] += STALE - 1
        assert not mine.take("x")
        os.utime(path, (5, 5))  # and back
        now[0] += 1
        assert not mine.take("x")
        now[0] += STALE + 1
        assert mine.take("x")


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        assert one.take("x")
        for jump in (1e9, -1e9):
            monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
            assert not two.take("x")
        write_bytes(tmp_path / "y", b"1")
        (tmp_path / f".z.{ELSEWHERE}.tmp").write_bytes(b"")  # another machine is writing it
        sweep(tmp_path)
        assert (tmp_path / f".z.{ELSEWHERE}.tmp").exists()


def test_claims_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    with Claims(tmp_path) as mine:
        assert mine.take("x")
        path = tmp_path / "claims" / "x.json"
        os.utime(path, (0, 0))
        until = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_a_claim_made_since_is_not_removed(tmp_path: Path) -> None:
    """Two processes find the same void claim: the slower one doesn't take away what the faster one has made."""
    path = claim(tmp_path, "x", ended())
    slow = Claims(tmp_path)
    judged = slow._void(path)
    fast = Claims(tmp_path)
    assert judged and fast.take("x")
    assert not slow.take("x")
    assert fast.taken("x") is False and slow.taken("x")


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        assert one.take("x") and not two.take("x")
        one.release("x")
        assert two.take("x")


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system"), (errno.EDQUOT, "full")]
)
def test_a_store_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with Claims(tmp_path) as mine, pytest.raises(StoreError, match=f"{said}.*run the same command again"):
        mine.take("x")
    assert not list(tmp_path.rglob("*.tmp"))


def test_temporary_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    names = {f".a.{ended()}.tmp": False, f".b.{process.token()}.tmp": True, f".c.{ELSEWHERE}.tmp": True, "d.tmp": True}
    for name in names:
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names
    os.utime(tmp_path / f".c.{ELSEWHERE}.tmp", (0, 0))
    sweep(tmp_path)
    assert not (tmp_path / f".c.{ELSEWHERE}.tmp").exists()


def test_a_killed_process_is_known_before_it_is_waited_for(tmp_path: Path) -> None:
    """Its entry in the table of processes stays until its parent looks: it has ended all the same."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    who = f"{process.machine()}-{child.pid}-{process._started(child.pid or 0)}"
    assert process.runs(who)
    os.kill(child.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 20
    while process.runs(who) and time.monotonic() < until:
        time.sleep(0.01)
    assert not process.runs(who)
    child.join()


def test_what_the_dead_have_left_is_cleared(tmp_path: Path) -> None:
    """They may have finished what they had claimed, so that nobody takes it over."""
    left, there = claim(tmp_path, "x", ended()), claim(tmp_path, "y", ELSEWHERE)
    with Claims(tmp_path) as mine:
        assert mine.take("z")
        mine.clear()
        assert not left.exists() and there.exists() and set(held(tmp_path)) == {"y", "z"}
    os.utime(there, (0, 0))
    Claims(tmp_path).clear()
    assert not (tmp_path / "claims").exists()
