"""The current position in a training run. Schedules, views and methods depend on it, and draw all random numbers from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class When(NamedTuple):
    """The position of one optimizer step.

    rng: generator seeded for this step. step of steps, epoch of epochs: counted from 0. replay: index of the pass over the
    same batch. rank of world: index and number of processes; each has its share of every batch.
    """

    rng: torch.Generator
    step: int = 0
    steps: int = 1
    epoch: int = 0
    epochs: int = 1
    replay: int = 0
    rank: int = 0
    world: int = 1

    @property
    def progress(self) -> float:
        """The completed fraction of the run, in [0, 1)."""
        return self.step / max(1, self.steps)

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[count] numbers, on the CPU: this process's share of the draw that a single process makes for the whole batch."""
        drawn = low + (high - low) * torch.rand(count * self.world, generator=self.rng)
        return drawn[self.rank * count : (self.rank + 1) * count]
