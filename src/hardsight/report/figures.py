"""Charts as inline SVG without a plotting library: bars of every shown number, and curves of a metric over eps.

Colours are CSS classes, so that they follow the page's light and dark themes. Encoders differ by colour and marker, attacks
by dash pattern, so that charts are readable without colour. Every text is escaped, since names come from users and data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from hardsight.report.results import CLEAN, WORST, Column, Row, Table, natural, shown
from hardsight.report.table import attacks_of, heading

COLOURS = 8
"""Number of CSS colour classes c0 .. c7; further encoders reuse them, with another marker."""
DASHES = {"embed": "6 4", "task": "", WORST: "1.5 4"}
OTHER_DASHES = ("10 3 2 3", "3 3", "12 4")
WIDTH, HEIGHT = 360, 280
LEFT, RIGHT, TOP, BOTTOM = 40, 20, 14, 44
LETTER = 6.7
"""Approximate width of a letter in a chart."""
LEAST_EPS = 2
"""Minimal number of eps > 0 for a curve: a line through the clean value and one point would suggest too much."""


@dataclass(frozen=True)
class Figure:
    """One chart. places: indices of its rows in the table, for the filters of the page."""

    title: str
    task: str
    note: str
    svg: Markup
    places: tuple[int, ...]


def tag(name: str, *inner: object, **attributes: object) -> Markup:
    """An SVG element with everything escaped; `class_` becomes class, `stroke_width` stroke-width."""
    pairs = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(f"{value:.5g}" if isinstance(value, float) else value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup(f"<{name}{''.join(pairs)}>{''.join(escape(part) for part in inner)}</{name}>")


def palette(table: Table) -> dict[str, int]:
    """Row title -> its colour number, the same in every chart and gallery of a page."""
    return {title: place for place, title in enumerate(sorted({row.title for row in table.rows}, key=natural))}


def nice(top: float, steps: int = 5) -> list[float]:
    """Ticks from 0 to at least `top`, with steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not np.isfinite(top) or top <= 0:
        top = 1.0
    raw = top / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [step * k for k in range(math.ceil(top / step - 1e-9) + 1)]


def _top(rows: list[Row], columns: list[Column]) -> float:
    values = [v for row in rows for c in columns if c in row.numbers for v in (row.numbers[c].value, row.numbers[c].high)]
    return (
        max((value for value in values if np.isfinite(value)), default=0.0) or 1.0
    )  # a detector that finds nothing has 0 all over


def marker(place: int, x: float, y: float, size: float = 4.0) -> Markup:
    """A circle, square, triangle or diamond in the colour of encoder `place`."""
    shape, css = place % 4, f"mark c{place % COLOURS}"
    if shape == 0:
        return tag("circle", cx=x, cy=y, r=size, class_=css)
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.15), (1.1, 0.9), (-1.1, 0.9)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    }[shape]
    return tag("path", d="M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners) + "Z", class_=css)


def curves(table: Table) -> list[Figure]:
    """One chart per task, data set and norm: the metric over eps, one line per encoder and attack, with 95% bands."""
    figures = []
    for task, data, places in table.groups():
        rows = [table.rows[place] for place in places]
        for norm in sorted({c.norm for row in rows for c in row.numbers if c.attack != CLEAN}):
            columns = sorted(
                {c for row in rows for c in row.numbers if c.norm == norm and c.attack != CLEAN}, key=Column.key
            )
            many = any(
                len(row.numbers[c].over) > 1 for row in rows for c in columns if c.attack == WORST and c in row.numbers
            )
            columns = [column for column in columns if many or column.attack != WORST]
            if len({column.eps for column in columns}) >= LEAST_EPS:
                figures.append(_curves(table, task, data, norm, places, columns))
    return figures


def _curves(table: Table, task: str, data: str, norm: str, places: list[int], columns: list[Column]) -> Figure:
    rows, colours = [table.rows[place] for place in places], palette(table)
    clean = [column for row in rows for column in row.numbers if column.attack == CLEAN]
    ticks = nice(_top(rows, [*dict.fromkeys(clean), *columns]))
    widest = max(column.eps for column in columns)

    def at(eps: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * eps / widest
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]

    parts: list[Markup] = [_axis(rows[0], ticks, at(0, 0)[0], at)]
    places_x = {0.0: "0"} | {column.eps: column.eps_text for column in columns}
    for eps, text in _apart(places_x, lambda eps: at(eps, 0)[0]):
        x, bottom = at(eps, 0)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", text, x=x, y=bottom + 17, text_anchor="middle"))
    parts.append(
        tag("text", f"{norm} eps", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6.0, text_anchor="middle", class_="quiet")
    )
    series = list(dict.fromkeys(column.series for column in columns))
    dashes = _dashes(series)
    bands, lines = [], []
    for row in rows:
        place = colours[row.title]
        for one in series:
            line = [column for column in row.numbers if column.attack == CLEAN]
            line += sorted((column for column in row.numbers if column.series == one), key=lambda column: column.eps)
            line = [column for column in line if np.isfinite(row.numbers[column].value)]
            if len(line) < 2:
                continue
            points = [at(column.eps, row.numbers[column].value) for column in line]
            over = [at(column.eps, row.numbers[column].high) for column in line]
            under = [at(column.eps, row.numbers[column].low) for column in line]
            css = f"c{place % COLOURS}"
            if all(math.isfinite(y) for _, y in over + under):
                bands.append(tag("path", d=_path(over + under[::-1]) + "Z", class_=f"band {css}", data_encoder=place))
            label = f"{row.title}, {Column(*one).title}: " + ", ".join(
                f"{shown(row.numbers[column].value, row.unit)} at {column.eps_text}" for column in line
            )
            curve = tag(
                "path", tag("title", label), d=_path(points), class_=f"line {css}", stroke_dasharray=dashes[one] or None
            )
            lines.append(tag("g", curve, *(marker(place, x, y) for x, y in points), data_encoder=place))
    title = f"{task} on {data}: {rows[0].label}, {norm}"
    legend, height = _legend(rows, colours, series, dashes)
    svg = tag(
        "svg",
        tag("title", title),
        *parts,
        *bands,
        *lines,
        legend,
        viewBox=f"0 0 {WIDTH} {HEIGHT + height}",
        role="img",
        class_="chart",
        xmlns="http://www.w3.org/2000/svg",
    )
    note = f"{rows[0].label} ({rows[0].unit}), {'higher' if rows[0].better == 'higher' else 'lower'} is better"
    attacks = attacks_of(table, places)
    return Figure(title, task, note + (f"; {attacks}" if attacks else ""), svg, tuple(places))


def _axis(row: Row, ticks: list[float], left: float, at) -> Markup:
    out = Markup()
    for tick in ticks:
        y = at(0, tick)[1]
        out += tag("line", x1=left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="axis" if tick == 0 else "rule")
        out += tag("text", _tick(tick, ticks, row.unit), x=left - 8, y=y + 4, text_anchor="end")
    return out


def _tick(tick: float, ticks: list[float], unit: str) -> str:
    scale = 100 if unit == "%" else 1
    step = (ticks[1] - ticks[0]) * scale
    power = math.floor(math.log10(step) + 1e-9)
    quarters = abs(step / 10.0**power - 2.5) < 1e-6
    return f"{tick * scale:.{max(0, quarters - power)}f}"


def _apart(texts: dict[float, str], where, least: float = 34.0) -> list[tuple[float, str]]:
    """The ticks, chosen from the right, that have enough space between them."""
    kept: list[tuple[float, str]] = []
    for eps in sorted(texts, reverse=True):
        if not kept or where(kept[-1][0]) - where(eps) >= least * max(1, len(texts[eps]) / 6):
            kept.append((eps, texts[eps]))
    return kept


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _dashes(series: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    found, others = {}, 0
    for one in series:
        if one[0] in DASHES and not one[1]:
            found[one] = DASHES[one[0]]
        else:
            found[one] = OTHER_DASHES[others % len(OTHER_DASHES)]
            others += 1
    return found


def _legend(rows: list[Row], colours: dict[str, int], series: list, dashes: dict) -> tuple[Markup, float]:
    out, y = Markup(), HEIGHT + 16.0
    entries = [(row.title, colours[row.title], None) for row in rows]
    entries += [(Column(*one).title, None, dashes[one]) for one in series]
    x = 8.0
    for text, place, dash in entries:
        first_dash = dash is not None and text == Column(*series[0]).title
        text = _short(text, 44)
        wide = 34 + LETTER * len(text) + 12
        if x > 8 and (x + wide > WIDTH or first_dash):
            x, y = 8.0, y + 20
        if place is None:
            out += tag("line", x1=x, x2=x + 26, y1=y - 4, y2=y - 4, class_="line ink", stroke_dasharray=dash or None)
        else:
            out += tag("line", x1=x, x2=x + 26, y1=y - 4, y2=y - 4, class_=f"line c{place % COLOURS}")
            out += marker(place, x + 13, y - 4)
        out += tag("text", text, x=x + 32, y=y)
        x += wide
    return out, y - HEIGHT + 10


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def bars(table: Table) -> list[Figure]:
    """One chart per task and data set: for each encoder one bar per shown column, with its interval as a whisker."""
    figures = []
    for task, data, places in table.groups():
        rows, colours = [table.rows[place] for place in places], palette(table)
        columns = [column for column in table.shown if any(column in row.numbers for row in rows)]
        names = min(170.0, 14 + LETTER * max(len(heading(table, column)) for column in columns)) if columns else 0.0
        scale = (WIDTH - names - 52) / _top(rows, columns)
        groups, y = [], 4.0
        for row in rows:
            parts, place = [], colours[row.title]
            y += 12
            parts += [marker(place, 5.0, y - 4), tag("text", _short(row.title, 44), x=14, y=y, class_="strong")]
            y += 7
            for column in columns:
                number = row.numbers.get(column)
                css = f"bar c{place % COLOURS} " + ("before" if column.attack == CLEAN else "after")
                parts.append(
                    tag("text", _short(heading(table, column), 24), x=names - 8, y=y + 9, text_anchor="end", class_="quiet")
                )
                if number is None or not math.isfinite(number.value):
                    parts.append(tag("text", "not run", x=names + 4, y=y + 9, class_="quiet"))
                else:
                    low, high = (
                        names + scale * (v if math.isfinite(v) else number.value) for v in (number.low, number.high)
                    )
                    value = shown(number.value, row.unit)
                    label = f"{row.title}, {heading(table, column)}: {value} {row.unit}, n = {number.n}"
                    ends = f"M{low:.1f} {y + 5.5:.1f}H{high:.1f}M{low:.1f} {y + 3:.1f}v5M{high:.1f} {y + 3:.1f}v5"
                    parts += [
                        tag(
                            "rect",
                            tag("title", label),
                            x=names,
                            y=y,
                            width=max(1.0, scale * number.value),
                            height=11.0,
                            class_=css,
                        ),
                        tag("path", d=ends, class_="whisker"),
                        tag("text", value + ("*" if number.partial else ""), x=high + 5, y=y + 9),
                    ]
                y += 15
            y += 6
            groups.append(tag("g", *parts, data_encoder=place))
        title = f"{task} on {data}: {rows[0].label} ({rows[0].unit}) {rows[0].arrow}"
        svg = tag(
            "svg",
            tag("title", title),
            *groups,
            viewBox=f"0 0 {WIDTH} {y:.0f}",
            role="img",
            class_="chart",
            xmlns="http://www.w3.org/2000/svg",
        )
        figures.append(Figure(title, task, attacks_of(table, places), svg, tuple(places)))
    return figures
