"""Checkpoints: all that a run needs to resume as if it had never stopped, bit for bit on a CPU.

    RUN/step-000001234.pt   one point of the run, written completely or not at all; the newest `keep` are kept

Random numbers and the order of images derive from the seed and the step, so they are not stored. State that belongs to one
process (a queue, a perturbation, its batch statistics) is stored for each process.
"""

from __future__ import annotations

import copy
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
from hardsight.training.methods.joint import follow

ENGINE = 1
"""Increased when a change of this code changes the result of a run, or the format of a checkpoint."""


@dataclass
class Training:
    """The current state of a run. average: the encoder with the moving average of the weights. batches: how many are done.

    totals: the logs of the current epoch, each as its sum and the number of steps that had it. best: the highest score so
    far.
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
        """Adds one step's logs; a value that only some steps have (a share of nothing is left out) is averaged over
        those.
        """
        for key, value in numbers.items():
            total, steps = self.totals.get(key, (0.0, 0))
            self.totals[key] = (total + value, steps + 1)

    def follow(self) -> None:
        """Moves the average towards the encoder's weights, and copies its buffers."""
        if self.average is not None:
            follow(self.average, self.learner.encoder, self.recipe.ema)
            for slow, fast in zip(self.average.buffers(), self.learner.encoder.buffers(), strict=True):
                slow.copy_(fast)

    def means(self) -> dict[str, float]:
        return {key: total / steps for key, (total, steps) in self.totals.items()}


def save(training: Training, folder: Path) -> None:
    """Writes a checkpoint. All processes must call it; the first one writes, and deletes the oldest."""
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
    """Loads the newest checkpoint in the folder; False where there is none.

    Raises `StoreError` for a checkpoint of another version of the code, and for a file that cannot be read.
    """
    existing = checkpoints(folder)
    if not existing:
        return False
    path = existing[-1]
    saved = _read(path, len(existing))
    if saved.get("engine") != ENGINE:
        raise StoreError(
            f"{path} was written by version {saved.get('engine', 'unknown')} of the training engine, and this is version "
            f"{ENGINE}; start a new run in another folder, or resume with the hardsight version that wrote it"
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
            f"{path} does not fit this recipe's networks: other code wrote it ({text}); start a new run in another folder, or delete this one"
        ) from None
    _put(training, saved)
    return True


def copied(training: Training) -> dict[str, Any]:
    """The state in memory, on its device: what `restore` takes."""
    average = None if training.average is None else training.average.state_dict()
    states = {"learner": training.learner.state_dict(), "optimizer": training.optimizer.state_dict(), "average": average}
    plain = {"guard": asdict(training.guard), **{key: getattr(training, key) for key in PLAIN}}
    return copy.deepcopy({**states, **plain})


def restore(training: Training, kept: dict[str, Any]) -> None:
    """Takes the run back to a state that `copied` gave, which must not be used again."""
    training.learner.load_state_dict(kept["learner"])
    training.optimizer.load_state_dict(kept["optimizer"])
    if training.average is not None:
        training.average.load_state_dict(kept["average"])
    _put(training, kept)


def _put(training: Training, saved: dict[str, Any]) -> None:
    training.guard = Guard(**saved["guard"])
    for key in PLAIN:
        setattr(training, key, saved[key])


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def _buffers(training: Training) -> dict[str, torch.Tensor]:
    names = {name for name, _ in training.learner.named_buffers()}
    found = training.learner.state_dict().items()
    return {name: value.cpu() for name, value in found if name in names or name.endswith("_extra_state")}


def _read(path: Path, count: int) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:160]
        then = "the run resumes from the one before" if count > 1 else "the run starts again: it is the only checkpoint"
        raise StoreError(f"cannot read {path}: {text}; delete that file, and {then}") from None
