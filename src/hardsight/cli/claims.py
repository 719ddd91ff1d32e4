"""Published figures on the command line: the rows of `hardsight list claims`, the text of `hardsight show CLAIM`; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from hardsight.report.claims import Claim, found, shipped


def rows() -> Iterator[tuple[str, str, str]]:
    """(name, kind, description) of every row of the sources' tables, then of every finding."""
    claims, findings = shipped()
    for name, group in groupby(claims, key=lambda one: one.row):
        each = list(group)
        values = ", ".join(f"{one.text} ({one.under})" for one in each)
        yield name, "claim", f"{each[0].encoder}: {each[0].metric} on {each[0].data}: {values} {each[0].unit}"
    for one in findings:
        yield one.name, "finding", one.says


def text(name: str) -> str:
    """A row of a source's table, one of its values, or a finding, in full; `SpecError` for an unknown name."""
    chosen = found(name)
    first = chosen[0]
    facts = {"source": f"{first.source}: {first.title}", "reference": first.reference, "place": first.place}
    if isinstance(first, Claim):
        facts |= {"encoder": first.encoder, "specs": ", ".join(first.specs), "weights": first.sha256}
        facts |= {"size": f"{first.size} px" if first.size else "", "task": f"{first.task} on {first.data}"}
        facts |= {"protocol": f"{first.protocol} {first.version}".strip() or "none of ours", "setting": first.setting}
        facts |= {"note": first.note}
        facts |= {one.under: f"{one.metric} {one.text} {one.unit}" for one in chosen if isinstance(one, Claim)}
    else:
        facts |= {"says": first.says, "compare": first.compare}
    width = max(map(len, facts))
    return "\n".join([name, "", *(f"{key:{width}}  {value}" for key, value in facts.items() if value)])
