"""The geometry of encoders as a person reads it: a table for a terminal, one JSON document, one self-contained page with pictures.

write(portraits, "out")    geometry.html, geometry.json and, image by image, a geometry-NN.npz an encoder
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from hardsight.metrics.portrait import FIGURES, Portrait
from hardsight.report import geometry_charts as charts
from hardsight.report.figures import COLOURS
from hardsight.report.geometry_charts import said, share, span
from hardsight.report.page import CARD
from hardsight.store.files import write_arrays, write_bytes

BESIDE = 4
"""Encoders beside one another in a terminal's table."""
PICTURED = 6
"""More encoders than this, as a long run has: pictures of one encoder are drawn of the first, the last and two between."""
FLAT = 0.1
"""A search whose gradient was zero at more than this share of its readings is told."""
COLLAPSED = 2.0
"""An effective rank below this."""


def write(portraits: Sequence[Portrait], folder: str | Path, title: str = "Geometry of encoders") -> dict[str, Path]:
    """Writes the page, the document and the arrays into `folder`, each whole or not at all; where they are, by kind."""
    folder = Path(folder)
    paths = {"html": folder / "geometry.html", "json": folder / "geometry.json", "npz": folder / "geometry-00.npz"}
    for place, one in enumerate(portraits):
        arrays = {name: getattr(one.sights, name) for name in ("id", "label", "clean", "attacked", "weight", "bias", "size")}
        write_arrays(folder / f"geometry-{place:02d}.npz", {**arrays, **one.sights.rows})
    write_bytes(paths["json"], (json.dumps(document(portraits), indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(paths["html"], html(portraits, title).encode())
    return paths


def document(portraits: Sequence[Portrait]) -> dict[str, Any]:
    """Every number with its interval, count and seed, and what each is; a number that is none is null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "figures": {
            key: {"group": one.group, "label": one.label, "better": one.better, "what": one.told, "source": one.source}
            for key, one in FIGURES.items()
        },
        "encoders": [
            {
                "label": one.label,
                "encoder": one.spec,
                "series": one.series,
                "epoch": one.epoch,
                **one.facts,
                "numbers": {
                    key: {"value": finite(n.value), "low": finite(n.low), "high": finite(n.high), "n": n.n}
                    for key, n in one.numbers.items()
                },
                "card": one.card,
            }
            for one in portraits
        ],
    }


def caption(portraits: Sequence[Portrait]) -> str:
    """What all numbers share, as every table must say."""
    facts = portraits[0].facts
    return (
        f"{facts['data']} ({facts['split']}) · n = {facts['count']} images · seed {facts['seed']} · {facts['threat']} · "
        f"{facts['attack']}, k = {facts['k']}, {facts['probe']}, {facts['views']} · 95% intervals over images"
    )


def terminal(portraits: Sequence[Portrait]) -> Group:
    """A line a figure, a column an encoder, `BESIDE` of them in a table: value over interval."""
    tables = []
    for start in range(0, len(portraits), BESIDE):
        part = portraits[start : start + BESIDE]
        out = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, padding=(0, 1))
        for heading in ("", "figure"):
            out.add_column(heading, no_wrap=True)
        for one in part:
            out.add_column(Text(one.label), justify="right", overflow="fold", min_width=16)
        keys = list(FIGURES)
        for at, key in enumerate(keys):
            figure = FIGURES[key]
            first = at == 0 or FIGURES[keys[at - 1]].group != figure.group
            last = at + 1 == len(keys) or FIGURES[keys[at + 1]].group != figure.group
            numbers = [Text(f"{said(n.value)}\n{span(n)}", justify="right") for one in part for n in (one.numbers[key],)]
            label = f"{figure.label} {figure.arrow}".strip()
            out.add_row(figure.group if first else "", label, *numbers, end_section=last)
        tables.append(out)
    return Group(*tables, Text(caption(portraits)), *(Text(f"note: {one}") for one in warnings(portraits)))


def warnings(portraits: Sequence[Portrait]) -> list[str]:
    """What a reader must know before trusting a number here."""
    found = []
    images, widest = len(portraits[0].sights), max(one.sights.clean.shape[1] for one in portraits)
    if widest > images:
        found.append(
            f"{images} images cannot show more than as many of {widest} dimensions; the effective rank grows with them"
        )
    for one in portraits:
        numbers, facts = one.numbers, one.facts
        if facts.get("flat", 0) > FLAT:
            found.append(
                f"{one.label}: the gradient was zero at {facts['flat']:.0%} of EmbedAttack's readings; it may be blind, and the "
                "local Lipschitz constant far greater"
            )
        if facts.get("halted"):
            found.append(
                f"{one.label}: loss or gradient was not a number on {facts['halted']} images, whose search ended there"
            )
        if numbers["rank"].value < COLLAPSED:
            found.append(
                f"{one.label}: its embeddings have collapsed, to an effective rank of {said(numbers['rank'].value)}"
            )
        chance = numbers["same_class"].value
        if numbers["accuracy"].low <= chance:
            found.append(
                f"{one.label}: its probe is hardly better than chance ({chance:.0%}), so that its margins tell little"
            )
    return found


def finding(one: Portrait) -> str:
    """One encoder's robustness in a sentence: what the label-free attack leaves, and what the probe's own does."""
    numbers = one.numbers
    embed, task = numbers["accuracy_embed"], numbers["accuracy_task"]
    text = (
        f"{one.label}: EmbedAttack moves an embedding {said(numbers['moved'].value)} of the distance between two images; the probe "
        f"goes from {share(one, 'accuracy')} right to {share(one, 'accuracy_embed')}, and under its own PGD to "
        f"{share(one, 'accuracy_task')}"
    )
    if embed.low > task.high:
        text += "; the attack that knows no label understates how it breaks"
    return text + "."


def chosen(portraits: Sequence[Portrait]) -> list[tuple[int, Portrait]]:
    """(place, portrait) of those that get pictures of their own."""
    every = list(enumerate(portraits))
    if len(every) <= PICTURED:
        return every
    last = len(every) - 1
    return [every[round(last * part / 3)] for part in range(4)]


def html(portraits: Sequence[Portrait], title: str = "Geometry of encoders") -> str:
    """The page as text; the same portraits give the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    pictured = chosen(portraits)
    few = [one for _, one in pictured]
    most = charts.widest_margin(few)
    facts = portraits[0].facts
    return environment.get_template("geometry.html.j2").render(
        title=title,
        lead=_lead(portraits),
        warnings=warnings(portraits),
        findings=[finding(one) for one in (few if not few[0].series else [few[0], few[-1]])],
        caption=caption(portraits),
        heads=[(one.label, place % COLOURS) for place, one in enumerate(portraits)],
        groups=_groups(portraits),
        figures=list(FIGURES.values()),
        compared=None if len(portraits) > PICTURED else charts.compared(portraits),
        together=[charts.sphere(few), charts.spectra(few)],
        maps=[charts.plane_map(one) for one in few],
        margins=[charts.margins(one, place, most) for place, one in enumerate(few)],
        cosines=[charts.cosines(one, place) for place, one in enumerate(few)],
        epochs=charts.epochs(portraits) if sum(one.epoch is not None for one in portraits) > 1 else [],
        left_out=len(portraits) - len(few),
        cards=_cards(portraits),
        settings=[
            (name, facts[name])
            for name in ("data", "split", "count", "seed", "threat", "attack", "views", "probe", "k")
            if name in facts
        ],
    )


def _lead(portraits: Sequence[Portrait]) -> str:
    facts, count = portraits[0].facts, len(portraits)
    who = f"{count} encoders" if count > 1 else portraits[0].label
    if series := list(dict.fromkeys(one.series for one in portraits if one.series)):
        who = f"{count} snapshots of {', '.join(series)}"
    return (
        f"How the embeddings of {who} lie in their space: on {facts['count']:,} images of {facts['data']}, clean, in two random "
        f"views, and attacked within {facts['threat']}."
    )


def _groups(portraits: Sequence[Portrait]) -> list[dict[str, Any]]:
    """The table: figures by group, each with a cell an encoder."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, figure in FIGURES.items():
        cells = [(said(one.numbers[key].value), span(one.numbers[key])) for one in portraits]
        groups.setdefault(figure.group, []).append({"figure": figure, "cells": cells})
    return [{"name": name, "lines": lines} for name, lines in groups.items()]


def _cards(portraits: Sequence[Portrait]) -> dict[str, Any]:
    fields = [(key, label) for key, label in CARD if any(one.card.get(key) not in (None, "", 0) for one in portraits)]
    lines = [
        {"name": one.label, "spec": one.spec, "cells": [_fact(one.card.get(key), key) for key, _ in fields]}
        for one in portraits
    ]
    return {"heads": [label for _, label in fields], "lines": lines}


def _fact(value: Any, key: str) -> str:
    if value in (None, ""):
        return "–"
    if key == "parameters":
        return f"{value / 1e6:.2f} M" if value >= 1e4 else f"{value}"
    return str(value)[:12] if key == "sha256" else str(value)
