"""A study trains several arms with several seeds, measures them all alike, and tells what differs beyond the seeds' scatter.

A TOML file says it: `[measure]` is a recipe of `hardsight bench` without encoders; each `[arms.NAME]` is a training recipe by
name with `set = [...]`, or an `encoder` that is there already; `[[compare]]` names two arms, or three for a gap's closure.
Everything is kept in one folder, arm by arm and seed by seed, so the same command goes on where it stopped.
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
from hardsight.measure.plan import plan, stamp
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
"""Seconds between two notes of how long a training takes."""


@dataclass(frozen=True)
class Arm:
    """encoder: a spec, of an arm that trains nothing. after: the arm whose encoder, of the same seed, this one starts from."""

    name: str
    recipe: str = ""
    set: tuple[str, ...] = ()
    encoder: str = ""
    after: str = ""


@dataclass(frozen=True)
class Comparison:
    """of minus to; with gap, (of - to) / (gap - to): which share of the gap from `to` to `gap` is closed."""

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
"""By what is measured ("PGD 4/255 on classify, CIFAR-10"): its unit, and by arm a number a seed."""


def read_study(path: Path) -> Study:
    """The study of a TOML file; `SpecError` for what cannot be meant."""
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
            raise SpecError(f"{path}: a study needs [{key}]")
    arms: list[Arm] = []
    for name, said in content["arms"].items():
        arms.append(_arm(name, said, arms, f"{path}, arm '{name}'"))
    compare = []
    for said in content.get("compare", []):
        _fields(said, Comparison, ("of", "to"), f"{path}, a comparison")
        compare.append(Comparison(**said))
        for arm in filter(None, (compare[-1].of, compare[-1].to, compare[-1].gap)):
            if arm not in content["arms"]:
                raise SpecError(f"{path}: there is no arm '{arm}'{nearest(arm, list(content['arms']))}")
    for key in ("encoders", "seed"):
        if key in content["measure"]:
            raise SpecError(f"{path}, [measure]: '{key}' is the arms' own; it has no place here")
    measure = recipes.from_dict({**content["measure"], "encoders": ["tiny"]}, f"{path}, [measure]", path.stem).check()
    seeds = content.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise SpecError(f"{path}: seeds is {seeds!r}; it is how many, at least 1")
    study = Study(path.stem, content.get("title", path.stem), seeds, measure, tuple(arms), tuple(compare))
    for arm in arms:
        training_recipe(study, arm, 0, Path())  # a misspelt one is told before anything is trained
    return study


def _arm(name: str, said: Any, above: list[Arm], where: str) -> Arm:
    _fields(said, Arm, (), where)
    arm = Arm(name, **{**said, "set": tuple(said.get("set", ()))})
    if bool(arm.recipe) == bool(arm.encoder):
        raise SpecError(f"{where}: it has either a recipe to train by or an encoder that is there")
    if arm.encoder:
        complete(arm.encoder, "Encoder")
        if arm.set or arm.after:
            raise SpecError(f"{where}: an encoder that is there takes no '{'set' if arm.set else 'after'}'")
    if arm.after and arm.after not in [one.name for one in above]:
        raise SpecError(f"{where}: after = '{arm.after}' names no arm above it")
    if any(one.replace(" ", "").startswith("seed=") for one in arm.set):
        raise SpecError(f"{where}: the study gives each run its seed; 'seeds' says how many")
    for one in above:
        if _place(Path(), one.name, 0) == _place(Path(), name, 0):
            raise SpecError(f"{where}: its folder would be that of '{one.name}'; give it another name")
    return arm


def _fields(said: Any, kind: type, needed: tuple[str, ...], where: str) -> None:
    """`SpecError` unless `said` is a table of such texts as that dataclass takes; `set` is a list of them."""
    if not isinstance(said, dict):
        raise SpecError(f"{where}: {said!r} is no table of keys and values")
    _need(said, [f.name for f in fields(kind) if f.name != "name"], where)
    for key in needed:
        if key not in said:
            raise SpecError(f"{where}: it needs '{key}'")
    for key, value in said.items():
        texts = value if key == "set" else [value]
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise SpecError(f"{where}: {key} is {value!r}; it is {'a list of texts' if key == 'set' else 'a text'}")


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
    """What the arm trains by with that seed; None for one that trains nothing."""
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
    """The arm's encoder as a spec, trained where it is not yet, and the seconds of the processor that its training took."""
    recipe = training_recipe(study, arm, seed, folder)
    if recipe is None:
        return arm.encoder, None
    place = _place(folder, arm.name, seed)
    need_same(place, recipe)
    origin, start = place / "start.json", stamp(recipe.encoder, "Encoder")
    if origin.exists() and json.loads(origin.read_text()) != start:
        raise StoreError(
            f"{place} was trained from an encoder that has changed since; delete that folder, or give another --out"
        )
    if not (place / "encoder.safetensors").exists():
        write_json(origin, start)
        with _timed(place / "seconds.json"):
            train(recipe, place, pick_device(device), watch)
    return _run(place), json.loads((place / "seconds.json").read_text())


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Adds the processor's seconds to what the file says, as they go by: a run's pieces come together, a killed one's too."""
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
    """Figures by arms, mean over seeds and half of its 95% interval; then each comparison, paired by seed."""
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
            told = ["–" if one.gap and name == TRAINING else _difference(one, figure) for one in study.compare]
            lines.append(_line(_heading(name, figure), told))
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
    told = [_unsigned(f"{value:.0f}" if unit == "s" else shown(value, unit)) for value in (middle, half)]
    return (sign if middle > 0 else "") + told[0] + ("" if math.isnan(half) else f" ± {told[1]}")


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
            raise SpecError(f"{where}: there is no '{key}' here{nearest(key, known) or '; known: ' + ', '.join(known)}")
