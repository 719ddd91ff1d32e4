"""The results table: one row per encoder x task x data, one column per attack and eps.

Everything is computed from the stored per-image rows: the headline metric with its 95% interval, the worst case, the ratio to
the clean value on the same images, and the mean of the metric over eps. The result does not depend on the order of the cells.

The worst case in a ball is over everything measured in it, so also over the clean images and smaller balls of that norm: it is
never better than the clean value on the same images, and never better at a larger eps. Each attack's own number stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardsight.metrics import of
from hardsight.report.columns import CLEAN, MEAN, NATURAL, WORST, Column, Number, natural, plain
from hardsight.report.figured import as_json, columns_of, figures, from_json
from hardsight.report.kept import CellLike, Kept, kept
from hardsight.report.prepared import bare

TASKS = ("classify", "segment", "depth", "detect")
SETTINGS = ("probe", "split", "count", "chunk", "seed", "precision", "stamp", "preprocess")
"""Settings that cells must share, besides encoder, task and data, to be in the same row."""
FEW = 4
"""Up to this many corruptions are shown one by one; of more, only their mean."""
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """An encoder on a task and data set. names: the name of each column's attack ("task" is SegPGD for segment).

    relative: attacked / clean value on the same images. areas: by series, (mean of the metric over 0..eps, eps, its text).
    """

    encoder: str
    task: str
    data: str
    variant: str
    metric: str
    label: str
    unit: str
    better: str
    numbers: dict[Column, Number]
    names: dict[Column, str]
    relative: dict[Column, float]
    areas: dict[tuple[str, str, str], tuple[float, float, str]]

    @property
    def title(self) -> str:
        return f"{self.encoder} ({self.variant})" if self.variant else self.encoder

    @property
    def arrow(self) -> str:
        return "↑" if self.better == "higher" else "↓"


@dataclass(frozen=True)
class Record:
    """A cell and its position in the table."""

    cell: Kept
    row: int
    column: Column


@dataclass(frozen=True, eq=False)
class Table:
    """rows: sorted by task, data, encoder. columns: all. shown: the clean column and those at the main eps of each norm."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    shown: tuple[Column, ...]
    records: tuple[Record, ...]

    @functools.cached_property
    def records_of(self) -> dict[int, list[Record]]:
        """The records of each row, in order."""
        found: dict[int, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.row, []).append(record)
        return found

    def records_at(self, places: Iterable[int]) -> list[Record]:
        """The records of some rows, in order."""
        return [record for place in sorted(places) for record in self.records_of.get(place, ())]

    def groups(self) -> list[tuple[str, str, list[int]]]:
        """(task, data, indices of its rows), in order."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, row in enumerate(self.rows):
            found.setdefault((row.task, row.data), []).append(place)
        return [(task, data, places) for (task, data), places in found.items()]


def shown(value: float, unit: str) -> str:
    """A value as text without its unit: percent with one digit, metres and the rest with three."""
    if not np.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"


def grid(cells: Iterable[CellLike]) -> Table:
    """The table of some cells over all tasks; cells without a finished image are left out."""
    loaded = sorted((one for one in map(Kept, cells) if not one.empty), key=lambda one: one.id)
    names = {what: _names([one.what for one in loaded], what) for what in ("encoder", "task", "data")}
    groups: dict[tuple, list[Kept]] = {}
    for one in loaded:
        place = tuple(names[what][str(one.what[what])] for what in names)
        groups.setdefault((place, tuple(str(one.what.get(what, "")) for what in SETTINGS)), []).append(one)
    order = sorted(groups, key=lambda key: (_task_key(key[0][1]), natural(key[0][2]), natural(key[0][0]), key[1]))
    rows, records, variants = [], [], _variants(order)
    for place, key in enumerate(order):
        columns = columns_of([one.what for one in groups[key]])
        placed = sorted(zip(columns, groups[key], strict=True), key=lambda item: item[0].key())
        rows.append(_row(key[0], variants[key], placed))
        records += [Record(one, place, column) for column, one in placed]
    columns = sorted({column for row in rows for column in row.numbers}, key=Column.key)
    return Table(tuple(rows), tuple(columns), _shown(rows, columns), tuple(records))


def _row(place: tuple[str, ...], variant: str, placed: list[tuple[Column, Kept]]) -> Row:
    metric = of(placed[0][1].what["task_name"])
    found = kept([one for _, one in placed], lambda: as_json(*figures(metric, placed)))
    encoder, task, data = place
    key, label, unit, better = metric.headline, metric.label, metric.unit, metric.better
    return Row(encoder, task, data, variant, key, label, unit, better, *from_json(found))


def worst_at(row: Row, column: Column | None) -> Column | None:
    """The row's worst case in the ball of `column`, if it has one, else `column`."""
    found = None if column is None else Column(WORST, "", column.norm, column.eps, column.eps_text)
    return found if found in row.numbers else column


def _shown(rows: list[Row], columns: list[Column]) -> tuple[Column, ...]:
    """Clean, and for each norm the columns at the largest eps that all rows share (if none, at the largest of all).

    The worst case is shown only if some row has at least two attacks. Of more than `FEW` corruptions only the mean is shown.
    """
    kept = []
    for norm in sorted({column.norm for column in columns if column.attack != CLEAN}):
        per_row = [{c.eps for c in row.numbers if c.norm == norm and c.attack != CLEAN} for row in rows]
        per_row = [found for found in per_row if found]
        main = max(set.intersection(*per_row) or set.union(*per_row))
        at = [column for column in columns if column.norm == norm and column.eps == main]
        many = any(len(row.numbers[c].over) > 1 for row in rows for c in at if c.attack == WORST and c in row.numbers)
        if norm == NATURAL and len(at) > FEW + 1:
            at = [column for column in at if column.attack == MEAN]
        kept += [column for column in at if many or column.attack != WORST]
    return tuple(column for column in columns if column.attack == CLEAN or column in kept)


def _names(whats: list[dict[str, Any]], what: str) -> dict[str, str]:
    """Spec -> its displayed name: the short name, or the whole spec if two specs have the same short name."""
    specs = {str(w[what]): str(w.get(f"{what}_name") or w[what]) for w in whats}
    shared = [name for _, name in {(bare(spec), name) for spec, name in specs.items()}]
    return {spec: plain(name if shared.count(name) == 1 else bare(spec)) for spec, name in specs.items()}


def _variants(keys: list[tuple]) -> dict[tuple, str]:
    """By row: the settings in which it differs from other rows of the same encoder, task and data."""
    alike: dict[tuple, list[tuple]] = {}
    for key in keys:
        alike.setdefault(key[0], []).append(key[1])
    varied = {
        place: [len({one[at] for one in settings}) > 1 for at in range(len(SETTINGS))] for place, settings in alike.items()
    }
    return {
        key: ", ".join(
            f"{what} {plain(value)}" if what != "probe" else plain(value)
            for what, value, varies in zip(SETTINGS, key[1], varied[key[0]], strict=True)
            if varies
        )
        for key in keys
    }


def _task_key(task: str) -> tuple:
    base = task.split("(")[0]
    return (TASKS.index(base), natural(task)) if base in TASKS else (len(TASKS), natural(task))
