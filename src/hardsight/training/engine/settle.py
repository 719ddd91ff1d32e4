"""Process state that a run changes and restores: signal handlers, random state, threads, and cuDNN's choice of kernels."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe

NOTICES = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name))
"""What a job scheduler sends before it ends a job."""
SIGNALS = (signal.SIGINT, *NOTICES)


@dataclass
class Asked:
    """Whether a run is to stop. until: a time of `time.monotonic`. signal: the one received, None for none."""

    until: float | None = None
    signal: int | None = None
    before: dict[int, Any] = field(default_factory=dict)

    @property
    def now(self) -> bool:
        return self.signal is not None or (self.until is not None and time.monotonic() > self.until)

    def agree(self, group: Group) -> None:
        """All processes have the signal that any of them received, so that they end alike."""
        self.signal = max(group.gathered(self.signal or 0)) or None

    def obey(self) -> None:
        """Lets the received signal do what it would have done without this class."""
        assert self.signal is not None
        handler = self.before.get(self.signal)
        if callable(handler):
            handler(self.signal, None)
        signal.signal(self.signal, signal.SIG_DFL)
        os.kill(os.getpid(), self.signal)


@contextmanager
def patient(minutes: float | None) -> Iterator[Asked]:
    """Within this context, Ctrl-C and a scheduler's notice only request a stop; a second signal takes effect at once."""
    asked = Asked(None if minutes is None else time.monotonic() + 60 * minutes)
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.signal is not None:
            asked.obey()
        asked.signal = number

    asked.before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in asked.before.items():
            signal.signal(number, handler)


@contextmanager
def settings(recipe: TrainingRecipe, group: Group) -> Iterator[None]:
    """Sets threads and cuDNN options for a run; restores them and the random state at the end.

    On a GPU training uses the fastest kernels, so only runs on a CPU are reproducible bit for bit.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    threads = torch.get_num_threads()
    devices = [group.device] if group.device.type == "cuda" else []
    try:
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        if group.device.type == "cuda":
            cudnn.benchmark, cudnn.deterministic = True, False
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        torch.set_num_threads(threads)
