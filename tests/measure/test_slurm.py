"""Slurm's jobs: what is wrong is said first; requeued, cancelled and killed ones lose nothing.

Without Slurm the jobs are processes of submitit's local executor. With Debian's packages slurm-wlm and munge, and as root, a cluster
of one node on loopback runs them (tests/fixtures/slurm.sh).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from hardsight.core.errors import HardsightError, MissingDependency, SpecError, StoreError
from hardsight.measure.bench import Bench
from hardsight.measure.engines import slurm as module
from hardsight.measure.engines.base import Call, Stopped, marked, results, stop_if_asked, stop_on_notice
from hardsight.measure.engines.slurm import Slurm
from hardsight.measure.plan import plan
from hardsight.measure.workers import run_on
from hardsight.specs.catalog import build
from hardsight.store.cells import Store
from hardsight.store.claims import held
from tests.end.test_bench import inside, rows_of
from tests.end.test_many import GRID, WORDS, clean, measured, pids
from tests.fixtures.processes import Command
from tests.measure.test_engines import dies, sleeps, twice, wrong

__all__ = ["measured"]
SCRIPT = Path(__file__).parents[1] / "fixtures" / "slurm.sh"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slurm(gpus=8, array=2)", r"a worker uses one GPU: write slurm\(gpus=1, array=16\)"),
        ("slurm(array=0)", "at least 1 job"),
        ("slurm(minutes=1, grace=90)", "less than the 1 minutes"),
        ("slurm(cpus=-1)", "no negative"),
    ],
)
def test_wrong_numbers(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build(text, "Engine")


def test_what_is_missing_is_said_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(HardsightError, match="there is no Slurm here.*login node.*--on 'local"):
        build("slurm", "Engine").check()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hardsight\[slurm\]'"):
        build("slurm", "Engine").check()
    done = inside(*WORDS, "--store", str(tmp_path / "store"), "--on", "slurm")
    assert done.returncode == 2 and "hardsight[slurm]" in done.stderr and not (tmp_path / "store").exists()


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Slurm's commands as scripts of the shell."""
    for name in ("sbatch", "srun", "squeue", "sinfo", "scancel"):
        (folder / name).write_text(f"#!/bin/sh\n{scripts.get(name, '')}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_partition_must_exist_and_slurm_must_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    commands(tmp_path, monkeypatch, sinfo="echo 'gpu*'; echo long")
    build("slurm(partition='gpu')", "Engine").check()
    build("slurm(partition='gpu,long')", "Engine").check()
    with pytest.raises(SpecError, match="no partition 'gpus'; did you mean 'gpu'"):
        build("slurm(partition='gpus')", "Engine").check()
    commands(tmp_path, monkeypatch, sinfo="echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(HardsightError, match="gives no answer: .*Unable to contact"):
        build("slurm", "Engine").check()


def test_a_refused_job_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    commands(tmp_path, monkeypatch, sbatch="echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(HardsightError, match="^Slurm refuses the jobs: error: invalid account"):
        list(results(build("slurm(account='x')", "Engine"), [Call(twice, (1,), "cpu", marked(tmp_path))]))
    assert not (tmp_path / "jobs").exists()


def test_a_job_whose_node_does_not_see_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setattr(module, "LATE", 0.0)
    commands(tmp_path, monkeypatch, sbatch="echo Submitted batch job 7")
    with pytest.raises(
        StoreError, match="job 7 is no more in the queue and wrote nothing to .*a folder that all machines share"
    ):
        list(results(build("slurm", "Engine"), [Call(twice, (1,), "cpu", marked(tmp_path))]))


def test_a_notice_lets_a_chunk_be_finished_if_it_is_short() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGALRM)]
    try:
        stop_on_notice(signal.SIGUSR2, 30)
        stop_if_asked()
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.01)  # the chunk goes on
        with pytest.raises(Stopped):
            stop_if_asked()
        stop_on_notice(signal.SIGUSR2, 0.05)
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Stopped):
            time.sleep(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop_on_notice(signal.SIGUSR2, 30)
        for number, handler in zip((signal.SIGUSR2, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def jobs(workers: int = 2) -> Slurm:
    """The same jobs as processes of this machine."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    engine = Slurm(workers, 0, 20, {"name": "hardsight", "timeout_min": 60}, cluster="local")
    engine.check()
    return engine


def test_jobs_return_raise_and_are_replaced(tmp_path: Path) -> None:
    seen = marked(tmp_path)
    dead = tmp_path / "dead"
    dead.mkdir()
    said: list[str] = []
    found = dict(results(jobs(), [Call(twice, (4,), "cpu", seen), Call(dies, (dead, 1), "cpu", seen)], said=said.append))
    assert found[0][:2] == (8, "cpu") and found[1] == 2
    assert len(said) == 1 and said[0].startswith("a worker ended: Slurm's job") and "another one takes its place" in said[0]
    with pytest.raises(SpecError, match="^there is no such thing$"):
        list(results(jobs(), [Call(sleeps, (dead, 600), "cpu", seen), Call(wrong, (), "cpu", seen)]))
    assert not (tmp_path / "jobs").exists()


def meanwhile(function: Callable[[], None]) -> Thread:
    thread = Thread(target=function, daemon=True)
    thread.start()
    return thread


def chunks(store: Path) -> int:
    return len(list(store.glob("cells/*/rows-*.npz")))


def test_a_job_that_is_told_to_end_is_requeued_and_goes_on(measured: Path, tmp_path: Path) -> None:
    signalled: set[int] = set()

    def interrupt() -> None:
        until = time.monotonic() + 240
        for number, least in ((signal.SIGUSR2, 1), (signal.SIGTERM, 8)):
            while time.monotonic() < until and (chunks(tmp_path) < least or not pids(tmp_path) - signalled):
                time.sleep(0.02)
            pid = (pids(tmp_path) - signalled).pop()
            signalled.add(pid)
            os.kill(pid, number)

    thread = meanwhile(interrupt)
    run_on(jobs(), Bench(plan(GRID), Store(tmp_path), "cpu", gallery=2), "cpu")
    thread.join(10)
    assert len(signalled) == 2
    assert rows_of(tmp_path) == rows_of(measured)
    assert clean(tmp_path) and not (tmp_path / "jobs").exists()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm cluster of one node with four CPUs on loopback."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    folder = tmp_path_factory.mktemp("slurm")
    monkeypatch.setenv("SLURM_TEST_PORT", str(20000 + os.getpid() % 20000))
    started = subprocess.run([str(SCRIPT), "start", str(folder)], capture_output=True, text=True, check=False, timeout=120)
    if started.returncode:
        pytest.skip(f"no Slurm here: {started.stdout.strip() or started.stderr.strip()}")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setattr(module, "POLL", 1.0)
    monkeypatch.setattr(module, "LATE", 5.0)
    yield
    subprocess.run([str(SCRIPT), "stop", str(folder)], check=True, timeout=60)


def job_of(store: Path) -> str:
    """The Slurm job of a process that has a claim."""
    pid = next(iter(pids(store)), 0)
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    found: dict[str, str] = {}
    for one in variables:
        name, _, value = one.decode().partition("=")
        found[name] = value
    return f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_JOB_ID" in found else ""


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_real_cluster_with_a_requeued_and_a_cancelled_job(measured: Path, tmp_path: Path) -> None:
    done = inside(*WORDS, "--store", str(tmp_path / "none"), "--on", "slurm(partition='loopbak', gpus=0)")
    assert done.returncode == 2 and "no partition 'loopbak'; did you mean 'loopback'?" in done.stderr
    assert not (tmp_path / "none").exists()
    store = tmp_path / "store"
    command = Command(*WORDS, "--store", str(store), "--on", "slurm(partition='loopback', gpus=0, array=3)", parent=True)
    touched: list[str] = []
    for words, least in ((("scontrol", "requeue"), 1), (("scancel",), 6)):
        command.wait(lambda least=least: chunks(store) >= least and job_of(store) not in ("", *touched), 400)
        touched.append(job_of(store))
        slurm_says(*words, touched[-1])
    code, said = command.end()
    assert code == 0, said
    assert len(set(touched)) == 2 and all(touched)
    assert rows_of(store) == rows_of(measured)
    assert clean(store) and not (store / "jobs").exists() and not held(store)
    until = time.monotonic() + 30
    while slurm_says("squeue", "-h") and time.monotonic() < until:
        time.sleep(0.2)
    assert slurm_says("squeue", "-h") == "", "what still waited in the queue is taken out of it"
