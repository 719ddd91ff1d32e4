"""Ray's workers: what is wrong is said first; a killed worker and a killed node lose nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hardsight.core.errors import HardsightError, MissingDependency, SpecError
from hardsight.measure.bench import Bench
from hardsight.measure.engines.base import Call, Result
from hardsight.measure.plan import plan
from hardsight.measure.workers import run_on
from hardsight.specs.catalog import build
from hardsight.store.cells import Store
from tests.end.test_bench import inside, rows_of
from tests.end.test_many import GRID, WORDS, clean, measured, pids
from tests.measure.test_engines import twice, wrong

__all__ = ["measured"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ray(gpus=2)", "a worker uses one GPU or a part of one, not 2"),
        ("ray(gpus=-0.5)", "no negative"),
        ("ray(cpus=0, gpus=0)", "not 0 for both"),
        ("ray(workers=-1)", "no negative"),
    ],
)
def test_wrong_numbers(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build(text, "Engine")


def test_ray_must_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hardsight\[ray\]'"):
        build("ray", "Engine").check()
    done = inside(*WORDS, "--store", str(tmp_path / "store"), "--on", "ray")
    assert done.returncode == 2 and "hardsight[ray]" in done.stderr and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: nothing answers there"), ("head", "an address is HOST:PORT")],
)
def test_the_cluster_must_be_there(address: str, said: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(HardsightError, match=said):
        build(f"ray('{address}')", "Engine").check()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on loopback: a head without room for workers, and one with room for two."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    ray_constants.ENABLE_RAY_CLUSTER = False  # as the engine has it, where Ray isn't imported yet
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    found = None
    try:
        found = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False},
        )
        found.add_node(num_cpus=2, node_ip_address="127.0.0.1")
        yield found
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        pytest.skip(f"Ray gives a node 30 s to start, too few on this busy machine (load {os.getloadavg()[0]:.0f})")
    finally:
        with contextlib.suppress(Exception):
            found.shutdown()  # type: ignore[union-attr]
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def chunks(store: Path) -> int:
    return len(list(store.glob("cells/*/rows-*.npz")))


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_node_lose_nothing(cluster: Any, measured: Path, tmp_path: Path) -> None:
    engine = build(f"ray('{cluster.address}', workers=3, gpus=0)", "Engine")
    engine.check()
    engine.submit(Call(twice, (4,), "cpu"))
    engine.submit(Call(wrong, (), "cpu"))
    found: dict[int, Result] = {}
    until = time.monotonic() + 120
    while len(found) < 2 and time.monotonic() < until:
        found |= dict(engine.ended(1))
    assert found[0].value[:2] == (8, "cpu") and found[1].state == "error" and isinstance(found[1].value, SpecError)

    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 300
        other = cluster.worker_nodes.copy().pop()
        raylet = other.all_processes["raylet"][0].process.pid
        while time.monotonic() < until and (chunks(tmp_path) < 1 or not pids(tmp_path)):
            time.sleep(0.02)
        killed.append(next(iter(pids(tmp_path))))
        os.kill(killed[0], signal.SIGKILL)
        there: set[int] = set()
        while time.monotonic() < until and (chunks(tmp_path) < 6 or not there):
            there = {pid for pid in pids(tmp_path) - set(killed) if Path(f"/proc/{pid}").exists() and parent(pid) == raylet}
            time.sleep(0.02)
        killed.extend(there)
        cluster.remove_node(other, allow_graceful=False)

    thread = Thread(target=kill, daemon=True)
    thread.start()
    run_on(engine, Bench(plan(GRID), Store(tmp_path), "cpu", gallery=2), "cpu")
    thread.join(30)
    if len(killed) < 2:
        pytest.skip("the run ended before a worker and a node were killed")
    assert rows_of(tmp_path) == rows_of(measured)
    assert clean(tmp_path)


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_command(measured: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    done = inside(*WORDS[:3], "--task", "classify", *WORDS[9:], "--store", str(tmp_path), "--on", "ray(workers=1, gpus=0)")
    assert done.returncode == 0, done.stderr
    assert not ray.is_initialized()
    mine, theirs = ({k: v for k, v in rows_of(one).items() if "/rows-" in k} for one in (tmp_path, measured))
    assert len(mine) == 9 and all(theirs[name] == rows for name, rows in mine.items())
    assert clean(tmp_path)
