"""Worker processes on this machine, one a device where there are GPUs.

They are forked from a process that has imported what this one has and done nothing else, so that a new one starts in no time, and
none inherits a GPU or threads in use.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from hardsight.core.errors import SpecError
from hardsight.core.process import cores
from hardsight.measure.engines.base import Call, Engine, Result, Stopped, carry_out, end_with, stop_on_terminate
from hardsight.specs.catalog import register

SLOW = ("timm", "torchvision", "torch._dynamo")
"""What each worker would import in the end: the last one with torch's first optimizer."""
PATIENCE = 10.0
"""Seconds in which a worker may give back its claims before it is killed."""


@dataclass
class Worker:
    process: Any
    answer: Connection
    slot: int


class Local:
    name = "local"

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self._context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
        self._numbers = count()
        self._waiting: deque[tuple[int, Call]] = deque()
        self._running: dict[int, Worker] = {}

    def check(self) -> None:
        pass

    def submit(self, call: Call) -> int:
        number = next(self._numbers)
        self._waiting.append((number, call))
        self._start()
        return number

    def ended(self, seconds: float) -> list[tuple[int, Result]]:
        ready = set(wait([worker.answer for worker in self._running.values()], seconds))
        found = []
        for number, worker in list(self._running.items()):
            if worker.answer in ready:
                found.append((number, self._result(worker)))
                del self._running[number]
        self._start()
        return found

    def cancel(self) -> None:
        self._waiting.clear()
        for worker in self._running.values():
            worker.process.terminate()
        until = time.monotonic() + PATIENCE
        for worker in self._running.values():
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._running.clear()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            number, call = self._waiting.popleft()
            slot = min(set(range(self.workers)) - {worker.slot for worker in self._running.values()})
            gpus = torch.cuda.device_count()
            if call.device in ("auto", "cuda") and gpus:
                call = replace(call, device=f"cuda:{slot % gpus}")
            share = max(1, cores() // self.workers)
            call = replace(call, threads=self.threads or min(call.threads, share))
            if sys.platform != "win32":
                loaded = [name for name in list(sys.modules) if name.startswith("hardsight.")]
                self._context.set_forkserver_preload(["hardsight.measure.workers", *loaded, *SLOW])
            answer, send = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_main, args=(call, send), name=f"hardsight worker {slot}")
            process.start()
            send.close()
            self._running[number] = Worker(process, answer, slot)

    def _result(self, worker: Worker) -> Result:
        try:
            found = Result(*worker.answer.recv())
        except (EOFError, OSError):
            found = None
        worker.process.join()
        worker.answer.close()
        if found is not None:
            return found
        code = worker.process.exitcode or 0
        return Result("died", f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}")


def _main(call: Call, send: Connection) -> None:
    os.environ.clear()
    os.environ.update(call.variables)
    stop_on_terminate()
    end_with(multiprocessing.parent_process())
    try:
        send.send(tuple(carry_out(call)))
    except Stopped:
        os._exit(0)


@register
def local(workers: int = 0, threads: int = 0) -> Engine:
    """Worker processes on this machine; 0: one a GPU, or without GPUs one a core. threads: of each; 0: its share of the
    cores, at most as many as this process uses.

    The number of threads may change a result in its last bits, so rows are byte for byte those of one process with the same number.
    """
    if workers < 0 or threads < 0:
        raise SpecError(f"local takes at least 1 worker and 1 thread, or 0 for the default, not {min(workers, threads)}")
    return Local(workers or torch.cuda.device_count() or cores(), threads)
