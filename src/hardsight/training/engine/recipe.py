"""A training recipe: everything that fixes one run, written down as TOML; no torch.

Specs are text, as everywhere. `fields` that only say how a run is watched over may change between its pieces; all others
make it another run.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hardsight.core.errors import SpecError, StoreError, nearest
from hardsight.specs.catalog import complete, minimal
from hardsight.specs.recipe import SHIPPED, check_name, split_list
from hardsight.specs.syntax import override, read_value, show

Precision = Literal["float32", "bf16"]
Parallel = Literal["ddp", "fsdp"]
KINDS = {
    "encoder": "Encoder", "method": "Method", "data": "Data", "optimizer": "Optimizer", "schedule": "Schedule",
    "watch": "Watching",
}  # fmt: skip
FREE = ("title", "threads", "save", "keep", "every", "log")
"""What may differ between a run and its continuation."""
MOVED = {
    "lr": "optimizer = 'adamw(lr=...)'",
    "weight_decay": "optimizer = 'adamw(weight_decay=...)'",
    "warmup": "schedule = 'warmup(cosine, share=...)'",
}
"""Keys of former recipes, and how that is said now."""


@dataclass(frozen=True)
class TrainingRecipe:
    """What to train, on what, and how.

    images: of the training part, None for all. batch: images of one optimizer step, over all processes; accumulate: in how
    many parts it is computed, each with its own batch statistics and negatives. schedule: a factor of the optimizer's lr,
    by optimizer steps. clip: greatest norm of all gradients, 0 for none. ema: of the average of weights that is exported in
    place of the last ones (0.999), 0 for none. compile: the encoder, by torch.compile. sync_norm: batch statistics over all
    processes, on GPUs. watch: measured along the way on held-out training images, "" for nothing. snapshots: the encoder is
    kept every so many epochs, 0 for never. save: minutes between checkpoints within an epoch; keep: how many checkpoints
    stay. every: steps between log lines within an epoch, 0 for none. log: beside the JSONL file; "auto" is TensorBoard
    where it is installed. threads: of the CPU, 0 as torch has them.
    """

    name: str
    encoder: str
    method: str
    data: str
    epochs: int = 10
    batch: int = 128
    accumulate: int = 1
    images: int | None = None
    optimizer: str = "adamw"
    schedule: str = "warmup(cosine)"
    clip: float = 0.0
    ema: float = 0.0
    seed: int = 0
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    parallel: Parallel = "ddp"
    sync_norm: bool = True
    watch: str = "watching"
    snapshots: int = 0
    save: float = 2.0
    keep: int = 1
    every: int = 50
    log: tuple[str, ...] = ("auto",)
    threads: int = 0
    title: str = ""

    def check(self, where: str = "") -> TrainingRecipe:
        """Itself, with every field looked at; `SpecError` says which one is wrong, where, and what would be right."""
        told = f"{where}: " if where else ""
        check_name(self.name)
        for key, kind in KINDS.items():
            value = getattr(self, key)
            if not isinstance(value, str) or not (value or key == "watch"):
                raise SpecError(f"{told}a training recipe needs '{key}', a spec; {value!r} is none")
            if value:
                complete(value, kind)
        for key, kind, least in LEAST:
            value = getattr(self, key)
            if key == "images" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, kind | int) or not value >= least:
                what = "whole number" if kind is int else "number"
                raise SpecError(f"{told}{key} is {value!r}; it is a {what} of at least {least}")
        if self.ema >= 1:
            raise SpecError(f"{told}ema is {self.ema:g}; it is the share that stays at each step, below 1")
        if self.batch % self.accumulate:
            raise SpecError(f"{told}a batch of {self.batch} does not part into {self.accumulate} equal ones (accumulate)")
        for key, known in (("precision", get_args(Precision)), ("parallel", get_args(Parallel))):
            if getattr(self, key) not in known:
                raise SpecError(f"{told}{key} is {getattr(self, key)!r}; it is {' or '.join(known)}")
        for key in ("channels_last", "compile", "sync_norm"):
            if not isinstance(getattr(self, key), bool):
                raise SpecError(f"{told}{key} is {getattr(self, key)!r}; it is true or false")
        if not all(isinstance(one, str) for one in self.log):
            raise SpecError(f"{told}log is {self.log!r}; it is a list of names")
        return self

    def with_set(self, assignment: str) -> TrainingRecipe:
        """The recipe with one `path=value` changed: `epochs=50`, `method.temperature=0.5`, `method=simclr(width=64)`."""
        path, equals, text = assignment.partition("=")
        first, _, rest = path.strip().partition(".")
        if not equals or not first:
            raise SpecError(f"--set takes path=value, such as 'method.temperature=0.5', not '{assignment}'")
        _need_key(first, "--set")
        if rest:
            if first not in KINDS:
                raise SpecError(f"--set {path}: {first} is no spec, so it has no '{rest}'")
            changed = override(complete(getattr(self, first), KINDS[first]), rest, read_value(text))
            return replace(self, **{first: show(minimal(complete(changed, KINDS[first])))})
        if first == "log":
            return replace(self, log=split_list(text))
        if first in KINDS or isinstance(getattr(self, first), str):
            return replace(self, **{first: text.strip()})
        value = {"true": True, "false": False}.get(text.strip().lower(), read_value(text))
        return replace(self, **{first: value})


LEAST = (
    ("epochs", int, 1), ("batch", int, 1), ("accumulate", int, 1), ("images", int, 1), ("clip", float, 0), ("ema", float, 0),
    ("seed", int, 0), ("snapshots", int, 0), ("save", float, 0), ("keep", int, 1), ("every", int, 0), ("threads", int, 0),
)  # fmt: skip


def read_recipe(name: str) -> TrainingRecipe:
    """The training recipe of a TOML file, or of that name among the shipped ones."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.exists():
        shipped = sorted(one.stem for one in SHIPPED.glob("*.toml"))
        raise SpecError(f"there is no recipe '{name}'{nearest(name, shipped) or '; shipped: ' + ', '.join(shipped)}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    return from_dict(content, str(path), path.stem)


def recipe_of_run(folder: Path) -> TrainingRecipe:
    """The recipe of a run's folder; `StoreError` where it holds no run."""
    path = folder / "recipe.json"
    if not path.exists():
        raise StoreError(f"{folder} holds no run: there is no {path}; 'hardsight pretrain' writes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    return from_dict(content, str(path), folder.name)


def from_dict(content: dict[str, Any], where: str, name: str = "run") -> TrainingRecipe:
    """The recipe with these fields; `SpecError` for one that doesn't exist, with the nearest right one."""
    if "encoders" in content and "method" not in content:
        raise SpecError(f"{where} is a recipe to measure, which goes to 'hardsight bench'; a training recipe has 'method'")
    for key in content:
        _need_key(key, where)
    for key in ("encoder", "method", "data"):
        if key not in content:
            raise SpecError(
                f"{where}: a training recipe needs '{key}', a spec; a recipe to measure goes to 'hardsight bench'"
            )
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return TrainingRecipe(**{"name": name, **made}).check(where)


def to_dict(recipe: TrainingRecipe) -> dict[str, Any]:
    """What `from_dict` turns into the recipe again, also after JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}


def differences(old: dict[str, Any], recipe: TrainingRecipe) -> list[str]:
    """What makes the recipe another run than the one with these fields, as "epochs (10, now 20)"."""
    new = to_dict(recipe)
    keys = [key for key in {**old, **new} if key not in FREE]
    return [f"{key} ({old.get(key)}, now {new.get(key)})" for key in keys if old.get(key) != new.get(key)]


def need_same(folder: Path, recipe: TrainingRecipe) -> None:
    """`StoreError` where the folder holds a run of another recipe, naming what differs."""
    path = folder / "recipe.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}; delete that folder, or begin in another one") from None
    if told := differences(before, recipe):
        raise StoreError(
            f"{folder} holds a run of another recipe: {'; '.join(told)}; begin a new run in another folder, or delete this one"
        )


def _need_key(key: str, where: str) -> None:
    known = [f.name for f in fields(TrainingRecipe)]
    if key in MOVED:
        raise SpecError(f"{where}: a training recipe has no '{key}'; write {MOVED[key]}")
    if key not in known:
        raise SpecError(f"{where}: a training recipe has no '{key}'{nearest(key, known) or '; it has ' + ', '.join(known)}")
