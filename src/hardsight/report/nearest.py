"""How small a change suffices: what searches for the nearest adversarial point found, image by image, as the report tells it."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardsight.metrics.intervals import quantile
from hardsight.report.results import Table, plain

SHARES = (0.25, 0.5, 0.75)
NONE = "none found"


def nearest(table: Table) -> list[dict[str, Any]]:
    """One line a number of a search such as FMN: the change that fells a quarter, half and three quarters of the images.

    They are the images answered rightly when clean, "n" of them; a wrong one needs no change. "quarter", "median" with "low"
    and "high" (95%), "threequarters": sizes in the threat's norm, infinite where fewer fell. What was found is an upper bound
    of the smallest there is.
    """
    lines = []
    for record in table.records:
        sizes = record.cell.rows().get("nearest", np.zeros(0))
        sizes = sizes[sizes > 0]
        if not len(sizes):
            continue
        row, norm = table.rows[record.row], record.column.norm
        quarter, (median, low, high), most = (quantile(sizes, share) for share in SHARES)
        lines.append(
            {
                "place": record.row,
                "column": record.column,
                "encoder": row.title,
                "task": row.task,
                "data": row.data,
                "attack": plain(row.names[record.column]),
                "norm": norm,
                "n": len(sizes),
                "felled": int(np.isfinite(sizes).sum()),
                "quarter": quarter[0],
                "median": median,
                "low": low,
                "high": high,
                "threequarters": most[0],
                "text": [text(value, norm) for value in (quarter[0], median, low, high, most[0])],
            }
        )
    return lines


def text(size: float, norm: str) -> str:
    """A perturbation's size as people write it: Linf in steps of 1/255."""
    if not np.isfinite(size):
        return NONE
    return f"{255 * size:.2f}/255" if norm.casefold() == "linf" else f"{size:.3g}"


def rows(table: Table, places: list[int]) -> list[list[str]]:
    """A head and a line for each, of the rows at `places`; empty where there is none."""
    head = ["encoder", "smallest change by", "norm", "fells a quarter", "half", "three quarters", "of those right"]
    found = [head]
    for line in nearest(table):
        if line["place"] in places:
            quarter, median, low, high, most = line["text"]
            told = [line["encoder"], line["attack"], line["norm"], quarter, f"{median} [{low} to {high}]", most]
            found.append([*told, f"{line['felled']} of {line['n']}"])
    return found if len(found) > 1 else []


def sentences(table: Table, places: list[int]) -> list[str]:
    """Each line in words, of the rows at `places`."""
    found = []
    for line in nearest(table):
        if line["place"] in places:
            quarter, median, low, high, most = line["text"]
            found.append(
                f"{line['encoder']}: half of the {line['n']} images it has right fall to a {line['norm']} change of {median} "
                f"[{low} to {high}], a quarter to {quarter}, three quarters to {most} ({line['attack']}, {line['felled']} fell)"
            )
    return found
