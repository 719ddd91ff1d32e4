"""Charts of a training run's snapshots: the metric over epochs, clean and under each attack (figure 2 of paper 002).

An encoder's epoch is in its spec, or, of the last one, in its card; under a protocol that measures snapshots, the encoder that is
of no run is the one before training, epoch 0.
"""

from __future__ import annotations

import math
import re

from hardsight.report.figures import Figure, marker, tag
from hardsight.report.plot import Plane, colour, drawing, legend, ticks_over
from hardsight.report.results import CLEAN, WORST, Column, Row, Table, plain, shown
from hardsight.report.table import heading
from hardsight.specs.catalog import complete

LEAST = 3
"""Fewer epochs than this have no chart."""


def epochs(table: Table) -> list[Figure]:
    """One chart for each task, data set, training run, norm and eps with at least `LEAST` measured epochs."""
    figures = []
    for task, data, places in table.groups():
        for folder, at in _runs(table, places).items():
            columns = {column for place in at.values() for column in table.rows[place].numbers if column.attack != WORST}
            clean = [column for column in columns if column.attack == CLEAN]
            for norm, eps in sorted({(one.norm, one.eps) for one in columns if one.attack != CLEAN}):
                here = [one for one in columns if one.attack != CLEAN and (one.norm, one.eps) == (norm, eps)]
                if len(at) >= LEAST:
                    shown_here = [*clean, *sorted(here, key=Column.key)]
                    figures.append(_chart(table, f"{task} on {data}, {plain(folder)}", task, at, shown_here))
    return figures


def _runs(table: Table, places: list[int]) -> dict[str, dict[int, int]]:
    """Of each training run: epoch -> row."""
    found: dict[str, dict[int, int]] = {}
    before = None
    for record in table.records:
        if record.row not in places:
            continue
        what = record.cell.what
        call, noted = complete(what["encoder"], "Encoder"), _noted(what.get("encoder_card") or {})
        if call.name == "run":
            epoch = noted if call["epoch"] is None else call["epoch"]
            if epoch is not None and not call["best"]:
                found.setdefault(str(call["folder"]), {})[epoch] = record.row
        elif (what.get("protocol") or {}).get("snapshots"):
            before = record.row
    if before is not None and len(found) == 1:
        next(iter(found.values()))[0] = before
    return {folder: dict(sorted(at.items())) for folder, at in found.items()}


def _noted(card: dict) -> int | None:
    found = re.search(r", epoch (\d+);", str(card.get("note") or ""))
    return int(found[1]) if found else None


def _chart(table: Table, title: str, task: str, at: dict[int, int], columns: list[Column]) -> Figure:
    rows = {epoch: table.rows[place] for epoch, place in at.items()}
    one: Row = next(iter(rows.values()))
    scale = 100 if one.unit == "%" else 1
    values = [row.numbers[column] for row in rows.values() for column in columns if column in row.numbers]
    top = max((scale * v for number in values for v in (number.value, number.high) if math.isfinite(v)), default=1.0)
    x, y = [tick for tick in ticks_over(0, max(rows)) if tick == round(tick)], ticks_over(0, top)
    plane = Plane((0, max(*rows, x[-1])), (y[0], y[-1]), height=240.0)
    parts, names = [plane.axes("epochs", "", x, y, [f"{tick:.0f}" for tick in x])], []
    for place, column in enumerate(columns):
        points = [(float(epoch), row.numbers[column]) for epoch, row in rows.items() if column in row.numbers]
        points = [(epoch, number) for epoch, number in points if math.isfinite(number.value)]
        label = ", ".join(f"{shown(number.value, one.unit)} at {epoch:g}" for epoch, number in points)
        band = [(epoch, scale * number.high) for epoch, number in points]
        band += [(epoch, scale * number.low) for epoch, number in points[::-1]]
        curve = plane.path([(epoch, scale * number.value) for epoch, number in points], class_=f"line {colour(place)}")
        marks = [marker(place, *plane.at(epoch, scale * number.value), size=3.5) for epoch, number in points]
        parts += [plane.path(band, class_=f"band {colour(place)}"), tag("g", tag("title", label), curve, *marks)]
        names.append((heading(table, column), "", place))
    key, more = legend(names, plane.height, plane.width)
    svg = drawing(title, plane.width, plane.height + more, *parts, key)
    better = "higher" if one.better == "higher" else "lower"
    return Figure(title, task, f"{one.label} ({one.unit}), {better} is better", svg, tuple(at.values()))
