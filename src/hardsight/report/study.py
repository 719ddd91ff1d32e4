"""A study's tables: its figures by arm, the differences between arms, doses, correlations, and the reading of its findings.

write(study, figures, "out")    table.md, study.html and figures.json
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hardsight.core.errors import SpecError
from hardsight.report.study_page import html
from hardsight.report.study_reading import (
    TRAINING,
    Figures,
    Reading,
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
)
from hardsight.specs.study import Study
from hardsight.store.files import write_bytes, write_json

__all__ = ["TRAINING", "Figures", "markdown", "note", "write"]
WIDE = 6
"""More comparisons than this are rows of their table, and the figures its columns, `WIDE` of them in a table."""
MANY_ARMS = 8
"""The same for arms."""


def note(
    figures: Figures, what: str, unit: str, better: str, arm: str, seed: int, value: float, derived: bool = False
) -> None:
    """Sets one arm's number of one seed; earlier seeds without one, such as a ratio to zero, are NaN."""
    figure = figures.setdefault(what, {"unit": unit, "better": better, "arms": {}} | ({"derived": True} if derived else {}))
    values = figure["arms"].setdefault(arm, [])
    if len(values) > seed:
        raise SpecError(f"two numbers of '{arm}' are named '{what}'; measure them in two [measures.NAME]")
    values += [math.nan] * (seed - len(values)) + [value]


def write(study: Study, figures: Figures, folder: Path, seconds: float) -> None:
    """Writes the tables, the page, and the numbers behind them."""
    write_json(folder / "figures.json", document(study, figures, seconds))
    write_bytes(folder / "table.md", markdown(study, figures, seconds).encode())
    write_bytes(folder / "study.html", html(study, figures, seconds).encode())


def document(study: Study, figures: Figures, seconds: float) -> dict[str, Any]:
    """Every number a seed, in base units, and the readings; what is not finite is null."""
    found = [
        {"says": r.says, "source": r.source, "what": r.what, "verdict": r.verdict, "text": r.text}
        | ({} if r.number is None else r.number._asdict())
        for r in readings(study, figures)
    ]
    facts = {"name": study.name, "title": study.title, "paper": study.paper, "command": study.command}
    whole = {**facts, "seeds": study.seeds, "seconds": seconds, "figures": figures, "findings": found}
    return _finite(whole)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(study: Study, figures: Figures, seconds: float = 0.0) -> str:
    """All tables: each arm's mean over seeds ± half its 95% interval, what is paired by seed, and the reading."""
    counts = " and ".join(dict.fromkeys(str(one.recipe.count) for one in study.measures))
    lines = [f"{study.title}: mean over {seeds_done(study, figures)} ± half of its 95% interval; n = {counts} images a seed"]
    arms = [(arm.name, [means(figure, arm.name) for figure in figures.values()]) for arm in study.arms]
    lines += _grid(arms, [heading(*item) for item in figures.items()], MANY_ARMS)
    if study.compare:
        rows = [(said(one), [_difference(one, *item) for item in figures.items()]) for one in study.compare]
        lines += ["", "Paired by seed:", *_grid(rows, [heading(*item) for item in figures.items()], WIDE)]
    lines += [*_doses(study, figures), *_correlations(study, figures), *_findings(readings(study, figures))]
    if seconds:
        lines += ["", f"The study took {took(seconds)}."]
    return "\n".join(lines) + "\n"


def _grid(columns: list[tuple[str, list[str]]], names: list[str], most: int) -> list[str]:
    """A table with these columns, one row a name; of more than `most` columns, they are rows, in tables of `WIDE` names."""
    if len(columns) <= most:
        return [
            "",
            *_table(
                [title for title, _ in columns], list(zip(names, zip(*(v for _, v in columns), strict=True), strict=True))
            ),
        ]
    lines = []
    for start in range(0, len(names), WIDE):
        part = slice(start, start + WIDE)
        lines += ["", *_table(names[part], [(title, values[part]) for title, values in columns])]
    return lines


def _table(columns: list[str], rows: list[tuple[str, Any]]) -> list[str]:
    return [_line("", columns), "|:--|" + "--:|" * len(columns), *(_line(first, rest) for first, rest in rows)]


def _line(first: str, rest: Any) -> str:
    return "| " + " | ".join([first, *rest]) + " |"


def _difference(one: Any, name: str, figure: dict[str, Any]) -> str:
    found = None if one.gap and name == TRAINING else compared(one, figure)
    return "–" if found is None else interval(found, "ratio" if one.gap else figure["unit"], "" if one.gap else "+")


def _doses(study: Study, figures: Figures) -> list[str]:
    lines = []
    for one in study.dose:
        try:
            found = dosed(one, figures)
        except SpecError as error:
            lines += ["", f"{one.figure}: {error}"]
            continue
        if found is None:
            continue
        name = found["figure"]
        unit = figures[name]["unit"]
        lines += ["", f"{heading(name, figures[name])}, by dose:", ""]
        lines += _table(
            [f"{at:g}" for at in found["at"]] + ["slope per unit", "rank correlation"],
            [
                (
                    "",
                    [
                        *(interval(value, unit) for value in found["means"]),
                        interval(found["slope"], unit, "+"),
                        interval(found["spearman"], "ratio", "+"),
                    ],
                )
            ],
        )
    return lines


def _correlations(study: Study, figures: Figures) -> list[str]:
    if not study.correlate:
        return []
    rows = []
    for one in study.correlate:
        try:
            found = correlated(one, figures)
        except SpecError as error:
            rows.append((f"{one.x}, {one.y}", [str(error), ""]))
            continue
        rows.append((f"{found['x']}, {found['y']}", [interval(found["spearman"], "ratio", "+"), str(found["spearman"].n)]))
    return ["", "Rank correlation over runs, with a bootstrap interval over arms:", "", *_table(["Spearman", "runs"], rows)]


def _findings(found: list[Reading]) -> list[str]:
    if not found:
        return []
    rows = [(f"{r.says} ({r.source})", [r.what, r.text, r.verdict]) for r in found]
    return ["", "The reading:", "", *_table(["compared", "number", "verdict"], rows)]
