"""The page of a study: first its reading, then a chart for each dose and correlation and for each figure, then all tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from hardsight.core.errors import SpecError
from hardsight.metrics.over_runs import mean
from hardsight.report.figures import LETTER, marker, tag
from hardsight.report.plot import Chart, Plane, colour, drawing, legend, ticks_over
from hardsight.report.study_reading import (
    OPEN,
    OPPOSITE,
    OUT,
    Figures,
    compared,
    correlated,
    dosed,
    heading,
    interval,
    means,
    readings,
    said,
    seeds_done,
    took,
)  # fmt: skip
from hardsight.specs.study import Study

MARKS = {OUT: ("pass", "✓"), OPPOSITE: ("fail", "✗"), OPEN: ("quiet", "○")}
LENGTH = 28
"""Letters of an arm's name in a chart."""


def html(study: Study, figures: Figures, seconds: float) -> str:
    """The page as text; the same figures give the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    found = readings(study, figures)
    counts = " and ".join(dict.fromkeys(f"{one.recipe.count:,}" for one in study.measures))
    return environment.get_template("study.html.j2").render(
        title=study.what or study.title,
        lead=f"{study.title}. {len(study.arms)} arms, {seeds_done(study, figures)}, {counts} images a seed; every interval is over seeds.",
        paper=study.paper,
        command=study.command,
        took=took(seconds) if seconds else "",
        readings=[{"of": one, "css": MARKS.get(one.verdict, ("quiet", "–"))} for one in found],
        tally=[(verdict, sum(one.verdict == verdict for one in found)) for verdict in (OUT, OPPOSITE, OPEN)],
        charts=_doses(study, figures) + _scatters(study, figures),
        arms=[_arms_chart(study, name, figure) for name, figure in figures.items() if not figure.get("derived")],
        derived=[_arms_chart(study, name, figure) for name, figure in figures.items() if figure.get("derived")],
        names=[arm.name for arm in study.arms],
        rows=[(heading(*item), [means(item[1], arm.name) for arm in study.arms]) for item in figures.items()],
        comparisons=[
            (said(one), [_compared(one, name, figure) for name, figure in figures.items() if name != "training" or not one.gap])
            for one in study.compare
        ],
    )  # fmt: skip


def _compared(one: Any, name: str, figure: dict[str, Any]) -> tuple[str, str]:
    found = compared(one, figure)
    return heading(name, figure), "–" if found is None else interval(
        found, "ratio" if one.gap else figure["unit"], "" if one.gap else "+"
    )


def _arms_chart(study: Study, name: str, figure: dict[str, Any]) -> Chart:
    """A figure of every arm: each seed a dot, and the mean with its interval."""
    scale = 100 if figure["unit"] == "%" else 1
    held = [
        (place, arm.name, [scale * v for v in figure["arms"].get(arm.name, []) if math.isfinite(v)])
        for place, arm in enumerate(study.arms)
    ]
    held = [one for one in held if one[2]]
    estimates = [mean(values) for _, _, values in held]
    every = [value for _, _, values in held for value in values] or [0.0]
    ends = [end for one in estimates for end in (one.low, one.high) if math.isfinite(end)]
    ticks = ticks_over(min(every + ends), max(every + ends))
    row, left = 22.0, 14.0 + LETTER * max((min(LENGTH, len(arm)) for _, arm, _ in held), default=0)
    plane = Plane((ticks[0], ticks[-1]), (0.0, float(max(len(held), 1))), 420, 54 + row * len(held), left)
    parts = [plane.axes(figure["unit"] or "value", "", ticks, [])]
    for line, ((place, arm, values), middle) in enumerate(zip(held, estimates, strict=True)):
        y = len(held) - line - 0.5
        ends = plane.at(ticks[0], y), plane.at(ticks[-1], y)
        parts.append(tag("line", x1=ends[0][0], x2=ends[1][0], y1=ends[0][1], y2=ends[1][1], class_="rule"))
        parts.append(
            tag(
                "text",
                arm if len(arm) <= LENGTH else arm[: LENGTH - 1] + "…",
                x=left - 8,
                y=ends[0][1] + 4,
                text_anchor="end",
            )
        )
        if math.isfinite(middle.low):
            parts.append(plane.whisker((middle.low, y), (middle.high, y)))
        parts += [
            tag("circle", cx=x, cy=at, r=2.4, class_=f"{colour(place)} dotted") for x, at in (plane.at(v, y) for v in values)
        ]
        at = plane.at(middle.value, y)
        parts.append(marker(place, *at, 4.6))
    return Chart(heading(name, figure), drawing(name, plane.width, plane.height, *parts))


def _doses(study: Study, figures: Figures) -> list[Chart]:
    charts = []
    for one in study.dose:
        try:
            found = dosed(one, figures)
        except SpecError:
            found = None
        if found is None:
            continue
        name = found["figure"]
        figure = figures[name]
        scale = 100 if figure["unit"] == "%" else 1
        values = scale * found["values"]
        ends = [scale * end for est in found["means"] for end in (est.low, est.high) if math.isfinite(end)]
        y = ticks_over(
            min(values.min(), *ends) if ends else values.min(), max(values.max(), *ends) if ends else values.max()
        )
        x = ticks_over(min(one.at), max(one.at))
        plane = Plane((x[0], x[-1]), (y[0], y[-1]))
        parts = [plane.axes("dose", "", x, y)]
        order = sorted(range(len(one.at)), key=lambda place: one.at[place])
        for row in values:
            parts += [
                tag("circle", cx=a, cy=b, r=2.2, class_="c0 dotted") for a, b in (plane.at(one.at[p], row[p]) for p in order)
            ]
        parts.append(plane.path([(one.at[p], scale * found["means"][p].value) for p in order], class_="line c0"))
        for place in order:
            est = found["means"][place]
            if math.isfinite(est.low):
                parts.append(plane.whisker((one.at[place], scale * est.low), (one.at[place], scale * est.high)))
            parts.append(marker(0, *plane.at(one.at[place], scale * est.value), 4.6))
        said_ = f"Slope {interval(found['slope'], figure['unit'], '+')} {figure['unit']} per unit of dose; rank correlation {interval(found['spearman'], 'ratio', '+')}."
        charts.append(Chart(f"{heading(name, figure)}, by dose", drawing(name, plane.width, plane.height, *parts), said_))
    return charts


def _scatters(study: Study, figures: Figures) -> list[Chart]:
    charts = []
    for one in study.correlate:
        try:
            found = correlated(one, figures)
        except SpecError:
            continue
        scales = [100 if figures[found[axis]]["unit"] == "%" else 1 for axis in ("x", "y")]
        points = [(scales[0] * a, scales[1] * b, arm) for a, b, arm in found["points"]]
        x, y = (ticks_over(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in (0, 1))
        plane = Plane((x[0], x[-1]), (y[0], y[-1]))
        names = [arm.name for arm in study.arms]
        dots = [marker(names.index(arm), *plane.at(a, b)) for a, b, arm in points]
        shown_ = list(dict.fromkeys(arm for _, _, arm in points))
        note, tall = legend([(arm, "", names.index(arm)) for arm in shown_], plane.height, plane.width)
        title = f"{heading(found['y'], figures[found['y']])} over {found['x']}"
        parts = [
            plane.axes(heading(found["x"], figures[found["x"]]), "", x, y),
            *dots,
            note,
        ]
        caption = (
            f"Rank correlation {interval(found['spearman'], 'ratio', '+')} over {found['spearman'].n} runs; a mark is a run."
        )
        charts.append(Chart(title, drawing(title, plane.width, plane.height + tall, *parts), caption))
    return charts
