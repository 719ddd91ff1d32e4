"""Two stores, cells or encoders against each other: what differs in settings, and in numbers, paired on the same images.

Cells are compared only if they answer the same question about the same images (`measured`). The p-values of all comparisons
are corrected by Holm's method. For use in continuous integration, B fails a comparison if it is worse than A by more than a
limit, if the 95% interval of the difference excludes that limit, and if the difference holds after Holm's correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from hardsight.core.errors import SpecError, StoreError, nearest
from hardsight.metrics import Metric, of
from hardsight.metrics.paired import LEVEL, Difference, difference, holm
from hardsight.metrics.worst import counts_for
from hardsight.report.measured import Entry, differing, names_of, read
from hardsight.report.results import plain
from hardsight.report.table import shown
from hardsight.specs.catalog import complete, minimal
from hardsight.specs.syntax import show


@dataclass(frozen=True)
class Line:
    """One comparison. adjusted: p after Holm's correction over all lines; fails: None if no limit was given."""

    title: str
    metric: Metric
    a: float
    b: float
    found: Difference
    adjusted: float
    settings: list[str]
    fails: bool | None

    @property
    def verdict(self) -> str:
        if self.adjusted >= LEVEL:
            return "no difference"
        return "B better" if (self.found.value > 0) == (self.metric.better == "higher") else "B worse"


@dataclass(frozen=True)
class Comparison:
    """a, b: the names of both sides. missing: cells of one side without one to compare, and why; lacking: those that A has."""

    a: str
    b: str
    lines: list[Line]
    missing: list[str]
    lacking: list[str]
    left_out: list[str]

    @property
    def failures(self) -> int:
        """Lines in which B fails, and cells of A that B lacks."""
        return sum(bool(line.fails) for line in self.lines) + len(self.lacking)


def compare(a: str, b: str, store: Path | None = None, limit: float | None = None) -> Comparison:
    """Compares stores, cells (their folders) or encoders of `store`, by name or spec.

    limit: B fails a line if it is worse by more than this many points: percentage points of a share, else percent of A's
    figure. Raises `SpecError` if nothing can be compared.
    """
    sides, left_out = [], []
    for text in (a, b):
        entries, skipped = _side(text, store)
        sides.append(entries)
        left_out += skipped
    pairs, lacking, extra = _matched(*sides)
    if not pairs:
        reasons = "; ".join((lacking or extra or left_out)[:3])
        raise SpecError(f"nothing of '{plain(a)}' and '{plain(b)}' can be compared: {reasons or 'one has no finished cell'}")
    found = [_difference(one, other) for one, other in pairs]
    adjusted = holm([line[3].p for line in found])
    lines = []
    for (one, other), (metric, before, after, gap), p in zip(pairs, found, adjusted, strict=True):
        fails = None if limit is None else _fails(metric, before, gap, float(p), limit)
        title = f"{plain(one.what['task_name'])} on {plain(one.what.get('data_name') or one.what['data'])}: {one.title}"
        lines.append(Line(title, metric, before, after, gap, float(p), _settings(one, other), fails))
    return Comparison(
        plain(a), plain(b), lines, lacking + extra, lacking if limit is not None else [], list(dict.fromkeys(left_out))
    )


def _side(text: str, store: Path | None) -> tuple[list[Entry], list[str]]:
    path = Path(text)
    if (path / "store.json").exists():
        return read([path])
    if (path / "cell.json").exists() and (path.parent.parent / "store.json").exists():
        entries, left_out = read([path.parent.parent])
        own = [entry for entry in entries if entry.cell.id == path.name]
        return own, [line for line in left_out if str(path) in line] if not own else []
    if store is None:
        raise SpecError(
            f"'{plain(text)}' is neither a store nor a cell's folder; for an encoder of a store, give --store STORE"
        )
    entries, left_out = read([store])
    names = names_of(entries)
    wanted = {text, _stored(text)}
    own = [entry for entry in entries if wanted & {names[entry.encoder], entry.encoder[0]}]
    if not own:
        known = sorted(set(names.values()))
        raise SpecError(
            f"{store} has no finished cell of an encoder '{plain(text)}'{nearest(text, known) or '; it has ' + ', '.join(known)}"
        )
    return own, left_out


def _stored(text: str) -> str:
    """An encoder's spec as cells keep it: `zoo('made_simclr')` of `zoo:made_simclr`; of what is no spec, the text itself."""
    try:
        return show(minimal(complete(text, "Encoder")))
    except SpecError:
        return text


Pair = tuple[Entry, Entry]


def _matched(a: list[Entry], b: list[Entry]) -> tuple[list[Pair], list[str], list[str]]:
    """(pairs of the same question, cells of A without one of B, cells of B without one of A, both with the reason).

    With several encoders on both sides, also of the same encoder: by its spec, as its weights may have changed.
    """
    many = max(len({entry.encoder[0] for entry in side}) for side in (a, b)) > 1

    def key(entry: Entry) -> tuple:
        return (entry.setup, entry.under, entry.encoder[0] if many else "")

    there = {key(entry): entry for entry in b}
    mine = {key(entry) for entry in a}
    pairs = [(entry, there[key(entry)]) for entry in a if key(entry) in there]
    lacking = [f"only A has {_said(entry)}{_why(entry, b, many)}" for entry in a if key(entry) not in there]
    extra = [f"only B has {_said(entry)}{_why(entry, a, many)}" for entry in b if key(entry) not in mine]
    return pairs, lacking, extra


def _said(entry: Entry) -> str:
    return f"{entry.name}, {plain(entry.what['task_name'])}, {entry.title}"


def _why(entry: Entry, others: Sequence[Entry], many: bool) -> str:
    """What differs from the cell of the other side that is most like it."""
    alike = [other for other in others if not many or other.encoder[0] == entry.encoder[0]]
    alike = [other for other in alike if other.under == entry.under and other.what["task"] == entry.what["task"]] or alike
    gaps = [differing(entry.setup + entry.under, other.setup + other.under) for other in alike]
    least = min(gaps, key=len, default=[])
    return f" ({'; '.join(least)})" if least and len(least) <= 3 else ""


def _difference(one: Entry, other: Entry) -> tuple[Metric, float, float, Difference]:
    metric = of(one.what["task_name"])
    rows = [entry.rows() for entry in (one, other)]
    if not np.array_equal(rows[0]["id"], rows[1]["id"]):
        shared = np.intersect1d(rows[0]["id"], rows[1]["id"])
        if not len(shared):
            raise StoreError(f"{one.cell.path} and {other.cell.path} have no image in common")
        rows = [{key: value[np.isin(own["id"], shared)] for key, value in own.items()} for own in rows]
    counts = [counts_for(own, metric, metric.headline) for own in rows]
    before, after = (metric.summary(own)[metric.headline] for own in counts)
    return metric, before, after, difference(metric, counts[0], counts[1])


def _fails(metric: Metric, before: float, gap: Difference, p: float, limit: float) -> bool:
    """Whether B is worse by more than the limit, with the whole interval, after Holm's correction."""
    allowed = limit / 100 * (1.0 if metric.unit == "%" else abs(before))
    best_for_b = gap.high if metric.better == "higher" else -gap.low
    return bool(best_for_b < -allowed and p < LEVEL)


def _settings(one: Entry, other: Entry) -> list[str]:
    """What differs between two cells of the same question: encoder, weights, files, versions, device, time."""
    found = (
        [] if one.encoder[0] == other.encoder[0] else [f"encoder: {plain(other.encoder[0])}, not {plain(one.encoder[0])}"]
    )
    if one.encoder[0] == other.encoder[0] and one.encoder[1:] != other.encoder[1:]:
        found.append("the weights of the encoder")
    for key in ("chunk", "device"):
        values = [str(entry.what.get(key, entry.done.get(key, ""))) for entry in (one, other)]
        found += [f"{key}: {plain(values[1])}, not {plain(values[0])}"] if values[0] != values[1] else []
    versions = [entry.done.get("versions") or {} for entry in (one, other)]
    git = [str((entry.done.get("git") or {}).get("revision", "")) for entry in (one, other)]
    changed = [name for name in sorted({*versions[0], *versions[1]}) if versions[0].get(name) != versions[1].get(name)]
    found += [
        f"{plain(name)}: {plain(versions[1].get(name, 'none'))}, not {plain(versions[0].get(name, 'none'))}"
        for name in changed
    ]
    found += [f"git revision: {plain(git[1])}, not {plain(git[0])}"] if git[0] != git[1] else []
    return found


def settings(found: Comparison) -> list[str]:
    """What differs in any of the lines, each once."""
    return list(dict.fromkeys(text for line in found.lines for text in line.settings))


def cells(line: Line) -> list[str]:
    """A line as texts: what, A, B, B - A with its interval, p, p after Holm, n, verdict."""
    unit, gap = line.metric.unit, line.found
    sign = "+" if gap.value > 0 else ""
    span = f"[{shown(gap.low, unit)}, {shown(gap.high, unit)}]"
    verdict = line.verdict + (", FAILS" if line.fails else "")
    return [
        f"{line.title}, {line.metric.label}{f' ({unit})' if unit else ''}", shown(line.a, unit), shown(line.b, unit),
        f"{sign}{shown(gap.value, unit)} {span}", f"{gap.p:.2g}", f"{line.adjusted:.2g}", str(gap.n), verdict,
    ]  # fmt: skip


def document(found: Comparison) -> dict[str, Any]:
    """Everything as JSON, in base units (fractions, metres)."""
    lines = [
        {
            "title": line.title, "metric": line.metric.headline, "better": line.metric.better, "a": line.a, "b": line.b,
            "difference": line.found.value, "low": _finite(line.found.low), "high": _finite(line.found.high),
            "p": line.found.p, "p_holm": line.adjusted, "n": line.found.n, "verdict": line.verdict, "fails": line.fails,
            "settings": line.settings,
        }
        for line in found.lines
    ]  # fmt: skip
    return {
        "a": found.a, "b": found.b, "settings": settings(found), "lines": lines, "not_compared": found.missing,
        "left_out": found.left_out, "failures": found.failures,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def junit(found: Comparison) -> bytes:
    """JUnit XML: a test case for each comparison, and one for each cell of A that B lacks."""
    suite = ElementTree.Element(
        "testsuite", name=f"hardsight compare {found.a} {found.b}", tests=str(len(found.lines) + len(found.lacking)),
        failures=str(found.failures), errors="0", skipped="0",
    )  # fmt: skip
    for line in found.lines:
        case = ElementTree.SubElement(suite, "testcase", classname="hardsight.compare", name=line.title)
        text = "; ".join(cells(line)[1:])
        if line.fails:
            ElementTree.SubElement(case, "failure", message=f"B is worse than A: {cells(line)[3]}").text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    for text in found.lacking:
        case = ElementTree.SubElement(suite, "testcase", classname="hardsight.compare", name=text)
        ElementTree.SubElement(case, "failure", message="B has no finished cell to compare with")
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
