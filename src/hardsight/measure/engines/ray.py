"""Tasks on a Ray cluster: an existing one, by its address, or one of this machine's, on loopback, for as long as the command runs.

Ray places the workers, over all nodes, and each in a process of its own; what a lost node was at, the others find in the store.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import time
from dataclasses import replace
from itertools import count
from typing import Any

from hardsight.core.errors import HardsightError, MissingDependency, SpecError
from hardsight.measure.engines.base import Call, Engine, Result, carry_out
from hardsight.specs.catalog import register

PATIENCE = 10.0
"""Seconds in which a worker may give back its claims before it is killed."""
REACHED = 10.0
"""Seconds in which a cluster's head must answer."""


class Ray:
    name = "Ray"

    def __init__(self, address: str, workers: int, gpus: float, cpus: float, threads: int) -> None:
        self.address, self.workers, self.gpus, self.cpus, self.threads = address, workers, gpus, cpus, threads
        self._numbers = count()
        self._running: dict[Any, int] = {}
        self._began = False

    def check(self) -> None:
        """Connects; the number of workers, if it isn't given, is how many find room now."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends statistics over the network
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        if importlib.util.find_spec("ray") is None:
            raise MissingDependency("ray needs the package of that name: pip install 'hardsight[ray]'")
        try:
            _reach(address)
        except ConnectionError as error:
            raise HardsightError(f"no Ray cluster at {address}: {error}") from None
        import ray

        if not ray.is_initialized():
            quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
            try:
                if address in ("", "local"):
                    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 gives them what other processes leave
                    ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
                else:
                    ray.init(address, **quiet)
            except Exception as error:  # Ray's own are of no class
                where = f"at {address}" if address else "on this machine"
                raise HardsightError(f"no Ray cluster {where}: {str(error).strip().splitlines()[0]}") from None
            self._began = True
        there = ray.cluster_resources()
        if self.gpus < 0:
            self.gpus = 1.0 if there.get("GPU") else 0.0
        room = {"GPU": self.gpus, "CPU": self.cpus}
        for what, wanted in room.items():
            if wanted > there.get(what, 0):
                self._end()
                raise HardsightError(f"a worker wants {wanted:g} {what}s, but the Ray cluster has {there.get(what, 0):g}")
        if not self.workers:
            self.workers = max(1, min(int(there[what] / wanted + 1e-6) for what, wanted in room.items() if wanted))

    def submit(self, call: Call) -> int:
        import ray

        number = next(self._numbers)
        task: Any = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=0,  # what is lost is made again by `results`, which knows whether anything came of it
            max_calls=1,
            scheduling_strategy="SPREAD",
        )(carry_out)
        self._running[task.remote(replace(call, threads=self.threads or max(1, int(self.cpus))))] = number
        return number

    def ended(self, seconds: float) -> list[tuple[int, Result]]:
        import ray

        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [(self._running.pop(one), _result(one)) for one in ready]

    def cancel(self) -> None:
        import ray

        for force in (False, True):
            for one in self._running:
                with contextlib.suppress(Exception):
                    ray.cancel(one, force=force)
            until = time.monotonic() + PATIENCE
            while self._running and time.monotonic() < until:
                done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=1)
                for one in done:
                    del self._running[one]
        self._running.clear()
        self._end()

    def _end(self) -> None:
        import ray

        if self._began:
            ray.shutdown()
            self._began = False


def _result(one: Any) -> Result:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(one)
    except RayTaskError as error:
        return Result("error", RuntimeError(f"in a worker: {error}"))
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        return Result("died", f"was lost ({type(error).__name__}: {lines[0]})")


def _reach(address: str) -> None:
    """`ConnectionError` if nothing answers there: Ray itself would try for minutes. Before Ray is imported.

    Ray puts this machine's own address in the place of 127.0.0.1, where a cluster on loopback doesn't answer, unless it is told not to.
    """
    if address in ("", "local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConnectionError("an address is HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=REACHED).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers there ({error.strerror or error})") from None
    if host in ("127.0.0.1", "localhost"):
        try:
            socket.create_connection((_own_address(), int(port)), timeout=REACHED).close()
        except OSError:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _own_address() -> str:
    """By which other machines reach this one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("8.8.8.8", 53))
        return asked.getsockname()[0]


@register
def ray(address: str = "", workers: int = 0, gpus: float = -1, cpus: float = 1, threads: int = 0) -> Engine:
    """Workers on a Ray cluster; address: HOST:PORT of its head, or auto; "": that of RAY_ADDRESS, else a new one on this machine.

    gpus, cpus: of each worker, also fractions, so that gpus=0.5 puts two on a GPU; -1: one GPU if the cluster has any. workers: 0: as many
    as find room. The store must be on a folder that all nodes share. threads: of each worker; 0: one a CPU. Their
    number may change a result in its last bits. Needs Ray: pip install 'hardsight[ray]'.
    """
    if workers < 0 or threads < 0 or cpus < 0 or (gpus < 0 and gpus != -1) or not (cpus or gpus):
        raise SpecError("ray takes no negative workers, threads, cpus or gpus, and not 0 for both cpus and gpus")
    if gpus > 1:
        raise SpecError(f"a worker uses one GPU or a part of one, not {gpus:g}: more workers use more of them")
    return Ray(address, workers, gpus, cpus, threads)
