"""The heads behind the numbers: how each was trained, its score on held-out training images, and what the check of it says."""

from __future__ import annotations

from typing import Any

from hardsight.report.audits import MARKS
from hardsight.report.results import Table, plain


def heads(table: Table) -> list[dict[str, Any]]:
    """One line a head, of the cells whose record tells how theirs was trained."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in table.records:
        head, row = (record.cell.done or {}).get("head"), table.rows[record.row]
        if not head:
            continue
        choice = ", ".join(f"{plain(name).replace('_', ' ')} {value:.3g}" for name, value in head["choice"].items())
        others = head.get("seeds", [])
        lines[row.title, row.task, row.data, plain(record.cell.what.get("probe", ""))] = {
            "encoder": row.title,
            "task": row.task,
            "data": row.data,
            "how": f"{plain(head['how'])}: {choice}" if choice else plain(head["how"]),
            "images": head["images"],
            "held_out": head["held_out"],
            "steps": head["steps"],
            "score": _score(head.get("score")),
            "train": _score(head.get("train")),
            "seeds": ", ".join(f"{100 * one[1]:.1f}" for one in others),
            "verdict": head["verdict"],
            "mark": MARKS[head["verdict"]],
            "reason": plain(head["reason"]),
        }
    return list(lines.values())


def _score(value: list[float] | None) -> tuple[str, str]:
    """(mean, its interval), both in percent."""
    if value is None:
        return "–", ""
    low, mean, high = (100 * min(1.0, max(0.0, one)) for one in value)
    return f"{mean:.1f}", f"{low:.1f}–{high:.1f}"
