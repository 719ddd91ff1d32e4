"""Checkpoints: all that a run needs to go on as if it had never stopped, bit for bit on a CPU.

    RUN/step-000001234.pt   one point of the run, whole or not there at all; the newest `keep` stay

Random numbers and the order of images derive from the seed and the step, so they need no place in it. What only one process
has (a queue, a perturbation, its batch statistics) is kept for each.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hardsight.core.errors import StoreError
from hardsight.encoders.base import Encoder
from hardsight.store.files import write_bytes
from hardsight.training.engine import parallel
from hardsight.training.engine.guard import Guard
from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe, to_dict
from hardsight.training.methods.base import Learner

ENGINE = 1
"""Raised when a change of this code changes what a run comes to, or how it is written down."""


@dataclass
class Training:
    """A run as it stands. average: the encoder whose weights are the mean over steps. batches: how many are done.

    totals: the logs of the epoch under way, each its sum and in how many steps it was. best: the greatest score so far.
    """

    recipe: TrainingRecipe
    group: Group
    learner: Learner
    optimizer: torch.optim.Optimizer
    average: Encoder | None = None
    guard: Guard = field(default_factory=Guard)
    batches: int = 0
    totals: dict[str, tuple[float, int]] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0

    @property
    def sharded(self) -> bool:
        return self.group.world > 1 and self.recipe.parallel == "fsdp"

    def count(self, numbers: dict[str, float]) -> None:
        """Adds one step's logs; one that only some steps have (a share of nothing has none) is a mean over those."""
        for key, value in numbers.items():
            total, steps = self.totals.get(key, (0.0, 0))
            self.totals[key] = (total + value, steps + 1)

    def means(self) -> dict[str, float]:
        return {key: total / steps for key, (total, steps) in self.totals.items()}


def save(training: Training, folder: Path) -> None:
    """Writes a checkpoint. All processes have to come here; the first one writes, and takes the oldest away."""
    learner, optimizer = parallel.states(training.learner, training.optimizer, training.sharded)
    own = training.group.gathered(None if training.sharded else _buffers(training))
    if training.group.leads:
        content = {
            "engine": ENGINE,
            "recipe": json.dumps(to_dict(training.recipe)),
            "learner": learner,
            "optimizer": optimizer,
            "average": None if training.average is None else training.average.state_dict(),
            "own": own if training.group.world > 1 else [],
            "guard": asdict(training.guard),
            **{key: getattr(training, key) for key in PLAIN},
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(folder / f"step-{training.batches:09d}.pt", buffer.getvalue())
        for old in checkpoints(folder)[: -training.recipe.keep]:
            old.unlink(missing_ok=True)
    training.group.meet()


PLAIN = ("batches", "totals", "best", "seconds")


def load(training: Training, folder: Path) -> bool:
    """Takes up the newest checkpoint in the folder; False where there is none.

    Raises `StoreError` for one of other code, and for a file that cannot be read.
    """
    there = checkpoints(folder)
    if not there:
        return False
    path = there[-1]
    saved = _read(path, len(there))
    if saved.get("engine") != ENGINE:
        raise StoreError(
            f"{path} was written by version {saved.get('engine', 'of old')} of the training engine, and this is version "
            f"{ENGINE}; begin a new run in another folder, or go on with the hardsight that wrote it"
        )
    try:
        parallel.load_states(training.learner, training.optimizer, (saved["learner"], saved["optimizer"]), training.sharded)
        if training.average is not None:
            training.average.load_state_dict(saved["average"])
        if len(saved["own"]) == training.group.world > 1 and not training.sharded:
            training.learner.load_state_dict(saved["own"][training.group.rank], strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{path} does not fit this recipe's networks: other code wrote it ({text}); begin a new run in another folder, or delete this one"
        ) from None
    training.guard = Guard(**saved["guard"])
    for key in PLAIN:
        setattr(training, key, saved[key])
    return True


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def _buffers(training: Training) -> dict[str, torch.Tensor]:
    names = {name for name, _ in training.learner.named_buffers()}
    found = training.learner.state_dict().items()
    return {name: value.cpu() for name, value in found if name in names or name.endswith("_extra_state")}


def _read(path: Path, there: int) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:160]
        then = "the run goes on from the one before" if there > 1 else "the run begins anew: there is no other"
        raise StoreError(f"cannot read {path}: {text}; delete that file, and {then}") from None
