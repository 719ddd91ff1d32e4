"""The report as one HTML file: no network requests, no external scripts or fonts, everything escaped.

The content of the page is collected here as plain data; its appearance is in the templates in this folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from hardsight.report.audits import audits
from hardsight.report.epochs import epochs
from hardsight.report.figures import COLOURS, Figure, bars, curves, palette
from hardsight.report.heads import heads
from hardsight.report.nearest import nearest
from hardsight.report.pictures import galleries
from hardsight.report.protocol import RULE, groups
from hardsight.report.results import CLEAN, NATURAL, WORST, CellLike, Record, Row, Table, grid, plain, shown, worst_at
from hardsight.report.table import attacks_of, caption, document, heading, last, mark, range_of, threats, value_of, versus
from hardsight.store.files import write_bytes

WHAT = (
    ("encoder", "encoder"),
    ("task", "task"),
    ("data", "data"),
    ("attack", "attack"),
    ("threat", "threat"),
    ("probe", "probe"),
    ("count", "images requested"),
    ("chunk", "chunk"),
    ("seed", "seed"),
    ("precision", "precision"),
)
CARD = (
    ("arch", "architecture"),
    ("source", "source"),
    ("parameters", "parameters"),
    ("dim", "features"),
    ("stride", "stride"),
    ("size", "input"),
    ("resize", "resizes to"),
    ("preprocess", "authors' pictures"),
    ("licence", "licence"),
    ("sha256", "weights' SHA-256"),
    ("note", "note"),
)
ALWAYS_VARY = ("cell", "encoder", "task", "attack", "threat")
ZERO_SHARE = 0.1
"""Warn if the gradient was zero in more than this share of the attack's forward passes."""
NAMED = 12
"""Up to this many encoders are named in sentences; of more, the table is the first place with their names."""
LEEWAY = 1e-5
"""Tolerance for perturbations larger than eps, for rounding in float32."""


def write_html(cells: Iterable[CellLike], path: str | Path, title: str = "Robustness report") -> Path:
    """Writes the page of some cells atomically."""
    path = Path(path)
    write_bytes(path, html(grid(cells), title).encode("utf-8"))
    return path


def html(table: Table, title: str = "Robustness report") -> str:
    """The page as text; deterministic for the same rows."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    colours = palette(table)
    tasks = {(task, data): number for number, (task, data, _) in enumerate(table.groups())}
    meta = document(table)

    def keyed(figure: Figure) -> dict[str, Any]:
        row = table.rows[figure.places[0]]
        return {"key": tasks[row.task, row.data], "figure": figure}

    return environment.get_template("page.html.j2").render(
        title=plain(title),
        summary=summary(table),
        caption=caption(table),
        warnings=warnings(table),
        date=meta["date"],
        versions=meta["versions"],
        git_hash=meta["git_hash"],
        tasks=[{"key": number, "task": task, "data": data} for (task, data), number in tasks.items()],
        encoders=[{"key": place, "colour": place % COLOURS, "title": name} for name, place in colours.items()],
        overview=_overview(table, colours),
        sections=[
            _section(table, number, *group, colours, figure)
            for number, (group, figure) in enumerate(zip(table.groups(), bars(table), strict=True))
        ],
        epochs=[keyed(figure) for figure in epochs(table)],
        curves=[keyed(figure) for figure in curves(table)],
        galleries=[(tasks[gallery.task, gallery.data], gallery) for gallery in galleries(table)],
        audits=audits(table),
        heads=heads(table),
        nearest=nearest(table),
        protocols=groups(table),
        rule=RULE,
        cards=cards(table),
        settings=settings(table),
        main=threats(table),
    )


def summary(table: Table) -> str:
    """What was run, in one paragraph."""
    encoders = list(dict.fromkeys(row.title for row in table.rows))
    tasks = list(dict.fromkeys(row.task for row in table.rows))
    data = list(dict.fromkeys(row.data for row in table.rows))
    attacks = list(
        dict.fromkeys(
            row.names[column]
            for row in table.rows
            for column in sorted(row.names, key=lambda c: c.key())
            if column.attack not in (CLEAN, WORST) and column.norm != NATURAL
        )
    )
    sizes = sorted({n.n for row in table.rows for n in row.numbers.values()})
    seeds = sorted({plain(record.cell.what.get("seed", "?")) for record in table.records})
    if not table.rows:
        return "Nothing has been measured yet: no cell has a finished image."
    named = f" ({_and(encoders)})" if len(encoders) <= NAMED else ""
    images = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    text = (
        f"{_many(len(encoders), 'encoder')}{named} on {_many(len(tasks), 'task')} ({_and(tasks)}), "
        f"{images} images each of {_and(data)}, seed {_and(seeds)}. "
    )
    if natural := {
        column for row in table.rows for column in row.names if column.norm == NATURAL and not row.numbers[column].over
    }:
        text += f"In addition to the attacks: {_many(len(natural), 'common corruption')} (not adversarial). "
    if attacks:
        within = _and(threats(table))
        text += f"Each was evaluated on clean images, then on the same images attacked by {_and(attacks)} within {within}."
    return text


def _many(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def warnings(table: Table) -> list[str]:
    """Warnings about numbers that may be misleading."""
    found = []
    partial = [record for record in table.records if record.cell.done is None]
    if partial:
        found.append(f"{len(partial)} of {_many(len(table.records), 'cell')} not finished; their numbers are marked *.")
    dones = [record.cell.done for record in table.records if record.cell.done]
    if any((done.get("git") or {}).get("dirty") for done in dones):
        found.append("Some cells were run from a working copy with uncommitted changes.")
    mixed = [name for name, versions in document(table)["versions"].items() if isinstance(versions, list)]
    if mixed:
        found.append(f"The cells were run with more than one version of {_and([plain(name) for name in mixed])}.")
    failed = [one for one in audits(table)["problems"] if one["verdict"] == "fail"]
    if failed:
        found.append(f"The audit fails for {_and(list(dict.fromkeys(one['who'] for one in failed)))}: see below.")
    for record in table.records:
        found += _gradients(record)
        largest = _largest(record)
        if largest > record.column.eps + LEEWAY:
            found.append(
                f"Cell {record.cell.id} contains a perturbation of size {largest:.6g}, outside its "
                f"{record.column.norm or 'clean'} eps of {record.column.eps:.6g}."
            )
    return found


def _gradients(record: Record) -> list[str]:
    """Warnings for a cell whose attack had many zero gradients, or non-finite losses or gradients."""
    rows = record.cell.facts
    found, name = (
        [],
        f"{record.cell.what.get('encoder_name', '?')} · {record.cell.what.get('task_name', '?')} · {record.column.title}",
    )
    if "halted" in rows and (halted := rows["halted"]):
        found.append(
            f"{plain(name)}: loss or gradient was not finite on {_many(halted, 'image')}, where the attack stopped early."
        )
    if "flat" in rows and (passes := rows["queries"]):
        share = rows["flat"] / passes
        if share > ZERO_SHARE and record.column.eps > 0:
            found.append(
                f"{plain(name)}: the gradient was zero in {share:.0%} of the forward passes; gradients may be masked, and "
                "the model less robust than shown."
            )
    return found


def _largest(record: Record) -> float:
    return record.cell.facts["largest"]


def _overview(table: Table, colours: dict[str, int]) -> dict[str, Any]:
    """Encoders x tasks: the clean value, and the value under the worst case."""
    groups = table.groups()
    lines = []
    for name, place in colours.items():
        cells = []
        for number, (_, _, places) in enumerate(groups):
            row = next((table.rows[at] for at in places if table.rows[at].title == name), None)
            column = worst_at(row, last(table, row)) if row else None
            clean = next((c for c in table.shown if c.attack == CLEAN), None)
            if row is None or (column is None and clean not in row.numbers):
                cells.append({"key": number, "value": None})
                continue
            share = row.relative.get(column) if column else None
            kept = None if share is None else share if row.better == "higher" else 1 / share if share > 0 else None
            cells.append(
                {
                    "key": number,
                    "before": value_of(row, clean) if clean else "–",
                    "after": value_of(row, column) if column else "–",
                    "versus": versus(row, column),
                    "mark": mark(row.numbers.get(column)) if column else "",
                    "kept": None if kept is None else round(100 * min(1.0, max(0.0, kept)), 1),
                    "value": _sortable(row.numbers[column].value) if column and column in row.numbers else "",
                }
            )
        lines.append({"key": place, "colour": place % COLOURS, "title": name, "cells": cells})
    heads = [
        {"key": number, "task": task, "data": data, "row": table.rows[places[0]]}
        for number, (task, data, places) in enumerate(groups)
    ]
    return {"heads": heads, "lines": lines}


def _sortable(value: float) -> str:
    return f"{value:.8g}" if np.isfinite(value) else ""


def _section(
    table: Table, number: int, task: str, data: str, places: list[int], colours: dict[str, int], figure: Figure
) -> dict[str, Any]:
    rows = [table.rows[place] for place in places]
    columns = [column for column in table.shown if any(column in row.numbers for row in rows)]
    lines = []
    for row in rows:
        at = last(table, row)
        area = row.areas.get(at.series) if at else None
        sizes = sorted({row.numbers[column].n for column in columns if column in row.numbers})
        lines.append(
            {
                "key": colours[row.title],
                "colour": colours[row.title] % COLOURS,
                "title": row.title,
                "cells": [
                    {
                        "value": _sortable(row.numbers[c].value) if c in row.numbers else "",
                        "text": value_of(row, c),
                        "range": range_of(row, c),
                        "mark": mark(row.numbers.get(c)),
                        "cell": row.numbers[c].cell if c in row.numbers else "not run",
                    }
                    for c in columns
                ],
                "versus": versus(row, at),
                "relative": row.relative.get(at, "") if at else "",
                "area": shown(area[0], row.unit) if area else "–",
                "area_value": area[0] if area else "",
                "n": "–".join(dict.fromkeys((str(sizes[0]), str(sizes[-1])))) if sizes else "0",
                "n_value": sizes[0] if sizes else "",
                "asked": max((n.asked for n in row.numbers.values()), default=0),
                "partial": any(n.partial for n in row.numbers.values()),
            }
        )
    spans = {row.areas[at.series][2] for row in rows if (at := last(table, row)) and at.series in row.areas}
    return {
        "key": number,
        "task": task,
        "data": data,
        "row": rows[0],
        "lines": lines,
        "figure": figure,
        "heads": [heading(table, column) for column in columns],
        "attacks": attacks_of(table, places),
        "caption": caption(table, places),
        "area": f"mean 0–{spans.pop()}" if len(spans) == 1 else "area" if spans else "",
        "finding": finding(table, rows),
    }


def finding(table: Table, rows: list[Row]) -> str:
    """The result of one task in one or two sentences; says whether the best encoder's interval overlaps the second's."""
    column = last(table)
    clean = next((c for c in table.shown if c.attack == CLEAN), None)
    held = [row for row in rows if column in row.numbers and clean in row.numbers]
    if column is None or clean is None or not held:
        return ""
    unit = held[0].unit
    higher = held[0].better == "higher"

    def span(at: Any) -> str:
        values = [row.numbers[at].value for row in held]
        low, high = shown(min(values), unit), shown(max(values), unit)
        return (low if low == high else f"{low} to {high}") + (f" {unit}" if unit else "")

    verb = "drops" if higher and all(row.numbers[column].value < row.numbers[clean].value for row in held) else "changes"
    label = held[0].label.capitalize() if held[0].label.islower() else held[0].label
    text = f"{label} {verb} from {span(clean)} on clean images to {span(column)}"
    over = held[0].numbers[column].over
    text += f" under the worst case of {_and(list(over))}." if len(over) > 1 else f" under {held[0].names[column]}."
    if len(held) > 1:
        order = sorted(held, key=lambda row: row.numbers[column].value, reverse=higher)
        best, second = (row.numbers[column] for row in order[:2])
        if shown(best.value, unit) == shown(second.value, unit):
            tied = [row.title for row in order if shown(row.numbers[column].value, unit) == shown(best.value, unit)]
            who = _and(tied) if len(tied) <= NAMED else f"{len(tied)} encoders"
            return f"{text} No single encoder is best: {who} share the value {shown(best.value, unit)}."
        apart = best.low > second.high if higher else best.high < second.low
        text += f" {order[0].title} is best with {shown(best.value, unit)} [{range_of(order[0], column)}]"
        text += "." if apart else f"; its interval overlaps that of {order[1].title}, so their order is uncertain."
    return text


def cards(table: Table) -> dict[str, Any]:
    """The encoders' cards: the fields that any encoder has, and one line per encoder."""
    found = {plain(record.cell.what["encoder"]): record.cell.what.get("encoder_card") or {} for record in table.records}
    fields = [(key, label) for key, label in CARD if any(card.get(key) not in (None, "", 0) for card in found.values())]
    lines = [
        {"spec": spec, "name": plain(card.get("name") or spec), "cells": [_card(card.get(key), key) for key, _ in fields]}
        for spec, card in sorted(found.items())
    ]
    return {"heads": [label for _, label in fields], "lines": lines}


def _card(value: Any, key: str) -> str:
    if value in (None, ""):
        return "–"
    if key == "parameters" and isinstance(value, int | float):
        return f"{value / 1e6:.2f} M" if value >= 1e4 else f"{value:g}"
    if isinstance(value, list | tuple):
        return "\u00a0×\u00a0".join(plain(part) for part in value)
    return plain(value)


def settings(table: Table) -> dict[str, Any]:
    """The settings that all cells share, and one line per cell with those that differ."""
    lines = []
    for record in table.records:
        what, done = record.cell.what, record.cell.done or {}
        line = {"cell": record.cell.id} | {label: plain(what.get(key, "–")) for key, label in WHAT}
        line |= {
            "device": plain(done.get("device", "–")),
            "images": str(done.get("images", table.rows[record.row].numbers[record.column].n)),
            "queries": f"{done['queries']:.4g}" if "queries" in done else "–",
            "largest perturbation": _size(record),
            "seconds": f"{done['seconds']:.1f}" if "seconds" in done else "not finished",
        }
        lines.append(line)
    heads = list(lines[0]) if lines else []
    varied = [head for head in heads if head in ALWAYS_VARY or len({line[head] for line in lines}) > 1]
    return {
        "same": [(head, lines[0][head]) for head in heads if head not in varied],
        "heads": varied,
        "lines": [[line[head] for head in varied] for line in lines],
    }


def _size(record: Record) -> str:
    largest = _largest(record)
    return f"{255 * largest:.3g}/255" if record.column.norm.casefold() == "linf" else f"{largest:.3g}"
