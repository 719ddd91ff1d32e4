"""Minimal perturbations in the report: quantiles over images of the sizes found by minimal-perturbation attacks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hardsight.report.results import Table, plain

NONE = "none found"


@functools.lru_cache(maxsize=2)
def nearest(table: Table) -> list[dict[str, Any]]:
    """One line per cell of an attack such as FMN: quantiles of the minimal perturbation over the images.

    Only over the "n" images that are correctly classified when clean; the others need no perturbation. "quarter", "median"
    with its 95% interval "low" and "high", "threequarters": sizes in the threat's norm, infinite if the attack succeeds on
    fewer images ("felled": on how many). A size that an attack finds is an upper bound of the true minimum.
    """
    lines = []
    for record in table.records:
        found = record.cell.facts.get("nearest")
        if not found:
            continue
        row, norm = table.rows[record.row], record.column.norm
        quarter, (median, low, high), most = found["quantiles"]
        lines.append(
            {
                "place": record.row,
                "column": record.column,
                "encoder": row.title,
                "task": row.task,
                "data": row.data,
                "attack": plain(row.names[record.column]),
                "norm": norm,
                "n": found["n"],
                "felled": found["felled"],
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
    """A perturbation's size as text; Linf in units of 1/255."""
    if not np.isfinite(size):
        return NONE
    return f"{255 * size:.2f}/255" if norm.casefold() == "linf" else f"{size:.3g}"


def rows(table: Table, places: list[int]) -> list[list[str]]:
    """A header and one line per cell, for the table rows at `places`; empty if there are none."""
    head = ["encoder", "minimal perturbation by", "norm", "25% quantile", "median", "75% quantile", "found"]
    found = [head]
    for line in nearest(table):
        if line["place"] in places:
            quarter, median, low, high, most = line["text"]
            sizes = [line["encoder"], line["attack"], line["norm"], quarter, f"{median} [{low} to {high}]", most]
            found.append([*sizes, f"{line['felled']} of {line['n']}"])
    return found if len(found) > 1 else []


def sentences(table: Table, places: list[int]) -> list[str]:
    """One sentence per cell, for the table rows at `places`."""
    found = []
    for line in nearest(table):
        if line["place"] in places:
            quarter, median, low, high, most = line["text"]
            found.append(
                f"{line['encoder']}: median minimal perturbation {median} [{low} to {high}] in {line['norm']} over the "
                f"{line['n']} correctly classified images, quartiles {quarter} and {most} ({line['attack']}, successful on "
                f"{line['felled']})"
            )
    return found
