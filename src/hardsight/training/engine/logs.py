"""Where a run's metrics go: always to a file with one JSON line per entry; by name also to TensorBoard, W&B and MLflow.

A resumed run's file is cut back to the checkpoint it resumes from, so that it ends with the lines of an uninterrupted run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from hardsight.core.errors import MissingDependency, SpecError, StoreError, nearest
from hardsight.store.files import write_bytes
from hardsight.training.engine.recipe import TrainingRecipe, to_dict

FILE = "log.jsonl"


def last_epoch(folder: Path) -> dict[str, float]:
    """The means of a run's last epoch, as its log has them; {} where there is none."""
    path = folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((found for line in reversed(lines) if "epoch" in (found := json.loads(line))), {})


class Log(Protocol):
    def write(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    def __init__(self, folder: Path, step: int) -> None:
        """step: lines of later steps are removed; those steps will be run again."""
        self.path = folder / FILE
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            if kept != lines:
                write_bytes(self.path, "".join(kept).encode())

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")

    def close(self) -> None:
        pass


class TensorBoard:
    def __init__(self, folder: Path, recipe: TrainingRecipe, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.writer.add_text("recipe", f"```\n{json.dumps(to_dict(recipe), indent=1)}\n```", 0)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, recipe: TrainingRecipe, step: int) -> None:
        import wandb  # type: ignore[import-not-found]

        known = folder / "wandb.json"
        again = json.loads(known.read_text())["id"] if known.exists() else None
        self.run: Any = wandb.init(
            project="hardsight", name=recipe.name, dir=str(folder), config=to_dict(recipe), id=again, resume="allow"
        )
        write_bytes(known, json.dumps({"id": self.run.id}).encode())

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    def __init__(self, folder: Path, recipe: TrainingRecipe, step: int) -> None:
        import mlflow  # type: ignore[import-not-found]

        self.mlflow: Any = mlflow
        known = folder / "mlflow.json"
        again = json.loads(known.read_text())["id"] if known.exists() else None
        run = mlflow.start_run(run_id=again, run_name=None if again else recipe.name)
        if again is None:
            mlflow.log_params(to_dict(recipe))
            write_bytes(known, json.dumps({"id": run.info.run_id}).encode())

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


Make = Callable[[Path, TrainingRecipe, int], Log]
KNOWN: dict[str, Make] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow}
"""Loggers by the name of the package that each needs."""


def open_logs(folder: Path, recipe: TrainingRecipe, step: int) -> list[Log]:
    """The JSONL file and the other logs that the recipe names; `step`: where the run resumes.

    Raises `SpecError` for an unknown name, `MissingDependency` for one whose package is not installed, `StoreError` with the
    package's own message where it cannot write (no key, no server, no folder).
    """
    found: list[Log] = [JsonLines(folder, step)]
    for name in named(recipe.log):
        try:
            found.append(KNOWN[name](folder, recipe, step))
        except Exception as error:
            for log in found:
                log.close()
            raise StoreError(f"the log '{name}' could not be opened: {error}; leave it out with --set log=") from error
    return found


def named(names: tuple[str, ...]) -> list[str]:
    """The packages behind these names; "auto" is tensorboard where it is installed."""
    found = []
    for name in names:
        if name == "auto":
            found += ["tensorboard"] if _installed("tensorboard") else []
            continue
        if name not in KNOWN:
            raise SpecError(f"there is no log '{name}'{nearest(name, KNOWN) or '; available: auto, ' + ', '.join(KNOWN)}")
        if not _installed(name):
            raise MissingDependency(
                f"the log '{name}' needs a package that is not installed: pip install 'hardsight[{name}]'"
            )
        found.append(name)
    return list(dict.fromkeys(found))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
