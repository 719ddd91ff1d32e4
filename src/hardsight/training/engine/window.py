"""Steps whose numbers the host has not read yet: on a GPU it would wait at every step, so it reads those of several batches at once.

A step is then taken before its loss is known to be finite. If it was not, the state before these batches comes back, and they are
run again with a question before each step: a run is the same, however rarely it asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardsight.training.methods.base import Logs, Samples

EVERY = 10
"""Batches between two readings on a GPU; as many stay in its memory, beside a copy of the run's state."""


@dataclass(frozen=True)
class Taken:
    """A step that was taken. sums [2]: its loss and its gradient's norm, each summed over the processes."""

    step: int
    sums: Tensor
    logs: Logs
    lr: float


@dataclass
class Window:
    """The batches since the last reading, and the state before them; asks: whether a step is taken only if it is finite."""

    asks: bool = True
    batches: list[tuple[list[Samples], int]] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)


def wide(value: Tensor) -> Tensor:
    """The value in float64, on its device where that has float64."""
    return (value.cpu() if value.device.type == "mps" else value).detach().double()


def numbers(taken: list[Taken], world: int) -> list[dict[str, float]]:
    """Each step's "loss", "gradient" and logs, read with one wait; a share of nothing is left out."""
    leaves = [
        part for one in taken for part in (*one.sums, *(leaf for value in one.logs.values() for leaf in _leaves(value)))
    ]
    read = iter(torch.stack([wide(leaf) for leaf in leaves]).tolist() if leaves else [])
    found = []
    for one in taken:
        values = {"loss": next(read) / world, "gradient": next(read) / world}
        for name, value in one.logs.items():
            parts = [next(read) for _ in _leaves(value)]
            if len(parts) == 2 and not parts[1]:
                continue
            values[name] = parts[0] / parts[1] if len(parts) == 2 else parts[0] if parts else float(value)  # type: ignore[arg-type]
        found.append(values)
    return found


def finite(values: dict[str, float]) -> bool:
    return math.isfinite(values["loss"]) and math.isfinite(values["gradient"])


def _leaves(value: float | Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,) if isinstance(value, Tensor) else ()
