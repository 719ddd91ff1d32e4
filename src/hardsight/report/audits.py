"""The audit in the report: one mark per check for each encoder and task, and the text of every warning and failure."""

from __future__ import annotations

import functools
from typing import Any

from hardsight.report.results import Table, plain

MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "none": "–"}
RANK = ("fail", "warn", "pass", "none")


@functools.lru_cache(maxsize=2)
def audits(table: Table) -> dict[str, Any]:
    """{"heads": titles of the checks, "lines": one per audited number, "problems": its warnings and failures}."""
    lines, heads = [], []
    for record in table.records:
        found = record.cell.audit
        if not found:
            continue
        row = table.rows[record.row]
        checks = {plain(one["title"]): one for one in found["checks"]}
        heads += [title for title in checks if title not in heads]
        lines.append(
            {
                "encoder": row.title,
                "task": row.task,
                "data": row.data,
                "attack": f"{plain(found.get('attack') or row.names[record.column])} {record.column.eps_text}",
                "images": found["images"],
                "unlabelled": found.get("unlabelled", 0),
                "verdict": found["verdict"],
                "checks": {title: (one["verdict"], plain(one["reason"])) for title, one in checks.items()},
            }
        )
    problems = [
        {
            "verdict": verdict,
            "who": f"{line['encoder']} · {line['task']} on {line['data']}",
            "title": title,
            "reason": reason,
        }
        for line in lines
        for title, (verdict, reason) in line["checks"].items()
        if verdict in ("warn", "fail")
    ]
    problems.sort(key=lambda one: RANK.index(one["verdict"]))
    for line in lines:
        marks = [line["checks"].get(title, ("none", "not run")) for title in heads]
        line["marks"] = [(verdict, MARKS[verdict], reason) for verdict, reason in marks]
    return {"heads": heads, "lines": lines, "problems": problems}


def sentence(table: Table) -> str:
    """The audit in one line: how many numbers pass, warn and fail; empty if none was audited."""
    lines = audits(table)["lines"]
    if not lines:
        return ""
    counts = {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in RANK}
    parts = [f"{counts[verdict]} {verdict}" for verdict in ("pass", "warn", "fail") if counts[verdict]]
    numbers = f"{len(lines)} numbers, each" if len(lines) > 1 else "1 number"
    return f"audit of {numbers} by {len(lines[0]['checks'])} checks: {', '.join(parts)}"
