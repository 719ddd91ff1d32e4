"""The report on embedding statistics: a table for a terminal, a JSON document, and a self-contained HTML page with charts.

write(results, "out")    geometry.html, geometry.json and, per encoder, a geometry-NN.npz with the per-image arrays
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

from hardsight.metrics.embeddings import FIGURES, EncoderGeometry
from hardsight.report import geometry_charts as charts
from hardsight.report.figures import COLOURS
from hardsight.report.geometry_charts import formatted, share, span
from hardsight.report.page import CARD
from hardsight.store.files import write_arrays, write_bytes

PER_TABLE = 4
"""Encoders per table in a terminal."""
PICTURED = 6
"""Charts of single encoders are drawn for all up to this number; of more, for the first, the last and two in between."""
ZERO_SHARE = 0.1
"""Warn if the gradient was zero in more than this share of the attack's forward passes."""
COLLAPSED = 2.0
"""Warn if the effective rank is below this."""


def write(results: Sequence[EncoderGeometry], folder: str | Path, title: str = "Geometry of encoders") -> dict[str, Path]:
    """Writes the page, the document and the arrays into `folder`, each atomically; returns their paths by kind."""
    folder = Path(folder)
    paths = {"html": folder / "geometry.html", "json": folder / "geometry.json", "npz": folder / "geometry-00.npz"}
    for place, one in enumerate(results):
        arrays = {
            name: getattr(one.embeddings, name) for name in ("id", "label", "clean", "attacked", "weight", "bias", "size")
        }
        write_arrays(folder / f"geometry-{place:02d}.npz", {**arrays, **one.embeddings.rows})
    write_bytes(paths["json"], (json.dumps(document(results), indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(paths["html"], html(results, title).encode())
    return paths


def document(results: Sequence[EncoderGeometry]) -> dict[str, Any]:
    """Every number with its interval, count and seed, and the definition of each figure; non-finite numbers are null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "figures": {
            key: {"group": one.group, "label": one.label, "better": one.better, "what": one.meaning, "source": one.source}
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
            for one in results
        ],
    }


def caption(results: Sequence[EncoderGeometry]) -> str:
    """The settings that all numbers share, for the caption of every table."""
    facts = results[0].facts
    return (
        f"{facts['data']} ({facts['split']}) · n = {facts['count']} images · seed {facts['seed']} · {facts['threat']} · "
        f"{facts['attack']}, k = {facts['k']}, {facts['probe']}, {facts['views']} · 95% intervals over images"
    )


def terminal(results: Sequence[EncoderGeometry]) -> Group:
    """One row per figure and one column per encoder, `PER_TABLE` encoders in a table: value above interval."""
    tables = []
    for start in range(0, len(results), PER_TABLE):
        part = results[start : start + PER_TABLE]
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
            numbers = [
                Text(f"{formatted(n.value)}\n{span(n)}", justify="right") for one in part for n in (one.numbers[key],)
            ]
            label = f"{figure.label} {figure.arrow}".strip()
            out.add_row(figure.group if first else "", label, *numbers, end_section=last)
        tables.append(out)
    return Group(*tables, Text(caption(results)), *(Text(f"note: {one}") for one in warnings(results)))


def warnings(results: Sequence[EncoderGeometry]) -> list[str]:
    """Warnings about numbers that may be misleading."""
    found = []
    images, widest = len(results[0].embeddings), max(one.embeddings.clean.shape[1] for one in results)
    if widest > images:
        found.append(
            f"{images} images span at most {images} of {widest} dimensions, so the effective rank grows with their number"
        )
    for one in results:
        numbers, facts = one.numbers, one.facts
        if facts.get("flat", 0) > ZERO_SHARE:
            found.append(
                f"{one.label}: the gradient was zero in {facts['flat']:.0%} of EmbedAttack's forward passes; gradients may "
                "be masked, and the local Lipschitz constant may be much larger"
            )
        if facts.get("halted"):
            found.append(
                f"{one.label}: loss or gradient was not finite on {facts['halted']} images, where the attack stopped early"
            )
        if numbers["rank"].value < COLLAPSED:
            found.append(
                f"{one.label}: its embeddings have collapsed to an effective rank of {formatted(numbers['rank'].value)}"
            )
        chance = numbers["same_class"].value
        if numbers["accuracy"].low <= chance:
            found.append(f"{one.label}: its probe is hardly better than chance ({chance:.0%}), so its margins mean little")
    return found


def finding(one: EncoderGeometry) -> str:
    """One encoder's robustness in a sentence: probe accuracy clean, under the label-free attack, and under PGD."""
    numbers = one.numbers
    embed, task = numbers["accuracy_embed"], numbers["accuracy_task"]
    text = (
        f"{one.label}: EmbedAttack moves an embedding by {formatted(numbers['moved'].value)} times the typical distance "
        f"between two images. The probe's accuracy is {share(one, 'accuracy')} on clean images, "
        f"{share(one, 'accuracy_embed')} under EmbedAttack, and {share(one, 'accuracy_task')} under PGD on its own loss"
    )
    if embed.low > task.high:
        text += "; so the label-free attack overestimates its robustness"
    return text + "."


def chosen(results: Sequence[EncoderGeometry]) -> list[tuple[int, EncoderGeometry]]:
    """(index, result) of the encoders for which single charts are drawn."""
    every = list(enumerate(results))
    if len(every) <= PICTURED:
        return every
    last = len(every) - 1
    return [every[round(last * part / 3)] for part in range(4)]


def html(results: Sequence[EncoderGeometry], title: str = "Geometry of encoders") -> str:
    """The page as text; the same results give the same page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    pictured = chosen(results)
    few = [one for _, one in pictured]
    most = charts.widest_margin(few)
    facts = results[0].facts
    return environment.get_template("geometry.html.j2").render(
        title=title,
        lead=_lead(results),
        warnings=warnings(results),
        findings=[finding(one) for one in (few if not few[0].series else [few[0], few[-1]])],
        caption=caption(results),
        heads=[(one.label, place % COLOURS) for place, one in enumerate(results)],
        groups=_groups(results),
        figures=list(FIGURES.values()),
        compared=None if len(results) > PICTURED else charts.compared(results),
        together=[charts.sphere(few), charts.spectra(few)],
        maps=[charts.pca_map(one) for one in few],
        margins=[charts.margins(one, place, most) for place, one in enumerate(few)],
        cosines=[charts.cosines(one, place) for place, one in enumerate(few)],
        epochs=charts.epochs(results) if sum(one.epoch is not None for one in results) > 1 else [],
        left_out=len(results) - len(few),
        cards=_cards(results),
        settings=[
            (name, facts[name])
            for name in ("data", "split", "count", "seed", "threat", "attack", "views", "probe", "k")
            if name in facts
        ],
    )


def _lead(results: Sequence[EncoderGeometry]) -> str:
    facts, count = results[0].facts, len(results)
    who = f"{count} encoders" if count > 1 else results[0].label
    if series := list(dict.fromkeys(one.series for one in results if one.series)):
        who = f"{count} snapshots of {', '.join(series)}"
    return (
        f"Statistics of the embeddings of {who}, on {facts['count']:,} images of {facts['data']}: clean, in two random "
        f"views, and attacked within {facts['threat']}."
    )


def _groups(results: Sequence[EncoderGeometry]) -> list[dict[str, Any]]:
    """The table: figures by group, each with one cell per encoder."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, figure in FIGURES.items():
        cells = [(formatted(one.numbers[key].value), span(one.numbers[key])) for one in results]
        groups.setdefault(figure.group, []).append({"figure": figure, "cells": cells})
    return [{"name": name, "lines": lines} for name, lines in groups.items()]


def _cards(results: Sequence[EncoderGeometry]) -> dict[str, Any]:
    fields = [(key, label) for key, label in CARD if any(one.card.get(key) not in (None, "", 0) for one in results)]
    lines = [
        {"name": one.label, "spec": one.spec, "cells": [_fact(one.card.get(key), key) for key, _ in fields]}
        for one in results
    ]
    return {"heads": [label for _, label in fields], "lines": lines}


def _fact(value: Any, key: str) -> str:
    if value in (None, ""):
        return "–"
    if key == "parameters":
        return f"{value / 1e6:.2f} M" if value >= 1e4 else f"{value}"
    return str(value)[:12] if key == "sha256" else str(value)
