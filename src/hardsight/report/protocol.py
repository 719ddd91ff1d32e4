"""Reported beside measured: cells that were run under a protocol, and the published figures that they may be compared with.

A cell is comparable if nothing in it departs from its protocol (`departures` in its record), it is finished, and the encoder
reads images at the published size. It agrees if the reported value is within the measured 95% interval widened by half a unit
of the reported value's last digit, else it disagrees. Of a cell that is not comparable, every reason is given, but neither a
verdict nor the reported value: whoever reads two numbers subtracts them. `hardsight show CLAIM` gives the value.
"""

from __future__ import annotations

import re
from typing import Any

from hardsight.core.errors import SpecError
from hardsight.metrics import of
from hardsight.report.claims import Claim, shipped
from hardsight.report.results import CLEAN, Column, Number, Record, Table, plain, shown
from hardsight.specs.catalog import complete
from hardsight.specs.syntax import Call, read

READING = ("size", "resize", "positions", "preprocess")
"""Options of an encoder's spec that change how it reads images, not its weights."""
SAME = {"classpgd": "pgd"}
"""Names of attacks that claims have under another name."""
RULE = (
    "agrees: the reported value is within the measured 95% interval, widened by half a unit of the reported value's last "
    "digit; the interval shows another sample of images, not another training of the head"
)


def lines(table: Table, claims: tuple[Claim, ...] | None = None) -> list[dict[str, Any]]:
    """One line per cell that was run under a protocol, in the table's order; the shipped claims if none are given.

    "verdict": "agrees", "disagrees", "not comparable", or "no claim" where the source has no such figure. "reasons": why it
    is not comparable. "claim": the name, or "". "reported", "measured", "interval", "difference": texts; "reported_value",
    "half", "difference_value": in base units, or None. What is reported is given only where it may be compared.
    """
    claims = shipped()[0] if claims is None else claims
    found = []
    for record in table.records:
        protocol = record.cell.what.get("protocol")
        if not protocol:
            continue
        row, column = table.rows[record.row], record.column
        number = row.numbers[column]
        claim = next((one for one in claims if fits(one, record)), None)
        key = claim.metric if claim and claim.metric in number.metrics else row.metric
        label, unit, _ = of(record.cell.what["task_name"]).labels[key]
        value, low, high = number.metrics[key]
        line: dict[str, Any] = {
            "place": record.row,
            "column": column,
            "protocol": f"{plain(protocol['name'])}, version {plain(protocol['version'])}",
            "title": plain(protocol.get("title") or ""),
            "source": plain(protocol.get("source") or ""),
            "work": work(plain(protocol["name"])),
            "encoder": row.title,
            "task": row.task,
            "data": row.data,
            "attack": _attack(row.names[column], column),
            "metric": key,
            "label": f"{label} ({unit})" if unit else label,
            "unit": unit,
            "n": number.n,
            "claim": claim.name if claim else "",
            "reasons": _reasons(protocol, number, claim, record),
            "measured": shown(value, unit),
            "interval": f"{shown(low, unit)}–{shown(high, unit)}",
        }
        line |= _verdict(claim, line["reasons"], value, low, high, unit)
        found.append(line)
    return found


def fits(claim: Claim, record: Record) -> bool:
    """Whether a claim is on this cell's encoder, data, attack and eps, under its protocol in this version."""
    what, column = record.cell.what, record.column
    protocol = what["protocol"]
    if (claim.protocol, claim.version) != (str(protocol["name"]), str(protocol["version"])):
        return False
    if (claim.task, claim.data) != (what["task_name"], _reader(read(what["data"]))):
        return False
    attack = CLEAN if column.attack == CLEAN else _search(read(what["attack"]))
    if (
        SAME.get(attack, attack) != claim.attack
        or column.norm.casefold() != claim.norm
        or abs(column.eps - claim.eps) > 1e-7
    ):
        return False
    sha256 = (what.get("encoder_card") or {}).get("sha256")
    return bool(claim.sha256 and claim.sha256 == sha256) or _weights(what["encoder"]) in map(_weights, claim.specs)


def work(protocol: str) -> str:
    """The paper or benchmark of a protocol, in words: "paper 002" of paper002-segmentation."""
    first = protocol.partition("-")[0]
    return "RobustBench" if first == "robustbench" else re.sub(r"^paper(\d+)$", r"paper \1", first)


def groups(table: Table, claims: tuple[Claim, ...] | None = None) -> list[dict[str, Any]]:
    """`lines` by protocol: "compared" (with a verdict), "unlike" (reasons, and the cells they hold for), "silent" (no claim)."""
    made: dict[str, dict[str, Any]] = {}
    for line in lines(table, claims):
        head = {key: line[key] for key in ("protocol", "title", "source", "work")}
        group = made.setdefault(line["protocol"], head | {"compared": [], "unlike": {}, "silent": {}})
        if line["verdict"] in ("agrees", "disagrees"):
            group["compared"].append(line)
            continue
        cells = group["silent"] if line["verdict"] == "no claim" else group["unlike"].setdefault(tuple(line["reasons"]), {})
        at = f"{line['encoder']}, {line['task']} on {line['data']}"
        cells.setdefault(at, []).append(line["attack"])
    for group in made.values():
        group["unlike"] = [(reasons, _cells(cells)) for reasons, cells in group["unlike"].items()]
        group["silent"] = _cells(group["silent"])
    return list(made.values())


def sentences(table: Table, claims: tuple[Claim, ...] | None = None) -> list[str]:
    """What `groups` says, as lines of text for a terminal."""
    found = []
    for group in groups(table, claims):
        found += [
            f"{group['protocol']}: {one['encoder']}, {one['task']} on {one['data']}, {one['attack']}: reported "
            f"{one['reported']}, measured {one['measured']} [{one['interval']}] {one['unit']}".rstrip()
            + f": {one['mark']}"
            for one in group["compared"]
        ]
        found += [
            f"not comparable with {group['work']}, because: {'; '.join(reasons)} ({'; '.join(cells)})"
            for reasons, cells in group["unlike"]
        ]
        if group["silent"]:
            found.append(f"{group['protocol']} holds, but no figure is known for: {'; '.join(group['silent'])}")
    return found


def rows(table: Table, places: list[int], claims: tuple[Claim, ...] | None = None) -> list[list[str]]:
    """A header and one line per compared cell, for the table rows at `places`; empty if there are none."""
    head = ["encoder", "protocol", "attack", "metric", "reported", "measured", "verdict", "n"]
    found = [
        [
            *(one[key] for key in ("encoder", "protocol", "attack", "label", "reported")),
            f"{one['measured']} [{one['interval']}]",
            one["mark"],
            str(one["n"]),
        ]
        for one in lines(table, claims)
        if one["place"] in places and one["verdict"] in ("agrees", "disagrees")
    ]
    return [head, *found] if found else []


def notes(table: Table, places: list[int], claims: tuple[Claim, ...] | None = None) -> list[str]:
    """The sentences on cells that are not comparable, for the table rows at `places`."""
    found: dict[str, dict[str, None]] = {}
    for one in lines(table, claims):
        if one["place"] in places and one["verdict"] == "not comparable":
            text = f"not comparable with {one['work']}, because: {'; '.join(one['reasons'])}"
            found.setdefault(text, {})[f"{one['encoder']} {one['attack']}"] = None
    return [f"{text} ({', '.join(cells)})" for text, cells in found.items()]


def _verdict(claim: Claim | None, reasons: list[str], value: float, low: float, high: float, unit: str) -> dict[str, Any]:
    blank = {"reported": "", "reported_value": None, "half": None, "difference": "", "difference_value": None, "mark": ""}
    if reasons or claim is None:
        return blank | {"verdict": "not comparable" if reasons else "no claim"}
    agrees = low - claim.half <= claim.value + 1e-12 and claim.value - 1e-12 <= high + claim.half
    gap = value - claim.value
    apart = f"{100 * abs(gap):.1f} points" if unit == "%" else f"{abs(gap):.3f} {unit}".rstrip()
    return {
        "verdict": "agrees" if agrees else "disagrees",
        "mark": "agrees" if agrees else f"disagrees (by {apart}, measured is {'higher' if gap > 0 else 'lower'})",
        "reported": reported(claim),
        "reported_value": claim.value,
        "half": claim.half,
        "difference": f"{'+' if gap >= 0 else '−'}{apart}",
        "difference_value": gap,
    }


def reported(claim: Claim) -> str:
    """The value in the unit of our tables, with the digits that were published: "94" of 0.94."""
    digits = len(claim.text.partition(".")[2])
    return f"{100 * claim.value:.{max(0, digits - 2)}f}" if claim.unit == "fraction" else f"{float(claim.text):.{digits}f}"


def _reasons(protocol: dict[str, Any], number: Number, claim: Claim | None, record: Record) -> list[str]:
    found = [plain(one) for one in protocol.get("departures") or ()]
    if number.partial:
        found.append(f"the cell is not finished: {number.n} of {number.asked} images")
    card = record.cell.what.get("encoder_card") or {}
    size = card.get("resize") or card.get("size") or 0
    side = size if isinstance(size, int) else max(size)
    if claim and claim.size and side and side != claim.size:
        found.append(f"the encoder reads images at {side} px; reported is at {claim.size} px")
    return list(dict.fromkeys(found))


def _attack(name: str, column: Column) -> str:
    return name if column.attack == CLEAN else f"{name} {column.norm} {column.eps_text}".strip()


def _cells(cells: dict[str, list[str]]) -> list[str]:
    return [f"{at}: {', '.join(dict.fromkeys(attacks))}" for at, attacks in cells.items()]


def _search(call: Call) -> str:
    """The name of an attack, or, of attack(SEARCH, ...), of its search."""
    first = next((value for _, value in call.arguments if isinstance(value, Call)), None)
    return first.name if call.name == "attack" and first else call.name


def _reader(data: Call) -> str:
    """The name of a data set's reader, also where its images are resized."""
    inner = next((value for _, value in data.arguments if isinstance(value, Call)), None)
    return _reader(inner) if data.name == "resized" and inner else data.name


def _weights(spec: str) -> str:
    """An encoder's spec without the options that change how it reads images; any other text as it is."""
    try:
        call = complete(spec, "Encoder")
    except SpecError:
        return spec
    return repr(Call(call.name, tuple((key, value) for key, value in call.arguments if key not in READING)))
