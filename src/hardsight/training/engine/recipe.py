"""A training recipe: everything that defines one run, as TOML; this module does not import torch.

Specs are text, as everywhere. The fields in `FREE`, which only control logging, saving and threads, may change when a run is
resumed; a change of any other field makes it a different run.
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
FREE = ("title", "threads", "workers", "save", "keep", "every", "log")
"""Fields that may differ when a run is resumed."""
MOVED = {
    "lr": "optimizer = 'adamw(lr=...)'",
    "weight_decay": "optimizer = 'adamw(weight_decay=...)'",
    "warmup": "schedule = 'warmup(cosine, share=...)'",
}
"""Keys of older recipes, and what to write now."""


@dataclass(frozen=True)
class TrainingRecipe:
    """What to train, on which data, and how.

    images: number of training images, None for all. batch: images per optimizer step, over all processes. accumulate: number
    of parts a batch is computed in, each with its own batch statistics and negatives. schedule: a factor on the optimizer's
    lr, per optimizer step. clip: maximum norm of all gradients together, 0 for none. ema: decay of the moving average of the
    weights, which is exported instead of the last weights (0.999), 0 for none. compile: the encoder, by torch.compile.
    sync_norm: batch statistics over all processes, on GPUs. watch: evaluation during training on held-out training images,
    "" for none. snapshots: the encoder is exported every this many epochs, 0 for never. save: minutes between checkpoints
    within an epoch, 0 for none; keep: how many checkpoints are kept. every: steps between log lines within an epoch, 0 for
    none. log: loggers in addition to the JSONL file; "auto" is TensorBoard where it is installed. threads: of the CPU, 0 for
    torch's default. workers: processes that decode pictures of unlike sizes, None for one a core and at most 8; 0 for none.
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
    workers: int | None = None
    title: str = ""

    def check(self, where: str = "") -> TrainingRecipe:
        """The recipe itself, checked field by field; `SpecError` says what is wrong, where, and what would be right."""
        prefix = f"{where}: " if where else ""
        check_name(self.name)
        for key, kind in KINDS.items():
            value = getattr(self, key)
            if not isinstance(value, str) or not (value or key == "watch"):
                raise SpecError(f"{prefix}a training recipe needs '{key}', a spec; {value!r} is not one")
            if value:
                complete(value, kind)
        for key, kind, least in LEAST:
            value = getattr(self, key)
            if key in ("images", "workers") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, kind | int) or not value >= least:
                what = "whole number" if kind is int else "number"
                raise SpecError(f"{prefix}{key} is {value!r}; it must be a {what} of at least {least}")
        if self.ema >= 1:
            raise SpecError(
                f"{prefix}ema is {self.ema:g}; it must be below 1: the share of the average that is kept at each step"
            )
        if self.batch % self.accumulate:
            raise SpecError(
                f"{prefix}a batch of {self.batch} cannot be divided into {self.accumulate} equal parts (accumulate)"
            )
        for key, known in (("precision", get_args(Precision)), ("parallel", get_args(Parallel))):
            if getattr(self, key) not in known:
                raise SpecError(f"{prefix}{key} is {getattr(self, key)!r}; it must be {' or '.join(known)}")
        for key in ("channels_last", "compile", "sync_norm"):
            if not isinstance(getattr(self, key), bool):
                raise SpecError(f"{prefix}{key} is {getattr(self, key)!r}; it must be true or false")
        if not all(isinstance(one, str) for one in self.log):
            raise SpecError(f"{prefix}log is {self.log!r}; it must be a list of names")
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
                raise SpecError(f"--set {path}: {first} is not a spec, so it has no '{rest}'")
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
    ("seed", int, 0), ("snapshots", int, 0), ("save", float, 0), ("keep", int, 1), ("every", int, 0), ("threads", int, 0), ("workers", int, 0),
)  # fmt: skip


def read_recipe(name: str) -> TrainingRecipe:
    """The training recipe in a TOML file, or the shipped recipe of that name."""
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
    """The recipe of a run's folder; `StoreError` where the folder holds no run."""
    path = folder / "recipe.json"
    if not path.exists():
        raise StoreError(f"{folder} holds no run: {path} does not exist; 'hardsight pretrain' creates it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    return from_dict(content, str(path), folder.name)


def from_dict(content: dict[str, Any], where: str, name: str = "run") -> TrainingRecipe:
    """The recipe with these fields; `SpecError` for an unknown field, with the closest known one."""
    if "encoders" in content and "method" not in content:
        raise SpecError(f"{where} is a recipe to measure, which goes to 'hardsight bench'; a training recipe has 'method'")
    for key in content:
        _need_key(key, where)
    for key in ("encoder", "method", "data"):
        if key not in content:
            raise SpecError(
                f"{where}: a training recipe needs '{key}', a spec; a recipe to measure goes to 'hardsight bench'"
            )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return TrainingRecipe(**{"name": name, **values}).check(where)


def to_dict(recipe: TrainingRecipe) -> dict[str, Any]:
    """The inverse of `from_dict`, ready for JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}


def differences(old: dict[str, Any], recipe: TrainingRecipe) -> list[str]:
    """The fields that make the recipe a different run from the one with the fields `old`, as "epochs (10, now 20)"."""
    new = to_dict(recipe)
    keys = [key for key in {**old, **new} if key not in FREE]
    return [f"{key} ({old.get(key)}, now {new.get(key)})" for key in keys if old.get(key) != new.get(key)]


def need_same(folder: Path, recipe: TrainingRecipe) -> None:
    """`StoreError` where the folder holds a run with a different recipe; it names what differs."""
    path = folder / "recipe.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}; delete that folder, or start in another one") from None
    if changed := differences(before, recipe):
        raise StoreError(
            f"{folder} holds a run of another recipe: {'; '.join(changed)}; start a new run in another folder, or delete this one"
        )


def _need_key(key: str, where: str) -> None:
    known = [f.name for f in fields(TrainingRecipe)]
    if key in MOVED:
        raise SpecError(f"{where}: a training recipe has no '{key}'; write {MOVED[key]}")
    if key not in known:
        raise SpecError(f"{where}: a training recipe has no '{key}'{nearest(key, known) or '; it has ' + ', '.join(known)}")
