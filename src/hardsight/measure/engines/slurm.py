"""Jobs on a Slurm cluster, by submitit: an array of equal jobs, each a worker.

Which job does what is not fixed: each finds its work in the store, so jobs may start late, be pre-empted, requeued or cancelled.

- SIGUSR2, which Slurm sends `grace` seconds before the time limit: the worker ends with its chunk, gives its claims back, and has
  itself requeued (`scontrol requeue`).
- SIGTERM, which pre-emption, `scontrol requeue` and `scancel` send: it gives its claims back and ends at once; Slurm requeues it, or not.

States are those of `squeue`, which every cluster has; `sacct`, which submitit asks, needs an accounting database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from hardsight.core.errors import HardsightError, MissingDependency, SpecError, StoreError, nearest
from hardsight.core.process import token
from hardsight.measure.engines.base import Call, Engine, Result, Stopped, carry_out, stop_on_notice, stop_on_terminate
from hardsight.specs.catalog import register

POLL = 10.0
"""Seconds between two questions to Slurm's controller, which many users share."""
LATE = 20.0
"""So many seconds after a job has left the queue, its result is seen on a shared folder."""
MARGIN = 15.0
"""Of the grace before a time limit, what a worker keeps for its end."""
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "PREEMPTED"}
ALIVE = WAITING | {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
ASKS = 60
"""Seconds after which a command of Slurm without an answer is given up."""


class Work:
    """What a job runs; submitit keeps it beside the job, for when that is requeued."""

    def __init__(self, grace: float) -> None:
        self.grace = grace

    def __call__(self, call: Call) -> Result:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
        noticed: list[int] = []
        stop_on_terminate()
        stop_on_notice(signal.SIGUSR2, max(1.0, self.grace - MARGIN))
        asked = signal.getsignal(signal.SIGUSR2)

        def note(number: int, frame: Any) -> None:
            noticed.append(number)
            if callable(asked):
                asked(number, frame)

        signal.signal(signal.SIGUSR2, note)
        try:
            return carry_out(call)
        except Stopped:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if noticed and callable(requeue):
                requeue(signal.SIGUSR2, None)
            sys.exit(1)

    def checkpoint(self, call: Call) -> Any:
        """The same again: what is done is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, call)


class Slurm:
    name = "Slurm"

    def __init__(self, array: int, threads: int, grace: int, asked: dict[str, Any], cluster: str = "slurm") -> None:
        """asked: submitit's parameters. cluster: "local" runs the same jobs as processes of this machine, without Slurm."""
        self.workers, self.threads, self.grace, self.asked, self.cluster = array, threads, grace, asked, cluster
        self._numbers = count()
        self._waiting: list[tuple[int, Call]] = []
        self._jobs: dict[int, Any] = {}
        self._gone: dict[int, float] = {}
        self._states: dict[str, str] = {}
        self._polled = -POLL
        self._folder: Path | None = None

    def check(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise MissingDependency("slurm needs submitit: pip install 'hardsight[slurm]'") from None
        if self.cluster != "slurm":
            return
        for command in ("sbatch", "srun", "squeue", "sinfo"):
            if not shutil.which(command):
                raise HardsightError(
                    f"there is no Slurm here: the command '{command}' was not found; run this on a login node of the cluster, "
                    "or use --on 'local(4)'"
                )
        partitions = [line.rstrip("*") for line in _ask("sinfo", "-h", "-o", "%P").split()]
        partition = self.asked.get("slurm_partition")
        if partition and (unknown := [one for one in partition.split(",") if one not in partitions]):
            raise SpecError(
                f"Slurm has no partition '{unknown[0]}'{nearest(unknown[0], partitions) or '; it has: ' + ', '.join(partitions)}"
            )

    def submit(self, call: Call) -> int:
        number = next(self._numbers)
        self._waiting.append((number, replace(call, threads=self.threads or self.asked.get("cpus_per_task", call.threads))))
        return number

    def ended(self, seconds: float) -> list[tuple[int, Result]]:
        self._start()
        until = time.monotonic() + seconds
        while not (found := [(n, result) for n, job in self._jobs.items() if (result := self._result(n, job))]):
            if time.monotonic() >= until:
                return []
            time.sleep(min(0.5, seconds))
        for number, _ in found:
            del self._jobs[number]
        return found

    def cancel(self) -> None:
        self._waiting.clear()
        jobs = list(self._jobs.values())
        self._jobs.clear()
        if self.cluster == "slurm" and jobs:
            with contextlib.suppress(HardsightError):
                _ask("scancel", *(job.job_id for job in jobs))
            until = time.monotonic() + LATE
            while time.monotonic() < until and _queued(jobs):  # workers give their claims back
                time.sleep(0.5)
        for job in jobs if self.cluster != "slurm" else ():
            if job._process is not None and job._process.poll() is None:
                job._process.terminate()
                job._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()
            self._folder = None

    def _start(self) -> None:
        """Submits all that waits as one array."""
        if not self._waiting:
            return
        import submitit
        from submitit.core.utils import FailedJobError

        logging.getLogger("submitit").setLevel(logging.ERROR)
        waiting, self._waiting = self._waiting, []
        store = waiting[0][1].mark
        self._folder = self._folder or (store.parent if store else Path.cwd()) / "jobs" / token()
        own = {"slurm_max_num_timeout": 10**6} if self.cluster == "slurm" else {}
        try:
            executor = submitit.AutoExecutor(self._folder, cluster=self.cluster, **own)
            executor.update_parameters(**self.asked)
            with executor.batch():
                jobs = [executor.submit(Work(self.grace), call) for _, call in waiting]
        except FailedJobError as error:
            said = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()
            raise HardsightError(f"Slurm refuses the jobs: {said[0].removeprefix('sbatch: ')}") from None
        self._jobs.update((number, job) for (number, _), job in zip(waiting, jobs, strict=True))

    def _result(self, number: int, job: Any) -> Result | None:
        with contextlib.suppress(OSError):
            os.listdir(job.paths.folder)  # NFS clients read a folder again when it is listed
        if (path := job.paths.result_pickle).exists():
            outcome, value = pickle.loads(path.read_bytes())
            return (
                Result(*value) if outcome == "success" else Result("died", f"failed: {str(value).strip().splitlines()[-1]}")
            )
        state = self._state(job)
        if state in ALIVE:
            self._gone.pop(number, None)
            return None
        if time.monotonic() - self._gone.setdefault(number, time.monotonic()) < (LATE if self.cluster == "slurm" else 1):
            return None
        del self._gone[number]
        try:
            said = job.paths.stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return Result(
                "error",
                StoreError(
                    f"Slurm's job {job.job_id} is {state} and wrote nothing to {job.paths.folder}: if its node doesn't see that "
                    "folder, give a --store on a folder that all machines share"
                ),
            )
        return Result(
            "died", f"ended: Slurm's job {job.job_id} is {state}" + (f" and said last: {said[-1]}" if said else "")
        )

    def _state(self, job: Any) -> str:
        if self.cluster != "slurm":
            return "RUNNING" if job.state == "RUNNING" else "FAILED"
        if time.monotonic() - self._polled >= POLL:
            self._polled = time.monotonic()
            self._states = _queued(list(self._jobs.values()))
        return self._states.get(job.job_id, "no more in the queue")


def _queued(jobs: list[Any]) -> dict[str, str]:
    """The state of each job that is waiting or running; all as waiting if Slurm gives no answer, as while it is started again."""
    ids = sorted({job.job_id.partition("_")[0] for job in jobs})
    try:
        lines = _ask("squeue", "-h", "-r", "-o", "%i|%T", "-j", ",".join(ids), "-t", "all").splitlines()
    except HardsightError as error:
        return {} if "Invalid job id" in str(error) else {job.job_id: "PENDING" for job in jobs}
    found = dict(line.split("|", 1) for line in lines if "|" in line)
    mine = {job.job_id for job in jobs}
    return {job: state for job, state in found.items() if job in mine and state in ALIVE}


def _ask(*words: str) -> str:
    """What a command of Slurm prints."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=ASKS)
    except subprocess.TimeoutExpired:
        raise HardsightError(f"Slurm gives no answer: '{words[0]}' took more than {ASKS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HardsightError(f"Slurm gives no answer: {lines[-1]}")
    return done.stdout


@register
def slurm(
    partition: str = "",
    gpus: int = 1,
    array: int = 4,
    minutes: int = 240,
    cpus: int = 0,
    memory: int = 0,
    account: str = "",
    constraint: str = "",
    qos: str = "",
    threads: int = 0,
    grace: int = 90,
) -> Engine:
    """An array of equal jobs on a Slurm cluster: gpus (0 or 1), cpus, memory (GB) and minutes of each; 0, "": Slurm's default.

    array: number of jobs. grace: seconds before the time limit in which a job ends with its chunk and is requeued; it goes on then. The
    store must be on a folder that all nodes share. threads: of each worker; 0: one a CPU of the job. Their number may change
    a result in its last bits. Needs submitit: pip install 'hardsight[slurm]'.
    """
    if gpus not in (0, 1):
        raise SpecError(
            f"a worker uses one GPU: write slurm(gpus=1, array={array * max(gpus, 1)}), or gpus=0 for CPUs, not gpus={gpus}"
        )
    if array < 1 or minutes < 1 or min(cpus, memory, threads) < 0:
        raise SpecError("slurm takes an array of at least 1 job, at least 1 minute, and no negative cpus, memory or threads")
    if not MARGIN < grace < 60 * minutes:
        raise SpecError(
            f"slurm's grace is more than {MARGIN:.0f} s and less than the {minutes} minutes of a job, not {grace} s"
        )
    asked: dict[str, Any] = {"name": "hardsight", "timeout_min": minutes, "slurm_signal_delay_s": grace}
    asked |= {"gpus_per_node": gpus} if gpus else {}
    asked |= {"cpus_per_task": cpus} if cpus else {}
    asked |= {"mem_gb": memory} if memory else {}
    given = {"partition": partition, "account": account, "constraint": constraint, "qos": qos}
    return Slurm(array, threads, grace, asked | {f"slurm_{key}": value for key, value in given.items() if value})
