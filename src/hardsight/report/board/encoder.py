"""The page of one encoder: every figure with its ranks, curves over eps, pictures, audit, provenance, and how to measure it."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from hardsight.core.errors import StoreError
from hardsight.report.audits import MARKS
from hardsight.report.board.data import Board
from hardsight.report.board.rankings import Ranking
from hardsight.report.figures import tag
from hardsight.report.measured import Entry, Settings
from hardsight.report.page import CARD
from hardsight.report.pictures import factor
from hardsight.report.plot import Plane, drawing, ticks_over
from hardsight.report.results import WORST, Column, plain
from hardsight.report.table import shown
from hardsight.specs.recipe import Recipe

PICTURES, SIDE = 2, 160
"""How many images of each setup are shown, and their longer side in pixels."""
DASHES = ("", "6 4", "1.5 4", "10 3 2 3", "3 3")


def page(board: Board, number: int, pictures: dict[tuple, str]) -> dict[str, Any]:
    """What the template of encoder `number` reads. pictures: encoded images by content, shared by the pages of a site."""
    entries = board.entries[number]
    mine = [(n, one, at) for n, one in enumerate(board.rankings) if (at := _at(one, board.keys[number])) is not None]
    sections = []
    for setup, name in board.setups:
        inside = [item for item in mine if item[1].setup == setup]
        if inside:
            own = [entry for entry in entries if entry.setup == setup]
            sections.append(_section(name, setup, inside, own, pictures))
    card = entries[0].what.get("encoder_card") or {}
    return {
        "name": board.names[number],
        "number": number,
        "spec": plain(board.keys[number][0]),
        "card": [(label, plain(_text(key, card[key]))) for key, label in CARD if card.get(key) not in (None, "", 0, [])],
        "sections": sections,
        "provenance": _provenance(entries),
    }


def _at(ranking: Ranking, key: tuple[str, str, str]) -> int | None:
    return next((place for place, entry in enumerate(ranking.entries) if entry.encoder == key), None)


def _text(key: str, value: Any) -> str:
    if key == "parameters":
        return f"{value / 1e6:.2f} M"
    return " × ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _section(
    name: str, setup: Settings, inside: list[tuple[int, Ranking, int]], entries: list[Entry], pictures: dict
) -> dict[str, Any]:
    first = inside[0][1].metric
    return {
        "name": name,
        "label": f"{first.label} ({first.unit})" if first.unit else first.label,
        "better": first.better,
        "lines": [_line(one, at) for _, one, at in inside],
        "curve": _curve([(one, at) for _, one, at in inside]),
        "pictures": _pictures(entries, pictures),
        "audits": [_audit(entry) for entry in entries if _found(entry, "audit")],
        "settings": [(key, value) for key, value in setup if value],
        "command": command(entries),
    }


def _line(one: Ranking, at: int) -> dict[str, Any]:
    unit, low, high = one.metric.unit, int(one.standing.low[at]), int(one.standing.high[at])
    alike = int((~one.differ[at]).sum()) - 1
    return {
        "title": one.title,
        "value": shown(one.values[at], unit),
        "range": f"{shown(one.low[at], unit)}–{shown(one.high[at], unit)}",
        "tail": shown(one.tail[at], unit),
        "rank": f"{low}" if low == high else f"{low}–{high}",
        "of": len(one.entries),
        "alike": alike,
        "n": len(one.ids),
        "cell": "" if one.kind == WORST else one.entries[at].cell.id,
        "departures": dict(one.under).get("departures from the protocol", ""),
        "protocol": dict(one.under).get("protocol", ""),
    }


def _curve(inside: list[tuple[Ranking, int]]) -> Markup | None:
    """The figure over eps, a line for each attack of the norm with most radii; None with fewer than two radii."""
    clean = next(((one, at) for one, at in inside if one.kind == "clean"), None)
    norms: dict[str, set[float]] = {}
    for one, _ in inside:
        if one.kind in ("attack", WORST) and one.eps > 0:
            norms.setdefault(one.norm, set()).add(one.eps)
    norm = max(norms, key=lambda name: len(norms[name]), default="")
    if len(norms.get(norm, ())) < 2:
        return None
    series: dict[str, list[tuple[float, float]]] = {}
    for one, at in inside:
        if one.norm == norm and one.eps > 0 and np.isfinite(one.values[at]):
            series.setdefault(one.title.partition(" · ")[0], []).append((one.eps, float(one.values[at])))
    percent = inside[0][0].metric.unit == "%"
    scale, metric = (100 if percent else 1), inside[0][0].metric
    start = [(0.0, float(clean[0].values[clean[1]]))] if clean else []
    most = max(value for line in [*series.values(), start] for _, value in line) * scale
    ticks = ticks_over(0.0, most or 1.0)
    texts = dict(
        sorted({one.eps: one.title.rpartition(" ")[2] for one, _ in inside if one.norm == norm and one.eps > 0}.items())
    )
    plane = Plane((0.0, max(texts)), (0.0, ticks[-1]), width=460.0, height=270.0, right=20.0, top=26.0)
    unit = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    parts = [plane.axes(f"{norm} eps", unit, [0.0, *texts], ticks, ["0", *texts.values()])]
    legend, y = Markup(), plane.height + 12
    for place, (name, line) in enumerate(series.items()):
        points = [(eps, scale * value) for eps, value in [*start, *sorted(line)]]
        css, dash = f"line c{place % 8}", DASHES[place % len(DASHES)]
        parts.append(plane.path(points, class_=css, stroke_dasharray=dash or None))
        parts += [
            tag("circle", cx=x, cy=top, r=3.0, class_=f"mark c{place % 8}") for x, top in (plane.at(*p) for p in points)
        ]
        legend += tag("line", x1=8.0, x2=36.0, y1=y - 4, y2=y - 4, class_=css, stroke_dasharray=dash or None)
        legend += tag("text", name, x=44.0, y=y)
        y += 18
    return drawing(f"{unit} over eps", plane.width, y, *parts, legend)


def _found(entry: Entry, what: str) -> Any:
    """An audit or gallery; None if there is none or it cannot be read, which the figures do not depend on."""
    try:
        return entry.cell.audit if what == "audit" else entry.cell.gallery()
    except StoreError:
        return None


def _audit(entry: Entry) -> dict[str, Any]:
    found = _found(entry, "audit")
    return {
        "title": entry.title,
        "verdict": plain(found["verdict"]),
        "checks": [(MARKS.get(one["verdict"], "–"), plain(one["title"]), plain(one["reason"])) for one in found["checks"]],
    }


def _pictures(entries: list[Entry], known: dict[tuple, str]) -> list[dict[str, Any]]:
    """The first images: clean, attacked by the attack of largest eps, and the difference."""
    attacked = [entry for entry in entries if entry.attack != "clean" and not entry.natural]
    for entry in sorted(attacked, key=lambda one: -float(one.what.get("eps", 0) or 0)):
        if found := _found(entry, "gallery"):
            column = Column(entry.attack, "", entry.norm, float(entry.what.get("eps", 0) or 0))
            lines = []
            for place, name in enumerate(found["id"][:PICTURES]):
                delta = found["delta"][place].astype(np.float64)
                grey = np.round(255 * np.clip(0.5 + delta * factor(column, delta), 0, 1)).astype(np.uint8)
                three = (found["image"][place], found["x_adv"][place], grey)
                lines.append({"id": plain(name), "title": entry.title, "uris": [_jpeg(one, known) for one in three]})
            return lines
    return []


def _jpeg(pixels: np.ndarray, known: dict[tuple, str]) -> str:
    """A data URI. differs from the report's galleries: JPEG, which takes a tenth of the time of WebP over hundreds of pages."""
    key = (pixels.shape, hash(pixels.tobytes()))
    if key not in known:
        image = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
        image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=88, subsampling=0)
        known[key] = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
    return known[key]


def _provenance(entries: list[Entry]) -> list[tuple[str, str]]:
    """What the encoder's cells were measured with; several values if they differ."""
    dones = [entry.done for entry in entries]
    gits = [done.get("git") or {} for done in dones]
    names = sorted({name for done in dones for name in done.get("versions", {})})
    pairs = [
        ("stores", [entry.store for entry in entries]),
        ("cells", [str(len(entries))]),
        ("finished", [str(done.get("finished", "unknown"))[:10] for done in dones]),
        ("device", [done.get("device", "unknown") for done in dones]),
        ("seconds", [f"{sum(float(done.get('seconds', 0)) for done in dones):.0f}"]),
        ("git revision", [f"{git.get('revision', 'unknown')}{' with changes' if git.get('dirty') else ''}" for git in gits]),
        *((name, [done.get("versions", {}).get(name, "") for done in dones]) for name in names),
    ]
    return [(name, ", ".join(_once(values))) for name, values in pairs]


def _once(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(plain(value) for value in values if value not in ("", None)))


def command(entries: list[Entry]) -> str:
    """The `hardsight bench` that measures these cells of one setup again; words are quoted for a shell."""
    what = entries[0].what
    words = ["hardsight", "bench", "--encoder", what["encoder"], "--task", what["task"], "--data", what["data"]]
    clean = [entry for entry in entries if entry.attack == "clean"]
    for attack in ["clean"] * bool(clean) + _once(entry.what["attack"] for entry in entries if entry.attack != "clean"):
        words += ["--attack", attack]
    for threat in _once(entry.what["threat"] for entry in entries if entry.attack != "clean" and not entry.natural):
        words += ["--threat", threat]
    asked = [("--count", "count"), ("--seed", "seed"), ("--precision", "precision")]
    words += [part for option, key in asked if key in what for part in (option, str(what[key]))]
    settings = [("probe", what["probe"]), ("chunk", what.get("chunk")), ("split", what.get("split"))]
    plainly = Recipe()
    for key, value in settings:
        if value not in (None, "") and str(value) != str(getattr(plainly, key)):
            words += ["--set", f"{key}={value}"]
    return " ".join(shlex.quote(plain(word)) for word in words)
