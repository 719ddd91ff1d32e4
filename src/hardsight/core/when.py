"""Where a training run stands: what schedules, views and methods may depend on, and the one source of their random numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class When(NamedTuple):
    """One optimizer step's place.

    rng: seeded for this step. step of steps, epoch of epochs: counted from 0. replay: which pass over the same batch it is.
    rank of world: which process of how many, each with its share of every batch.
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
        """The share of the run that is done, in [0, 1)."""
        return self.step / max(1, self.steps)

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[count] numbers, on the CPU: this process's share of what one process would draw for the whole batch."""
        drawn = low + (high - low) * torch.rand(count * self.world, generator=self.rng)
        return drawn[self.rank * count : (self.rank + 1) * count]
