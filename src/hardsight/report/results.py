"""The results table: one row per encoder x task x data, one column per attack and eps.

Everything is computed from the stored per-image rows: the headline metric with its 95% interval, the worst case, the ratio to
the clean value on the same images, and the mean of the metric over eps. The result does not depend on the order of the cells.

The worst case in a ball is over everything measured in it, so also over the clean images and smaller balls of that norm: it is
never better than the clean value on the same images, and never better at a larger eps. Each attack's own number stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hardsight.metrics import of
from hardsight.metrics.worst import SUITE, counts_for, members_of
from hardsight.report.over import counts_of, extended, index, mean, worst
from hardsight.report.prepared import bare
from hardsight.specs.syntax import read

CLEAN, EMBED, TASK, MEAN, WORST = "clean", "embed", "task", "mean", "worst"
TITLES = {CLEAN: "clean", EMBED: "EmbedAttack", TASK: "task attack", MEAN: "mean corruption", WORST: "worst case"}
RANKS = {CLEAN: 0, EMBED: 1, TASK: 2, MEAN: 4, WORST: 4}
TASKS = ("classify", "segment", "depth", "detect")
SETTINGS = ("probe", "split", "count", "chunk", "seed", "precision", "stamp", "preprocess")
"""Settings that cells must share, besides encoder, task and data, to be in the same row."""
NATURAL = "natural"
"""Used instead of a norm for common corruptions, which are not adversarial."""
FEW = 4
"""Up to this many corruptions are shown one by one; of more, only their mean."""
LEAST_EPS = 3
"""Minimal number of eps > 0 for an area under the curve."""
NOTHING = "–"


class CellLike(Protocol):
    """The part of a store's cell that a report needs."""

    @property
    def id(self) -> str: ...

    @property
    def what(self) -> dict[str, Any]: ...

    @property
    def done(self) -> dict[str, Any] | None: ...

    def rows(self) -> dict[str, np.ndarray]: ...

    def gallery(self) -> dict[str, np.ndarray] | None: ...


@dataclass(frozen=True)
class Column:
    """attack: "clean", "embed", "task", "mean", "worst", or another attack's name; variant: its spec if a row has two."""

    attack: str
    variant: str = ""
    norm: str = ""
    eps: float = 0.0
    eps_text: str = field(default="0", compare=False)

    @property
    def title(self) -> str:
        return TITLES.get(self.attack, self.attack) + (f" {self.variant}" if self.variant else "")

    @property
    def series(self) -> tuple[str, str, str]:
        """The key of a curve over eps: attack, variant and norm."""
        return self.attack, self.variant, self.norm

    def key(self) -> tuple:
        """The sort key of columns."""
        adversary = self.norm != NATURAL
        return (
            self.attack != CLEAN,
            adversary,
            self.norm,
            self.eps,
            RANKS.get(self.attack, 3),
            natural(self.attack),
            self.variant,
        )


@dataclass(frozen=True)
class Number:
    """One metric of one cell, or of the worst case or the mean over several. metrics: every metric's (value, low, high)."""

    value: float
    low: float
    high: float
    n: int
    asked: int
    partial: bool
    cell: str
    over: tuple[str, ...] = ()
    metrics: dict[str, tuple[float, float, float]] = field(default_factory=dict)


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

    cell: CellLike
    row: int
    column: Column


@dataclass(frozen=True)
class Table:
    """rows: sorted by task, data, encoder. columns: all. shown: the clean column and those at the main eps of each norm."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    shown: tuple[Column, ...]
    records: tuple[Record, ...]

    def groups(self) -> list[tuple[str, str, list[int]]]:
        """(task, data, indices of its rows), in order."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, row in enumerate(self.rows):
            found.setdefault((row.task, row.data), []).append(place)
        return [(task, data, places) for (task, data), places in found.items()]


def natural(text: str) -> tuple:
    """A sort key that puts "vit2" before "vit10"; texts that differ only in case are sorted by the text itself."""
    parts = re.split(r"(\d+)", text.casefold())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts), text


def plain(text: object) -> str:
    """A name without control characters, which could control a terminal and are not allowed in SVG."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def shown(value: float, unit: str) -> str:
    """A value as text without its unit: percent with one digit, metres and the rest with three."""
    if not np.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3f}"


def grid(cells: Iterable[CellLike]) -> Table:
    """The table of some cells over all tasks; cells without a finished image are left out."""
    read = [(cell, cell.rows()) for cell in cells]
    loaded = sorted(((cell, rows) for cell, rows in read if len(rows.get("id", ()))), key=lambda pair: pair[0].id)
    names = {what: _names([cell.what for cell, _ in loaded], what) for what in ("encoder", "task", "data")}
    groups: dict[tuple, list[tuple[CellLike, dict[str, np.ndarray]]]] = {}
    for cell, rows in loaded:
        place = tuple(names[what][str(cell.what[what])] for what in names)
        groups.setdefault((place, tuple(str(cell.what.get(what, "")) for what in SETTINGS)), []).append((cell, rows))
    order = sorted(groups, key=lambda key: (_task_key(key[0][1]), natural(key[0][2]), natural(key[0][0]), key[1]))
    rows, records = [], []
    for place, key in enumerate(order):
        row, placed = _row(key[0], _variant(key, order), groups[key])
        rows.append(row)
        records += [Record(cell, place, column) for cell, column in placed]
    columns = sorted({column for row in rows for column in row.numbers}, key=Column.key)
    return Table(tuple(rows), tuple(columns), _shown(rows, columns), tuple(records))


def _row(place: tuple[str, ...], variant: str, pairs: list) -> tuple[Row, list[tuple[CellLike, Column]]]:
    metric = of(pairs[0][0].what["task_name"])
    columns = _columns([cell.what for cell, _ in pairs])
    ordered = sorted(zip(columns, pairs, strict=True), key=lambda item: item[0].key())
    numbers, names, counts, parts = {}, {}, {}, {}
    for column, (cell, rows) in ordered:
        counts[column] = {"id": rows["id"], "error": rows["error"], **counts_of(rows)}
        suite = members_of(rows) if metric.figures is None else {}
        parts[column] = [counts[column] | member for name, member in suite.items() if name != SUITE]
        asked = int(cell.what.get("count", len(rows["id"])))
        of_figures = {key: counts_for(rows, metric, key) for key in metric.labels}
        numbers[column] = _number(metric, of_figures, len(rows["id"]), asked, cell.done is None, cell.id)
        names[column] = plain(cell.what.get("attack_name") or column.title)

    def joined(members: list[Column]) -> dict[str, Any]:
        held = [numbers[member] for member in members]
        return {
            "asked": held[0].asked,
            "partial": any(number.partial for number in held),
            "cell": "+".join(number.cell for number in held),
            "over": tuple(names[member] for member in members),
        }

    clean, weaker = next((counts[column] for column in counts if column.attack == CLEAN), None), {}
    for column, members, complete in _levels([column for column, _ in ordered]):
        pool, found = [], {}
        for (
            member
        ) in members:  # an image that a finished cell leaves out is not attacked by it: it stays as it is when clean
            calm = None if numbers[member].partial else clean
            pool += [part if calm is None else extended(part, calm) for part in (counts[member], *parts[member])]
        for key in metric.labels:
            before = weaker.get((column.norm, key), clean)
            if chosen := worst(metric, pool, key, before):
                found[key] = chosen
                weaker[column.norm, key] = chosen if before is None else extended(chosen, before)
        if complete and found:
            counts[column], names[column] = found[metric.headline], TITLES[WORST]
            of_figures = {key: counts_of(chosen, "") for key, chosen in found.items()}
            numbers[column] = _number(metric, of_figures, len(counts[column]["id"]), **joined(members))
    relative = _relative(metric, counts)
    for column, members in _natural([column for column, _ in ordered]):
        n, figures = mean(metric, [counts[member] for member in members])
        if n:
            numbers[column] = Number(*figures[metric.headline], n, metrics=figures, **joined(members))
            names[column] = TITLES[MEAN]
            if all(member in relative for member in members):
                relative[column] = float(np.mean([relative[member] for member in members]))
    encoder, task, data = place
    key, label, unit, better = metric.headline, metric.label, metric.unit, metric.better
    areas = _areas(numbers)
    row = Row(encoder, task, data, variant, key, label, unit, better, numbers, names, relative, areas)
    return row, [(cell, column) for column, (cell, _) in ordered]


def _number(metric: Any, counts: dict[str, Any], n: int, asked: int, partial: bool, cell: str, over: tuple = ()) -> Number:
    """Every figure with its interval, each from its own counts: those of a worst case differ between figures."""
    values = {}
    for key, own in counts.items():
        found = metric.summary(own)
        if key in found:
            low, high = metric.interval(own, key)
            values[key] = (float(found[key]), float(low), float(high))
    value, low, high = values[metric.headline]
    return Number(value, low, high, n, asked, partial, cell, over, values)


def _relative(metric: Any, counts: dict[Column, dict[str, np.ndarray]]) -> dict[Column, float]:
    """Attacked / clean value, over the images that both cells have."""
    clean = next((rows for column, rows in counts.items() if column.attack == CLEAN), None)
    if clean is None:
        return {}
    at, found = index(clean["id"]), {}
    for column, rows in counts.items():
        both = np.array([name in at for name in rows["id"]], dtype=bool)
        if column.attack == CLEAN or not both.any():
            continue
        pick = np.array([at[name] for name in rows["id"][both]])
        before = metric.summary({k: v[pick] for k, v in counts_of(clean, "").items()})[metric.headline]
        after = metric.summary({k: v[both] for k, v in counts_of(rows, "").items()})[metric.headline]
        if before > 0 and np.isfinite(after):
            found[column] = float(after / before)
    return found


def _areas(numbers: dict[Column, Number]) -> dict[tuple[str, str, str], tuple[float, float, str]]:
    """The mean of the metric from eps 0 (clean) to the series' largest eps, by the trapezoid rule; finished cells only."""
    clean = next((number for column, number in numbers.items() if column.attack == CLEAN), None)
    found: dict[tuple[str, str, str], tuple[float, float, str]] = {}
    for series in dict.fromkeys(column.series for column in numbers if column.attack != CLEAN):
        line = sorted((column for column in numbers if column.series == series), key=lambda column: column.eps)
        points = [numbers[column] for column in line]
        if clean is None or len(line) < LEAST_EPS or any(p.partial or p.n != clean.n for p in (clean, *points)):
            continue
        x = np.array([0.0, *(column.eps for column in line)])
        y = np.array([clean.value, *(point.value for point in points)])
        area = float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / x[-1])
        found[series] = (area, line[-1].eps, line[-1].eps_text)
    return found


def _columns(whats: list[dict[str, Any]]) -> list[Column]:
    """Each cell's column; if two cells of a row have the same column, the attack's spec distinguishes them."""
    firsts = []
    for what in whats:
        attack = plain(what.get("column") or what["attack_name"])
        if attack == CLEAN:
            firsts.append(Column(CLEAN))
        else:
            norm = NATURAL if read(what["attack"]).name == "corrupt" else plain(what["norm"])
            firsts.append(Column(attack, "", norm, round(float(what["eps"]), 9), plain(what["eps_text"])))
    twice = {column for column in firsts if firsts.count(column) > 1}
    return [
        Column(c.attack, plain(what["attack"]), c.norm, c.eps, c.eps_text) if c in twice else c
        for c, what in zip(firsts, whats, strict=True)
    ]


def _levels(columns: list[Column]) -> list[tuple[Column, list[Column], bool]]:
    """(worst column, its members, whether they are all attacks of the row under that norm), by norm, then by rising eps."""
    attacks = [column for column in columns if column.attack != CLEAN and column.norm != NATURAL]
    found = []
    for norm in sorted({column.norm for column in attacks}):
        every = {column.series for column in attacks if column.norm == norm}
        for eps in sorted({column.eps for column in attacks if column.norm == norm}):
            members = [column for column in attacks if column.norm == norm and column.eps == eps]
            whole = {column.series for column in members} == every
            found.append((Column(WORST, "", norm, eps, members[0].eps_text), members, whole))
    return found


def worst_at(row: Row, column: Column | None) -> Column | None:
    """The row's worst case in the ball of `column`, if it has one, else `column`."""
    found = None if column is None else Column(WORST, "", column.norm, column.eps, column.eps_text)
    return found if found in row.numbers else column


def _natural(columns: list[Column]) -> list[tuple[Column, list[Column]]]:
    """(mean column, its members) if the row has at least two corruptions."""
    members = [column for column in columns if column.norm == NATURAL]
    return [(Column(MEAN, "", NATURAL, members[0].eps, members[0].eps_text), members)] if len(members) > 1 else []


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


def _variant(key: tuple, keys: list[tuple]) -> str:
    """The settings in which this row differs from other rows of the same encoder, task and data."""
    settings = [other[1] for other in keys if other[0] == key[0]]
    parts = [
        f"{what} {plain(value)}" if what != "probe" else plain(value)
        for place, (what, value) in enumerate(zip(SETTINGS, key[1], strict=True))
        if len({other[place] for other in settings}) > 1
    ]
    return ", ".join(parts)


def _task_key(task: str) -> tuple:
    base = task.split("(")[0]
    return (TASKS.index(base), natural(task)) if base in TASKS else (len(TASKS), natural(task))
