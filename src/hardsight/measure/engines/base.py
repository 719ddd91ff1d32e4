"""The protocol of an engine: it takes calls, runs each in a process somewhere, says what has ended, and can be cancelled.

An engine schedules nothing of ours: workers find their work in the store (`measure/queue`), so a call that is lost is made again.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch

from hardsight import __version__
from hardsight.core.errors import DataWarning, HardsightError, StoreError
from hardsight.core.process import cores, token

DEATHS = 5
"""So many times in a row a worker may die before anything new is in the store."""
REST = 10.0
"""Seconds in which workers end by themselves after all is done."""
LATE = 20.0
"""Seconds after which a new file is seen by every machine that has the folder."""


@dataclass(frozen=True)
class Call:
    """function(*arguments, device=device) in a worker, with this process's folder, number of threads and environment variables.

    mark: a file that the worker must see before it starts, so that a store that is not shared is no work lost.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    device: str = "auto"
    mark: Path | None = None
    folder: str = field(default_factory=os.getcwd)
    threads: int = field(default_factory=torch.get_num_threads)
    variables: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    versions: str = f"hardsight {__version__}, torch {torch.__version__}"
    """Others may give rows with other bytes."""


class Result(NamedTuple):
    """How a call ended. value: what it returned, or the exception that it raised, or in words how its process ended."""

    state: Literal["done", "error", "died"]
    value: Any


class Engine(Protocol):
    """workers: how many calls run at once. name: of its kind, for people."""

    workers: int
    name: str

    def check(self) -> None:
        """`HardsightError` if nothing can be run: not installed, no cluster, no such partition."""
        ...

    def submit(self, call: Call) -> int:
        """Queues a call: its number."""
        ...

    def ended(self, seconds: float) -> list[tuple[int, Result]]:
        """The calls that ended since the last time; waits for the first one at most so long."""
        ...

    def cancel(self) -> None:
        """Stops all that runs, and forgets what waits."""
        ...


class Stopped(BaseException):
    """A worker was asked to end: what it has finished is in the store."""


_asked = threading.Event()
"""Set in a worker that is to end after its chunk."""


def carry_out(call: Call) -> Result:
    """Makes the call, in a worker: what it returns or raises can be pickled."""
    try:
        if Path(call.folder).is_dir():
            os.chdir(call.folder)
        for name, value in call.variables.items():
            os.environ.setdefault(name, value)
        torch.set_num_threads(min(call.threads, cores()))  # more than cores would wait for each other
        warnings.simplefilter("ignore", DataWarning)  # said before, by the process that read the data first
        if call.versions != Call.versions:
            raise StoreError(
                f"the worker on {socket.gethostname()} has {Call.versions}, but this command {call.versions}: install the same there"
            )
        if call.mark:
            _see(call.mark)
        value = call.function(*call.arguments, device=call.device)
        pickle.dumps(value)
        return Result("done", value)
    except HardsightError as error:
        return Result("error", type(error)(str(error)))
    except Exception as error:
        return Result("error", RuntimeError(f"in a worker: {type(error).__name__}: {error}\n{traceback.format_exc()}"))


def stop_on_terminate() -> None:
    """In a worker: SIGTERM raises `Stopped`, so that claims are given back; Ctrl-C is for the process that started it."""

    def stop(*_: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stop_on_notice(number: int, seconds: float) -> None:
    """In a worker: after that signal it ends with its chunk, or where it is after so many seconds."""

    def stop(*_: object) -> None:
        raise Stopped

    def asked(*_: object) -> None:
        _asked.set()
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))

    _asked.clear()
    signal.signal(signal.SIGALRM, stop)
    signal.signal(number, asked)


def stop_if_asked() -> None:
    """Between two chunks: raises `Stopped` where `stop_on_notice` has had its signal."""
    if _asked.is_set():
        raise Stopped


def end_with(parent: Any, grace: float = 20.0) -> None:
    """In a worker: ends it when the process that started it has ended, however that did."""

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def results(
    engine: Engine,
    calls: Sequence[Call],
    look: Callable[[], bool] = lambda: False,
    poll: float = 0.5,
    said: Callable[[str], None] = lambda _: None,
    over: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Any]]:
    """(place in `calls`, what it returned) as the calls end; the first error is raised. All that runs is stopped at the end.

    A call whose process died is made again; `StoreError` after `DEATHS` deaths without progress. look: called all the time; whether
    there was progress since the last look. said: takes a sentence about a death. over: whether nothing is left to do, so that calls
    which still wait for a machine are not waited for.
    """
    deaths: Counter[int] = Counter()
    since: float | None = None
    try:
        running = {engine.submit(call): place for place, call in enumerate(calls)}
        while running:
            ended = engine.ended(poll)
            if look():
                deaths.clear()
            for number, result in ended:
                place = running.pop(number)
                if result.state == "error":
                    raise result.value
                if result.state == "done":
                    yield place, result.value
                    continue
                deaths[place] += 1
                if deaths[place] >= DEATHS:
                    raise StoreError(
                        f"a worker {result.value}, {DEATHS} times at the same work; if its memory was full, try fewer images at "
                        "once: --set chunk=8; finished parts are kept"
                    )
                said(f"a worker {result.value}; another one takes its place")
                running[engine.submit(calls[place])] = place
            since = (time.monotonic() if since is None else since) if over() else None
            if since is not None and time.monotonic() - since > REST:
                return
    finally:
        engine.cancel()


def marked(store: Path) -> Path:
    """A file in a store that workers look for; remove it when they have ended."""
    path = store.resolve() / f".seen.{token()}.tmp"
    try:
        path.write_text("")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    return path


def _see(mark: Path) -> None:
    until = time.monotonic() + LATE
    while not mark.exists():
        try:
            os.listdir(mark.parent)  # NFS clients read a folder again when it is listed
        except OSError:
            break
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    else:
        return
    raise StoreError(
        f"the worker on {socket.gethostname()} doesn't see the store {mark.parent}: "
        "give a --store on a folder that all machines share, by a path that is the same on all of them"
    )
