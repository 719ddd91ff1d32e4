"""The results table in all formats: terminal, LaTeX, Markdown, CSV and JSON.

The text formats show the main eps, each value with its 95% interval; CSV and JSON contain every number, in base units
(fractions, metres). Names come from users and data, so each format escapes them in its own way.
"""

from __future__ import annotations

import csv as _csv
import functools
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from hardsight.report.nearest import nearest
from hardsight.report.nearest import rows as smallest
from hardsight.report.prepared import sentence
from hardsight.report.protocol import lines, notes, sentences
from hardsight.report.protocol import rows as compared
from hardsight.report.results import CLEAN, MEAN, NATURAL, NOTHING, WORST, Column, Number, Row, Table, grid, plain, shown

__all__ = [
    "Table",
    "caption",
    "csv",
    "document",
    "grid",
    "heading",
    "latex",
    "markdown",
    "range_of",
    "terminal",
    "value_of",
    "versus",
]

FIELDS = ("encoder", "task", "data", "attack", "norm", "eps", "metric", "value", "low", "high", "n", "cell")
CLAIM = ("claim", "verdict", "metric", "reported_value", "difference_value", "reasons")
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "×": r"$\times$",
    "·": r"$\cdot$",
}
Z95 = 1.959964


def value_of(row: Row, column: Column) -> str:
    number = row.numbers.get(column)
    return NOTHING if number is None else shown(number.value, row.unit)


def range_of(row: Row, column: Column) -> str:
    number = row.numbers.get(column)
    return "" if number is None else f"{shown(number.low, row.unit)}–{shown(number.high, row.unit)}"


def versus(row: Row, column: Column | None) -> str:
    """The value relative to the clean one: "41%" for a score, "2.3×" for an error."""
    share = row.relative.get(column) if column else None
    if share is None:
        return NOTHING
    return f"{100 * share:.0f}%" if row.better == "higher" else f"{share:.2f}×"


def last(table: Table, row: Row | None = None) -> Column | None:
    """The column that "vs clean" refers to: the worst case, or the only attack, of the last shown norm."""
    attacks = [c for c in table.shown if c.attack != CLEAN and (row is None or c in row.numbers)]
    worst = [column for column in attacks if column.attack == WORST]
    return worst[-1] if worst else attacks[-1] if attacks else None


def threats(table: Table) -> list[str]:
    """Norm and eps of the shown attacks, as text; corruptions have no threat."""
    found = (f"{c.norm} {c.eps_text}".strip() for c in table.shown if c.attack != CLEAN and c.norm != NATURAL)
    return list(dict.fromkeys(found))


def heading(table: Table, column: Column) -> str:
    """A column's title; it includes the threat if the table shows more than one."""
    if len(threats(table)) < 2 or column.norm in ("", NATURAL):
        return column.title
    return f"{column.title} {column.norm} {column.eps_text}".strip()


def _span(values: set[int]) -> str:
    return f"{min(values)}" if len(values) == 1 else f"{min(values)}–{max(values)}"


def caption(table: Table, places: Sequence[int] | None = None) -> str:
    """The caption of the rows at `places`: threat, number of images, seed, and whether a cell is not finished."""
    places = range(len(table.rows)) if places is None else places
    rows = [table.rows[place] for place in places]
    numbers = [row.numbers[column] for row in rows for column in table.shown if column in row.numbers]
    seeds = sorted({plain(record.cell.what.get("seed", "?")) for record in table.records})
    parts = [
        ", ".join(threats(table)) or "no attack",
        f"n = {_span({number.n for number in numbers})} images" if numbers else "n = 0",
        f"seed {', '.join(seeds)}",
        "95% intervals",
    ]
    means = {len(number.over) for row in rows for c in table.shown if c.attack == MEAN and (number := row.numbers.get(c))}
    parts += [f"mean over {_span(means)} corruptions"] if means else []
    parts += resolutions(table, places)
    left_out = {n for one in table.records_at(places) if (n := (one.cell.done or {}).get("left_out"))}
    parts += [f"without {_span(left_out)} images whose label is the attack's target"] if left_out else []
    if any(number.partial for number in numbers):
        parts.append("* partial: the cell is not finished")
    return " · ".join(parts)


def resolutions(table: Table, places: Sequence[int]) -> list[str]:
    """Notes where images were resized or prepared before the attack, or are resized inside the attacked encoder.

    eps bounds the attacked pixels, so it is a stricter limit for an encoder that upsamples them internally.
    """
    notes: dict[str, dict[str, None]] = {}
    for record in table.records_at(places):
        card, data = (record.cell.what.get(f"{what}_card") or {} for what in ("encoder", "data"))
        high, wide = data.get("size") or (0, 0)
        if own := data.get("own"):
            notes.setdefault(f"images were resized from {own[0]}x{own[1]} to {high}x{wide} before the attack", {})
        if high and (side := card.get("resize")) and side != min(high, wide):
            notes.setdefault(f"eps at {high}x{wide}, which", {})[f"{plain(card.get('name'))} resizes to {side}"] = None
    cells = ((table.rows[one.row].title, one.cell.what.get("preprocess", "")) for one in table.records_at(places))
    return [" ".join([text, ", ".join(names)]).strip() for text, names in notes.items()] + [*map(plain, sentence(cells))]


def attacks_of(table: Table, places: list[int]) -> str:
    """The meaning of "task attack" in these rows: "task attack = SegPGD"."""
    found = dict.fromkeys(
        f"{column.title} = {table.rows[place].names[column]}"
        for place in places
        for column in table.shown
        if column in table.rows[place].names
        and table.rows[place].names[column] not in (column.title, column.attack)
        and column.attack == "task"
    )
    return ", ".join(found)


def mark(number: Number | None) -> str:
    return "*" if number is not None and number.partial else ""


def terminal(table: Table) -> RichTable:
    """The main table for a terminal of at least 100 columns: value above interval, one section per task."""
    out = RichTable(
        box=box.SIMPLE_HEAD,
        caption=Text(caption(table)),
        caption_justify="left",
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    out.add_column("task", no_wrap=True)
    out.add_column("encoder", overflow="fold", min_width=16)
    for column in table.shown:
        out.add_column(Text(heading(table, column)), justify="right")
    out.add_column("vs clean", justify="right")
    for task, data, places in table.groups():
        for nth, place in enumerate(places):
            row = table.rows[place]
            first = f"{task} · {data}\n{row.label} {row.unit} {row.arrow}" if nth == 0 else ""
            partial = next((n for c, n in row.numbers.items() if c in table.shown and n.partial), None)
            note = f"\npartial, n = {partial.n} of {partial.asked}" if partial else ""
            values = [
                Text(f"{value_of(row, column)}{mark(row.numbers.get(column))}\n{range_of(row, column)}", justify="right")
                for column in table.shown
            ]
            ending = nth == len(places) - 1
            out.add_row(
                Text(first), Text(row.title + note), *values, Text(versus(row, last(table, row))), end_section=ending
            )
    return out


def _lines(table: Table, places: list[int], separate: str) -> list[list[str]]:
    lines = []
    for place in places:
        row = table.rows[place]
        cells = [row.title]
        for column in table.shown:
            text = value_of(row, column) + mark(row.numbers.get(column))
            cells.append(text + (separate.format(range_of(row, column)) if column in row.numbers else ""))
        sizes = {row.numbers[column].n for column in table.shown if column in row.numbers}
        lines.append([*cells, versus(row, last(table, row)), _span(sizes) if sizes else "0"])
    return lines


def markdown(table: Table) -> str:
    """One Markdown table per task."""

    def escape(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", text)

    out = []
    for task, data, places in table.groups():
        row = table.rows[places[0]]
        head = ["encoder", *(heading(table, column) for column in table.shown), "vs clean", "n"]
        attacks = attacks_of(table, places)
        out += [f"### {escape(task)} on {escape(data)}: {escape(row.label)} ({row.unit}) {row.arrow}", ""]
        out += ["| " + " | ".join(escape(title) for title in head) + " |", "|:--" + "|--:" * (len(head) - 1) + "|"]
        out += ["| " + " | ".join(escape(text) for text in line) + " |" for line in _lines(table, places, " [{}]")]
        out += ["", escape(caption(table, places) + (f" · {attacks}" if attacks else "")), ""]
        for nth, line in enumerate(sizes := smallest(table, places)):
            out += ["| " + " | ".join(map(escape, line)) + " |"] + ["|:--|:--|:--" + "|--:" * 4 + "|"] * (nth == 0)
        out += [""] * bool(sizes)
        for nth, line in enumerate(claimed := compared(table, places)):
            out += ["| " + " | ".join(map(escape, line)) + " |"] + ["|:--" * 4 + "|--:|--:|:--|--:|"] * (nth == 0)
        out += [""] * bool(claimed) + [part for note in notes(table, places) for part in (escape(note), "")]
    return "\n".join(out)


def latex(table: Table) -> str:
    """A booktabs table for a paper; needs `\\usepackage{booktabs}`."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(letter, letter) for letter in text)

    width = len(table.shown) + 3
    head = ["encoder", *(heading(table, column) for column in table.shown), "vs clean", "n"]
    out = [
        r"\begin{table}",
        r"\centering",
        r"\small",
        r"\begin{tabular}{l" + "r" * (width - 1) + "}",
        r"\toprule",
        " & ".join(escape(title) for title in head) + r" \\",
    ]
    for task, data, places in table.groups():
        row = table.rows[places[0]]
        attacks = attacks_of(table, places)
        title = f"{task} on {data}: {row.label} ({row.unit}) {row.arrow}" + (f", {attacks}" if attacks else "")
        out += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(title)}}}}} \\"]
        for line in _lines(table, places, "\0{}\1"):
            cells = [escape(text).replace("\0", r" {\scriptsize [").replace("\1", "]}") for text in line]
            out.append(" & ".join(cells) + r" \\")
    out += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape('. '.join([caption(table), *sentences(table)]))}.}}",
        r"\label{tab:hardsight}",
        r"\end{table}",
    ]
    return "\n".join(out) + "\n"


def csv(table: Table) -> str:
    """Every number in long format, one per line: each metric of each cell, the worst case, `relative` and `area`."""
    out = io.StringIO()
    sizes = {(line["place"], line["column"]): line for line in nearest(table)}
    claimed = {(line["place"], line["column"]): line for line in lines(table)}
    writer = _csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for place, row in enumerate(table.rows):
        for column in sorted(row.numbers, key=Column.key):
            number = row.numbers[column]
            start = (row.title, row.task, row.data, _attack(row, column), column.norm, repr(column.eps))
            for key, (value, low, high) in number.metrics.items():
                writer.writerow([*start, key, *map(_digits, (value, low, high)), number.n, number.cell])
            if found := sizes.get((place, column)):
                ends = (_digits(found[end]) for end in ("median", "low", "high"))
                writer.writerow([*start, "nearest.median", *ends, found["n"], number.cell])
            if (claim := claimed.get((place, column))) and claim["reported"]:
                value, half = claim["reported_value"], claim["half"]
                ends = map(_digits, (value, value - half, value + half))
                writer.writerow([*start, f"{claim['metric']}.reported", *ends, "", claim["claim"]])
            if column in row.relative:
                writer.writerow([*start, "relative", _digits(row.relative[column]), "", "", number.n, number.cell])
            if row.areas.get(column.series, (0, None))[1] == column.eps:
                area = row.areas[column.series][0]
                writer.writerow([*start, f"{row.metric}.area", _digits(area), "", "", number.n, number.cell])
    return out.getvalue()


def _digits(value: float) -> str:
    return f"{value:.8g}" if np.isfinite(value) else "nan"


def _attack(row: Row, column: Column) -> str:
    name = {CLEAN: CLEAN, WORST: WORST}.get(column.attack, row.names[column])
    return f"{name} {column.variant}" if column.variant else name


@functools.lru_cache(maxsize=2)
def document(table: Table) -> dict[str, Any]:
    """Everything in one JSON document, structured like lm-eval's: results by "encoder/task/data", then by attack.

    A metric's `_stderr` is the half width of its 95% interval / 1.96; `relative` is attacked / clean. `date` is when the
    last cell finished, so that the same rows give the same document; `git_hash` is a list if it differs between cells.
    """
    results: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    sizes = {(line["place"], line["column"]): line for line in nearest(table)}
    claimed = {(line["place"], line["column"]): line for line in lines(table)}
    for place, row in enumerate(table.rows):
        key = f"{row.title}/{row.task}/{row.data}"
        results[key] = {"encoder": row.encoder, "task": row.task, "data": row.data}
        results[key] |= {"headline": row.metric, "better": row.better}
        if notes := resolutions(table, [place]):
            results[key]["resolution"] = notes
        for column in sorted(row.numbers, key=Column.key):
            number = row.numbers[column]
            entry: dict[str, Any] = {"norm": column.norm, "eps": column.eps, "eps_text": column.eps_text, "n": number.n}
            entry |= {"partial": number.partial, "cell": number.cell}
            for metric, (value, low, high) in number.metrics.items():
                entry |= {
                    metric: _finite(value),
                    f"{metric}_low": _finite(low),
                    f"{metric}_high": _finite(high),
                    f"{metric}_stderr": _finite((high - low) / 2 / Z95),
                }
            if column in row.relative:
                entry["relative"] = row.relative[column]
            if found := sizes.get((place, column)):
                keys = ("quarter", "median", "low", "high", "threequarters")
                entry["nearest"] = {key: found[key] for key in ("n", "felled")} | {key: _finite(found[key]) for key in keys}
            if claim := claimed.get((place, column)):
                entry |= {"protocol": claim["protocol"], "claim": {key: claim[key] for key in CLAIM}}
            if number.over:
                entry["over"] = list(number.over)
            if row.areas.get(column.series, (0, None))[1] == column.eps:
                entry["area"] = row.areas[column.series][0]
            name = _attack(row, column)
            results[key][name if column.attack == CLEAN else f"{name}@{column.norm.lower()}({column.eps_text})"] = entry
        if audited := [audit for record in table.records_at([place]) if (audit := record.cell.audit)]:
            results[key]["audit"] = audited[0]
        samples[key] = {
            "original": max(n.asked for n in row.numbers.values()),
            "effective": min(n.n for n in row.numbers.values()),
        }
    dones = [record.cell.done for record in table.records if record.cell.done]
    gits = [git for done in dones if (git := done.get("git"))]
    hashes = sorted({f"{git['revision']}-dirty" if git.get("dirty") else str(git["revision"]) for git in gits})
    versions: dict[str, Any] = {}
    for name in sorted({name for done in dones for name in done.get("versions", {})}):
        found = sorted({str(done["versions"][name]) for done in dones if name in done.get("versions", {})})
        versions[name] = found[0] if len(found) == 1 else found
    return {
        "results": results,
        "configs": {record.cell.id: {**record.cell.what, "done": record.cell.done} for record in table.records},
        "versions": versions,
        "n-samples": samples,
        "git_hash": hashes[0] if len(hashes) == 1 else hashes or None,
        "date": max((str(done["finished"]) for done in dones if "finished" in done), default=None),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
