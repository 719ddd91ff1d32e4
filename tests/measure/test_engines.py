"""Engines: what a call returns or raises comes back, the dead are replaced, and nothing is left running."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hardsight.core.errors import SpecError, StoreError
from hardsight.core.process import cores
from hardsight.measure.engines import base
from hardsight.measure.engines.base import Call, Engine, marked, results
from hardsight.specs.catalog import build


def twice(number: int, device: str) -> tuple[int, str, int, str, str | None]:
    return 2 * number, device, torch.get_num_threads(), os.getcwd(), os.environ.get("OF_THE_PARENT")


def wrong(device: str) -> None:
    raise SpecError("there is no such thing")


def broken(device: str) -> None:
    raise KeyError("x")


def dies(folder: Path, times: int, device: str) -> int:
    """Is killed so many times, then returns how often it began."""
    begun = len(list(folder.iterdir()))
    (folder / str(begun)).write_text("")
    if begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun + 1


def sleeps(folder: Path, seconds: float, device: str) -> None:
    (folder / str(os.getpid())).write_text("")
    time.sleep(seconds)


def local(workers: int = 2, threads: int = 0) -> Engine:
    return build(f"local({workers}, {threads})", "Engine")


def test_calls_run_elsewhere_as_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "1")
    monkeypatch.chdir(tmp_path)
    found = dict(results(local(), [Call(twice, (n,), "cpu") for n in range(3)]))
    assert found == {n: (2 * n, "cpu", torch.get_num_threads(), str(tmp_path), "1") for n in range(3)}


def test_the_number_of_threads_can_be_given() -> None:
    assert [value[2] for _, value in results(local(1, 2), [Call(twice, (1,), "cpu")])] == [min(2, cores())]


def test_workers_share_the_cores() -> None:
    for workers in (1, 2):
        call = Call(twice, (1,), "cpu", threads=64)
        assert [value[2] for _, value in results(local(workers), [call])] == [max(1, cores() // workers)]


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [(wrong, SpecError, "^there is no such thing$"), (broken, RuntimeError, "KeyError.*\n.*Trace")],
)
def test_an_error_comes_back_and_the_others_are_stopped(
    tmp_path: Path, function: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        list(results(local(), [Call(sleeps, (tmp_path, 600)), Call(function, ())]))
    assert not any(running(path) for path in tmp_path.iterdir())


def running(path: Path) -> bool:
    return Path(f"/proc/{path.name}").exists()


def test_the_dead_are_replaced(tmp_path: Path) -> None:
    said: list[str] = []
    assert list(results(local(), [Call(dies, (tmp_path, 2))], said=said.append)) == [(0, 3)]
    assert said == ["a worker was killed by signal 9; another one takes its place"] * 2


def test_but_not_for_ever(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"killed by signal 9, {base.DEATHS} times at the same work.*set chunk=8"):
        list(results(local(), [Call(dies, (tmp_path, 99))]))
    assert len(list(tmp_path.iterdir())) == base.DEATHS


def test_unless_they_get_on(tmp_path: Path) -> None:
    """As long as something new is in the store, any number may die."""
    deaths = base.DEATHS + 3
    assert list(results(local(), [Call(dies, (tmp_path, deaths))], look=lambda: True)) == [(0, deaths + 1)]


def test_no_more_calls_run_at_once_than_there_are_workers(tmp_path: Path) -> None:
    engine = local(2)
    for _ in range(4):
        engine.submit(Call(sleeps, (tmp_path, 600)))
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        engine.ended(0.05)
    engine.ended(0.5)
    begun = list(tmp_path.iterdir())
    engine.cancel()
    assert len(begun) == 2 and not any(running(path) for path in begun)


def test_each_worker_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert build("local", "Engine").workers == 2
    devices = [value[1] for _, value in results(local(3), [Call(twice, (n,)) for n in range(3)])]
    assert sorted(devices) == ["cuda:0", "cuda:0", "cuda:1"]
    assert [value[1] for _, value in results(local(1), [Call(twice, (1,), "cpu")])] == ["cpu"]


@pytest.mark.parametrize("text", ["local(-1)", "local(threads=-2)"])
def test_wrong_numbers(text: str) -> None:
    with pytest.raises(SpecError, match="at least 1 worker"):
        build(text, "Engine")


def test_a_store_that_workers_do_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LATE", 0.5)
    mark = marked(tmp_path)
    call = Call(twice, (1,), "cpu", mark)
    assert base.carry_out(call).state == "done"
    mark.unlink()
    found = base.carry_out(call)
    assert found.state == "error" and isinstance(found.value, StoreError)
    assert "doesn't see the store" in str(found.value) and "on a folder that all machines share" in str(found.value)
    assert not list(tmp_path.iterdir())


def test_a_worker_with_other_versions_refuses() -> None:
    found = base.carry_out(replace(Call(twice, (1,), "cpu"), versions="hardsight 0.0.1, torch 2.0"))
    assert found.state == "error" and isinstance(found.value, StoreError)
    assert "but this command hardsight 0.0.1, torch 2.0: install the same there" in str(found.value)
