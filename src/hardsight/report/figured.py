"""The figures of one row of the table, computed from the per-image rows of its cells, and their form as JSON."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np

from hardsight.metrics import counts_in
from hardsight.metrics.worst import SUITE, counts_for, members_of
from hardsight.report.columns import CLEAN, MEAN, NATURAL, TITLES, WORST, Column, Number, plain
from hardsight.report.kept import Kept, facts_of
from hardsight.report.over import counts_of, extended, index, mean, worst
from hardsight.specs.syntax import read

LEAST_EPS = 3
"""Minimal number of eps > 0 for an area under the curve."""

Figures = tuple[
    dict[Column, Number], dict[Column, str], dict[Column, float], dict[tuple[str, str, str], tuple[float, float, str]]
]
"""The numbers, names, relative and areas of a row."""


def as_json(numbers: dict, names: dict, relative: dict, areas: dict) -> dict[str, Any]:
    def line(column: Column) -> list[Any]:
        return [astuple(column), vars(numbers[column]), names[column], relative.get(column)]

    return {"columns": [line(column) for column in numbers], "areas": [[*key, *value] for key, value in areas.items()]}


def from_json(found: dict[str, Any]) -> Figures:
    numbers, names, relative, areas = {}, {}, {}, {}
    for fields, number, name, share in found["columns"]:
        column, metrics = Column(*fields), {key: tuple(value) for key, value in number["metrics"].items()}
        numbers[column] = Number(**{**number, "over": tuple(number["over"]), "metrics": metrics})
        names[column] = name
        if share is not None:
            relative[column] = share
    for *series, area, eps, text in found["areas"]:
        areas[tuple(series)] = (area, eps, text)
    return numbers, names, relative, areas


def figures(metric: Any, placed: list[tuple[Column, Kept]]) -> Figures:
    """What a row shows, computed from the rows of its cells."""
    numbers, names, counts, parts = {}, {}, {}, {}
    for column, cell in placed:
        rows = cell.rows()
        cell.facts = facts_of(rows)
        counts[column] = {"id": rows["id"], "error": rows["error"], **counts_of(rows)}
        suite = members_of(rows) if metric.figures is None else {}
        parts[column] = [counts[column] | member for name, member in suite.items() if name != SUITE]
        asked = int(cell.what.get("count", len(rows["id"])))
        own = counts_in(rows)
        of_figures = {key: counts_for(rows, metric, key) if suite else own for key in metric.labels}
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
    for column, members, complete in _levels([column for column, _ in placed]):
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
    for column, members in _natural([column for column, _ in placed]):
        n, figures = mean(metric, [counts[member] for member in members])
        if n:
            numbers[column] = Number(*figures[metric.headline], n, metrics=figures, **joined(members))
            names[column] = TITLES[MEAN]
            if all(member in relative for member in members):
                relative[column] = float(np.mean([relative[member] for member in members]))
    return numbers, names, relative, _areas(numbers)


def _number(metric: Any, counts: dict[str, Any], n: int, asked: int, partial: bool, cell: str, over: tuple = ()) -> Number:
    """Every figure with its interval, each from its own counts: those of a worst case differ between figures."""
    values, sets = {}, {id(own): own for own in counts.values()}
    for own in sets.values():
        found = metric.summary(own)
        keys = [key for key, mine in counts.items() if mine is own and key in found]
        ranges = metric.intervals(own, keys) if keys else {}
        values |= {key: (float(found[key]), float(ranges[key][0]), float(ranges[key][1])) for key in keys}
    values = {key: values[key] for key in counts if key in values}
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


def columns_of(whats: list[dict[str, Any]]) -> list[Column]:
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


def _natural(columns: list[Column]) -> list[tuple[Column, list[Column]]]:
    """(mean column, its members) if the row has at least two corruptions."""
    members = [column for column in columns if column.norm == NATURAL]
    return [(Column(MEAN, "", NATURAL, members[0].eps, members[0].eps_text), members)] if len(members) > 1 else []
