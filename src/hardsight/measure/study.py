"""A study trains several arms with several seeds, measures them in the same way, and reports their differences over seeds.

It is defined by a TOML file: `[measure]` is a recipe of `hardsight bench` without encoders; each `[arms.NAME]` is a training
recipe by name with `set = [...]`, or an existing `encoder`; `[[compare]]` names two arms, or three for the share of a gap
that is closed. Everything is stored in one folder, per arm and seed, so that the same command resumes an interrupted study.
"""

from __future__ import annotations

import json
import math
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hardsight.core.errors import SpecError, StoreError, nearest
from hardsight.core.machine import pick_device
from hardsight.core.progress import Watch
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.measure.stamps import stamp
from hardsight.metrics.intervals import mean_over_runs
from hardsight.report.results import grid
from hardsight.report.table import shown
from hardsight.specs import recipe as recipes
from hardsight.specs.catalog import complete
from hardsight.store.cells import Store
from hardsight.store.files import write_bytes, write_json
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import TrainingRecipe, need_same, read_recipe

TRAINING = "training"
NOTED = 5.0
"""Seconds between two updates of the recorded training time."""


@dataclass(frozen=True)
class Arm:
    """encoder: the spec of an existing encoder, for an arm without training. after: the arm whose encoder is the start."""

    name: str
    recipe: str = ""
    set: tuple[str, ...] = ()
    encoder: str = ""
    after: str = ""


@dataclass(frozen=True)
class Comparison:
    """`of` minus `to`; with `gap`, (of - to) / (gap - to): the share of the gap from `to` to `gap` that is closed."""

    of: str
    to: str
    gap: str = ""


@dataclass(frozen=True)
class Study:
    name: str
    title: str
    seeds: int
    measure: recipes.Recipe
    arms: tuple[Arm, ...]
    compare: tuple[Comparison, ...] = ()


Figures = dict[str, dict[str, Any]]
"""By what is measured ("PGD 4/255 on classify, CIFAR-10"): its unit, and for each arm one number per seed."""


def read_study(path: Path) -> Study:
    """The study of a TOML file; `SpecError` if it is not valid."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    known = ["title", "seeds", "measure", "arms", "compare"]
    _need(content, known, str(path))
    for key in ("measure", "arms"):
        if not isinstance(content.get(key), dict) or not content[key]:
            raise SpecError(f"{path}: a study needs a table [{key}]")
    arms: list[Arm] = []
    for name, given in content["arms"].items():
        arms.append(_arm(name, given, arms, f"{path}, arm '{name}'"))
    compare = []
    for given in content.get("compare", []):
        _fields(given, Comparison, ("of", "to"), f"{path}, a comparison")
        compare.append(Comparison(**given))
        for arm in filter(None, (compare[-1].of, compare[-1].to, compare[-1].gap)):
            if arm not in content["arms"]:
                raise SpecError(f"{path}: there is no arm '{arm}'{nearest(arm, list(content['arms']))}")
    for key in ("encoders", "seed"):
        if key in content["measure"]:
            raise SpecError(f"{path}, [measure]: '{key}' is not allowed here, since the arms and 'seeds' set it")
    measure = recipes.from_dict({**content["measure"], "encoders": ["tiny"]}, f"{path}, [measure]", path.stem).check()
    seeds = content.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise SpecError(f"{path}: seeds is {seeds!r}; it is the number of seeds, at least 1")
    study = Study(path.stem, content.get("title", path.stem), seeds, measure, tuple(arms), tuple(compare))
    for arm in arms:
        training_recipe(study, arm, 0, Path())  # so that a wrong recipe is reported before anything is trained
    return study


def _arm(name: str, given: Any, above: list[Arm], where: str) -> Arm:
    _fields(given, Arm, (), where)
    arm = Arm(name, **{**given, "set": tuple(given.get("set", ()))})
    if bool(arm.recipe) == bool(arm.encoder):
        raise SpecError(f"{where}: an arm needs either a recipe to train with or an existing encoder, not both")
    if arm.encoder:
        complete(arm.encoder, "Encoder")
        if arm.set or arm.after:
            raise SpecError(f"{where}: an arm with an existing encoder takes no '{'set' if arm.set else 'after'}'")
    if arm.after and arm.after not in [one.name for one in above]:
        raise SpecError(f"{where}: after = '{arm.after}' is not an arm defined above it")
    if any(one.replace(" ", "").startswith("seed=") for one in arm.set):
        raise SpecError(f"{where}: the study sets the seed of each run; give their number as 'seeds'")
    for one in above:
        if _place(Path(), one.name, 0) == _place(Path(), name, 0):
            raise SpecError(f"{where}: it would have the same folder as '{one.name}'; give it another name")
    return arm


def _fields(given: Any, kind: type, needed: tuple[str, ...], where: str) -> None:
    """`SpecError` unless `given` is a table with fields of that dataclass; all are strings, `set` is a list of strings."""
    if not isinstance(given, dict):
        raise SpecError(f"{where}: {given!r} is not a table of keys and values")
    _need(given, [f.name for f in fields(kind) if f.name != "name"], where)
    for key in needed:
        if key not in given:
            raise SpecError(f"{where}: it needs '{key}'")
    for key, value in given.items():
        texts = value if key == "set" else [value]
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise SpecError(f"{where}: {key} is {value!r}; it must be {'a list of strings' if key == 'set' else 'a string'}")


def run(study: Study, folder: Path, device: str = "auto", watch: Watch | None = None) -> Figures:
    """Trains and measures what is missing in `folder`, seed by seed, and writes figures.json and table.md there."""
    watch = watch or Watch()
    figures: Figures = {}
    single = len(study.measure.tasks) * len(study.measure.data) == 1
    for seed in range(study.seeds):
        for arm in study.arms:
            encoder, seconds = _encoder(study, arm, seed, folder, device, watch)
            if seconds is not None:
                _note(figures, TRAINING, "s", "lower", arm.name, seconds)
            asked = replace(study.measure, encoders=(encoder,), seed=seed, name=study.name)
            cells = Bench(plan(asked), Store(folder / "store"), device, "stop", 0, watch).run()
            for row in grid(cells).rows:
                where = "" if single else f" · {row.task}, {row.data}"
                for column, number in row.numbers.items():
                    what = f"{row.names[column]} {column.eps_text}".removesuffix(" 0")
                    _note(figures, f"{what}{where}, {row.label}", row.unit, row.better, arm.name, number.value)
            write_json(folder / "figures.json", figures)
            write_bytes(folder / "table.md", markdown(study, figures).encode())
    return figures


def training_recipe(study: Study, arm: Arm, seed: int, folder: Path) -> TrainingRecipe | None:
    """The training recipe of an arm and seed; None for an arm with an existing encoder."""
    if not arm.recipe:
        return None
    chosen = read_recipe(arm.recipe)
    for one in arm.set:
        chosen = chosen.with_set(one)
    if arm.after:
        first = next(one for one in study.arms if one.name == arm.after)
        chosen = replace(chosen, encoder=first.encoder or _run(_place(folder, first.name, seed)))
    return replace(chosen, seed=seed, name=_place(folder, arm.name, seed).name).check(f"{study.name}, arm '{arm.name}'")


def _encoder(study: Study, arm: Arm, seed: int, folder: Path, device: str, watch: Watch) -> tuple[str, float | None]:
    """(spec, CPU seconds of training) of the arm's encoder, which is trained first if necessary; None: not trained here."""
    recipe = training_recipe(study, arm, seed, folder)
    if recipe is None:
        return arm.encoder, None
    place = _place(folder, arm.name, seed)
    need_same(place, recipe)
    origin, start = place / "start.json", stamp(recipe.encoder, "Encoder")
    if origin.exists() and json.loads(origin.read_text()) != start:
        raise StoreError(
            f"{place} was trained from an encoder that has changed since then; delete that folder, or give another --out"
        )
    if not (place / "encoder.safetensors").exists():
        write_json(origin, start)
        with _timed(place / "seconds.json"):
            train(recipe, place, pick_device(device), watch)
    return _run(place), json.loads((place / "seconds.json").read_text())


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Adds CPU seconds to the number in the file while the block runs, so that interrupted runs are summed up correctly."""
    before = json.loads(path.read_text()) if path.exists() else 0.0
    started, over = time.process_time(), threading.Event()
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        done = False
        while not done:
            done = over.wait(NOTED)
            write_json(path, round(before + time.process_time() - started, 1))

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _place(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{''.join(c if c.isalnum() or c in '.-_' else '-' for c in arm).strip('-')}-{seed}"


def _run(place: Path) -> str:
    return f"run({str(place)!r})"


def _note(figures: Figures, what: str, unit: str, better: str, arm: str, value: float) -> None:
    figures.setdefault(what, {"unit": unit, "better": better, "arms": {}})["arms"].setdefault(arm, []).append(value)


def markdown(study: Study, figures: Figures) -> str:
    """The figures of each arm, as mean over seeds ± half its 95% interval; then the comparisons, paired by seed."""
    lines = [
        f"{study.title}: mean over {study.seeds} seeds ± half of its 95% interval; n = {study.measure.count} images a seed",
        "",
        *_table([arm.name for arm in study.arms]),
    ]
    for name, figure in figures.items():
        found = [_mean(figure["arms"].get(arm.name, []), figure["unit"]) for arm in study.arms]
        lines.append(_line(_heading(name, figure), found))
    if study.compare:
        lines += ["", "Paired by seed:", "", *_table([_said(one) for one in study.compare])]
        for name, figure in figures.items():
            found = ["–" if one.gap and name == TRAINING else _difference(one, figure) for one in study.compare]
            lines.append(_line(_heading(name, figure), found))
    return "\n".join(lines) + "\n"


def _table(columns: list[str]) -> list[str]:
    return [_line("", columns), "|:--|" + "--:|" * len(columns)]


def _line(first: str, rest: list[str]) -> str:
    return "| " + " | ".join([first, *rest]) + " |"


def _said(one: Comparison) -> str:
    return f"{one.of} closes of the gap from {one.to} to {one.gap}" if one.gap else f"{one.of} − {one.to}"


def _heading(name: str, figure: dict[str, Any]) -> str:
    arrow = {"higher": "↑", "lower": "↓"}[figure["better"]]
    return f"{name} ({figure['unit']}) {arrow}" if figure["unit"] else f"{name} {arrow}"


def _mean(values: list[float], unit: str, sign: str = "") -> str:
    if not values:
        return "–"
    middle, half = mean_over_runs(values)
    mean, width = (_unsigned(f"{value:.0f}" if unit == "s" else shown(value, unit)) for value in (middle, half))
    return (sign if middle > 0 else "") + mean + ("" if math.isnan(half) else f" ± {width}")


def _difference(one: Comparison, figure: dict[str, Any]) -> str:
    arms = figure["arms"]
    columns = [arms.get(name) for name in (one.of, one.to, *([one.gap] if one.gap else []))]
    if any(values is None for values in columns) or len({len(values) for values in columns if values}) != 1:
        return "–"
    if not one.gap:
        return _mean([a - b for a, b in zip(*columns, strict=True)], figure["unit"], "+")  # type: ignore[arg-type]
    gaps = [(a - b, c - b) for a, b, c in zip(*columns, strict=True)]  # type: ignore[arg-type]
    below = sum(gap for _, gap in gaps)
    if not below:
        return "–"
    shares = sorted(closed / gap for closed, gap in gaps if gap)
    whole, least, greatest = (_unsigned(f"{n:.2f}") for n in (sum(one for one, _ in gaps) / below, shares[0], shares[-1]))
    return f"{whole} ({least} to {greatest} by seed)"


def _unsigned(number: str) -> str:
    """-0.0 as 0.0."""
    return number if number.strip("-0.") else number.removeprefix("-")


def _need(content: dict[str, Any], known: list[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise SpecError(f"{where}: unknown key '{key}'{nearest(key, known) or '; known: ' + ', '.join(known)}")
