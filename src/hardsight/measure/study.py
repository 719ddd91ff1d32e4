"""Runs a study (`specs/study`): trains its arms with several seeds, measures them alike, and collects one number a seed.

Everything is stored in one folder, per arm and seed, so that the same command resumes an interrupted study. Arms with the
same training share one encoder. What is read from the figures is in `report/study`.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hardsight.core.errors import SpecError, StoreError
from hardsight.core.machine import pick_device
from hardsight.core.progress import Watch
from hardsight.data import open_data
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench
from hardsight.measure.engines.base import Call, Engine, marked, results
from hardsight.measure.geometry import geometry_of
from hardsight.measure.plan import plan
from hardsight.measure.stamps import stamp
from hardsight.metrics.embeddings import FIGURES
from hardsight.report.nearest import nearest as minimal
from hardsight.report.results import CLEAN, WORST, Row, Table, grid
from hardsight.report.study import TRAINING, Figures, note, write
from hardsight.report.study_reading import resolve
from hardsight.specs import recipe as recipes
from hardsight.specs.study import Arm, Measure, Study, folder_name, wrapped
from hardsight.store.cells import Store
from hardsight.store.files import write_json
from hardsight.training.engine.logs import last_epoch
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import TrainingRecipe, need_same, read_recipe

NOTED = 5.0
"""Seconds between two updates of the recorded times."""
MEASURED = ("accuracy", "accuracy_embed", "accuracy_task", "same_class")
"""Figures of the geometry that are not taken over: `[measure]` has them."""

DETECTION = {"detector_precision", "detector_recall"}
"""What training logs of the false negatives that it takes out, against the labels."""


def run(
    study: Study, folder: Path, device: str = "auto", watch: Watch | None = None, engine: Engine | None = None
) -> Figures:
    """Trains and measures what is missing in `folder`, seed by seed; writes its figures, tables and page there after each.

    engine: its workers do what is missing, all arms and seeds at a time; this process then only reads it.
    """
    watch = watch or Watch()
    check(study)
    figures: Figures = {}
    pace = Pace(study, watch)
    with _timed(folder / "time.json", time.monotonic):
        if engine:
            _on(engine, study, folder, device, watch)
        for seed in range(study.seeds):
            for arm in study.arms:
                with pace.of(arm, seed):
                    _arm(study, arm, seed, folder, device, watch, figures)
            _say_unresolved(study, figures, watch if seed == 0 else None)
            write(study, figures, folder, spent(folder))
    write(study, figures, folder, spent(folder))
    return figures


def _on(engine: Engine, study: Study, folder: Path, device: str, watch: Watch) -> None:
    """By the engine's workers: every training, those that start from another arm's encoder after that one's, then every arm and seed."""
    seeds, phases = range(study.seeds), dict[int, dict[str, Arm]]()
    for arm in study.arms:
        phases.setdefault(_depth(study, arm), {})[study.trained(arm).name] = study.trained(arm)
    units: list[tuple[str, Callable[..., None], list[tuple[Arm, int]]]] = []
    for _, arms in sorted(phases.items()):
        missing = [(arm, seed) for seed in seeds for arm in arms.values() if arm.recipe]
        missing = [one for one in missing if not (_place(folder, one[0].name, one[1]) / "encoder.safetensors").exists()]
        units.append(("trained", _train_there, missing))
    units.append(("measured", _measure_there, [(arm, seed) for seed in seeds for arm in study.arms]))
    mark = marked(folder)
    try:
        for done, function, asked in (unit for unit in units if unit[2]):
            engine.check()
            calls = [Call(function, (study, arm, seed, folder), device, mark) for arm, seed in asked]
            for count, (place, _) in enumerate(results(engine, calls, said=watch.note), 1):
                arm, seed = asked[place]
                watch.note(f"{study.name}: {count} of {len(asked)} runs {done} ('{arm.name}', seed {seed})")
    finally:
        mark.unlink(missing_ok=True)


def _depth(study: Study, arm: Arm) -> int:
    """How many trainings come before an arm's own."""
    first = study.trained(arm)
    return 1 + _depth(study, study.arm(first.after)) if first.after else 0


def _train_there(study: Study, arm: Arm, seed: int, folder: Path, device: str = "auto") -> None:
    _encoder(study, arm, seed, folder, device, Watch(quiet=True))


def _measure_there(study: Study, arm: Arm, seed: int, folder: Path, device: str = "auto") -> None:
    _arm(study, arm, seed, folder, device, Watch(quiet=True), {})


def spent(folder: Path) -> float:
    """Seconds that the study took so far, over all runs of the command."""
    path = folder / "time.json"
    return json.loads(path.read_text()) if path.exists() else 0.0


def check(study: Study) -> None:
    """Checks every training recipe and opens all data, so that what is wrong or missing is said before anything runs."""
    data = {text: None for one in study.measures for text in one.recipe.data}
    texts = [text for one in study.measures for text in (*one.recipe.tasks, *one.recipe.attacks, one.recipe.probe)]
    for arm in study.arms:
        for one in study.measures:
            _measuring(one, arm)
        if recipe := training_recipe(study, arm, 0, Path()):
            data[recipe.data] = None
            texts += [recipe.encoder, recipe.method]
        texts.append(arm.encoder)
    if study.geometry:
        data[study.geometry.data] = None
    for text in (*data, *texts):
        for name in re.findall(r"\$\{?(\w+)", text):
            if name not in os.environ:
                how = f": {study.command}" if name in study.command else ""
                raise SpecError(f"{study.name} needs the environment variable {name}, which is not set{how}")
    for text in data:
        open_data(text)


def training_recipe(study: Study, arm: Arm, seed: int, folder: Path) -> TrainingRecipe | None:
    """The training recipe of an arm and seed; None for an arm with an existing encoder."""
    if not arm.recipe:
        return None
    chosen = read_recipe(arm.recipe)
    for one in arm.set:
        chosen = chosen.with_set(one)
    if arm.after:
        first = study.trained(study.arm(arm.after))
        chosen = replace(chosen, encoder=first.encoder or _run(_place(folder, first.name, seed)))
    return replace(chosen, seed=seed, name=_place(folder, arm.name, seed).name).check(f"{study.name}, arm '{arm.name}'")


def _arm(study: Study, arm: Arm, seed: int, folder: Path, device: str, watch: Watch, figures: Figures) -> None:
    """Everything of one arm and seed, added to `figures`."""
    encoder, seconds = _encoder(study, study.trained(arm), seed, folder, device, watch)
    if seconds is not None:
        note(figures, TRAINING, "s", "lower", arm.name, seed, seconds)
        logged = last_epoch(_place(folder, study.trained(arm).name, seed))
        for key in sorted(DETECTION & logged.keys()):
            note(figures, f"{key.replace('_', ' ')}, last epoch", "%", "higher", arm.name, seed, logged[key])
    for one in study.measures:
        if one.arms and arm.name not in one.arms:
            continue
        asked = replace(_measuring(one, arm), encoders=(wrapped(one.wrap, encoder, seed),), seed=seed, name=study.name)
        cells = Bench(plan(asked), Store(folder / "store"), device, "stop", 0, watch).run()
        for name, unit, better, value, derived in _numbers(study, one, grid(cells)):
            note(figures, name, unit, better, arm.name, seed, value, derived)
    if study.geometry:
        for name, better, value in _geometry(study, arm, seed, encoder, folder, device, watch):
            note(figures, name, "", better, arm.name, seed, value)


def _measuring(one: Measure, arm: Arm) -> recipes.Recipe:
    recipe = one.recipe
    for assignment in arm.measure:
        recipe = recipe.with_set(assignment)
    return recipe.check()


def _numbers(study: Study, one: Measure, table: Table) -> Iterator[tuple[str, str, str, float, bool]]:
    """(name, unit, which way is better, value, derived) of every row and column of a table, and of what is derived from it."""
    prefix = f"{one.name}: " if one.name else ""
    single = len(one.recipe.tasks) * len(one.recipe.data) == 1
    sizes = minimal(table) if "minimal" in study.derive else []
    for place, row in enumerate(table.rows):
        where = "" if single else f" · {row.task}, {row.data}"
        for column, number in row.numbers.items():
            if column.attack == WORST and len(number.over) == 1:
                continue
            what = f"{prefix}{row.names[column]} {column.eps_text}".removesuffix(" 0")
            yield f"{what}{where}, {row.label}", row.unit, row.better, number.value, False
            if "relative" in study.derive and column.attack != CLEAN:
                unit = "%" if row.better == "higher" else "×"
                yield f"{what}{where}, relative", unit, row.better, row.relative.get(column, math.nan), True
        if "area" in study.derive:
            for name, value in _areas(row):
                yield f"{prefix}{name}{where}, area", row.unit, row.better, value, True
        largest: dict[str, Any] = {}
        for line in sizes:  # the largest ball finds a perturbation for the most images
            if line["place"] == place and line["column"].eps >= largest.get(line["attack"], line)["column"].eps:
                largest[line["attack"]] = line
        for name, line in largest.items():
            scale, unit = (255, "/255") if line["norm"].casefold() == "linf" else (1, "")
            yield f"{prefix}{name}{where}, minimal", unit, "higher", scale * line["median"], True


def _areas(row: Row) -> Iterator[tuple[str, float]]:
    """(attack and its largest radius, the mean of the metric from eps 0, where it is the clean one, to that radius)."""
    for (attack, variant, norm), (value, eps, text) in row.areas.items():
        column = next(c for c in row.numbers if c.series == (attack, variant, norm) and c.eps == eps)
        if attack == WORST and len(row.numbers[column].over) == 1:
            continue
        yield f"{row.names[column]} 0 to {text}", value


def _geometry(
    study: Study, arm: Arm, seed: int, encoder: str, folder: Path, device: str, watch: Watch
) -> Iterator[tuple[str, str, float]]:
    """(label, which way is better, value) of each statistic of the embeddings; kept in a file, with its settings."""
    assert study.geometry is not None
    first = study.trained(arm)
    path = folder / "geometry" / f"{_place(folder, first.name, seed).name}.json"
    settings = {**asdict(study.geometry), "stamp": stamp(encoder, "Encoder"), "seed": seed}
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("settings") != settings:
        how = {key: value for key, value in asdict(study.geometry).items() if key not in ("data", "threat")}
        with watch, watch.bar(f"geometry of {first.name}", study.geometry.count) as bar:
            net = load_encoder(encoder, pick_device(device))
            found = geometry_of(net, study.geometry.data, study.geometry.threat, seed=seed, tick=bar, **how)
        kept = {"settings": settings, "numbers": {key: one.value for key, one in found.numbers.items()}}
        write_json(path, kept)
    for key, value in kept["numbers"].items():
        if key not in MEASURED:
            yield FIGURES[key].label, FIGURES[key].better, value


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
        with _timed(place / "seconds.json", time.process_time):
            train(recipe, place, pick_device(device), watch)
    return _run(place), json.loads((place / "seconds.json").read_text())


class Pace:
    """Says after each arm and seed how much of the study is done, and from the times so far how long the rest takes."""

    def __init__(self, study: Study, watch: Watch) -> None:
        self.study, self.watch = study, watch
        self.left = [(arm.name, seed) for seed in range(study.seeds) for arm in study.arms]
        self.total = len(self.left)
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def of(self, arm: Arm, seed: int) -> Iterator[None]:
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        self.left.remove((arm.name, seed))
        if took > 1:  # not what was finished before
            self.seconds.setdefault(arm.name, []).append(took)
        if self.left and self.seconds:
            every = [one for times in self.seconds.values() for one in times]
            rest = sum(max(self.seconds.get(name, [sum(every) / len(every)])) for name, _ in self.left)
            done = f"{self.study.name}: {self.total - len(self.left)} of {self.total} runs ('{arm.name}', seed {seed})"
            self.watch.note(f"{done}, about {rest / 60:.0f} min left")


def _say_unresolved(study: Study, figures: Figures, watch: Watch | None) -> None:
    """Says after the first seed which figures the study names that do not exist, while it can still be changed."""
    for name in study.figures if watch else ():
        try:
            resolve(name, figures)
        except SpecError as error:
            assert watch is not None
            watch.note(f"{study.name}: {error}")


@contextmanager
def _timed(path: Path, clock: Callable[[], float]) -> Iterator[None]:
    """Adds the clock's seconds to the number in the file while the block runs, so that interrupted runs are summed up."""
    before = json.loads(path.read_text()) if path.exists() else 0.0
    started, over = clock(), threading.Event()
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        done = False
        while not done:
            done = over.wait(NOTED)
            write_json(path, round(before + clock() - started, 1))

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _place(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{folder_name(arm)}-{seed}"


def _run(place: Path) -> str:
    return f"run({str(place)!r})"
