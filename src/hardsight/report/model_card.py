"""The README.md of an exported encoder: what it is, how it was trained, its numbers with intervals, the audit, how to load it.

Its front matter is what model hubs read: licence, tags, and every number as a `model-index`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from hardsight.report.audits import audits
from hardsight.report.results import CLEAN, MEAN, WORST, Column, Row, Table, plain, shown

KINDS = {
    "classify": "image-classification",
    "segment": "image-segmentation",
    "depth": "depth-estimation",
    "detect": "object-detection",
}
"""The hub's names of tasks."""
METRICS = {"miou": "mean_iou"}
"""The hub's names of metrics, where they are others than ours."""
LICENCES = (
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail", "unlicense",
)  # fmt: skip
"""Names of licences that the hub knows; any other is given by its own name as "other"."""


@dataclass(frozen=True)
class Facts:
    """What the export knows. card: the encoder's; blocks: (title, code) of each way to load it; trained: a sentence."""

    card: dict[str, Any]
    library: str
    trained: str
    scope: str
    load: str
    blocks: tuple[tuple[str, str], ...]
    origin: tuple[tuple[str, str], ...]
    base: str = ""


def text(facts: Facts, table: Table | None) -> str:
    """The card as Markdown. table: of this encoder alone; None if nothing was measured."""
    card = facts.card
    name = plain(card["name"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    chosen = _chosen(table) if table else []
    filled = environment.get_template("model_card.md.j2").render(
        front=_front(facts, name, chosen),
        name=_inline(name),
        what=_what(card),
        trained=_inline(facts.trained),
        scope=_inline(facts.scope),
        load=facts.load,
        blocks=[{"title": title, "code": code} for title, code in facts.blocks],
        rows=[[_inline(part) for part in _row(row, column)] for row, column in chosen],
        about=_about(table) if table else "",
        audits=_audits(table) if table else [],
        licence=_inline(f"The weights are under {card['licence']}."),
        origin=[(_inline(key), _inline(value)) for key, value in facts.origin if value],
    )
    return re.sub(r"\n{3,}", "\n\n", filled).rstrip() + "\n"


def _front(facts: Facts, name: str, chosen: list[tuple[Row, Column]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    licence = str(facts.card["licence"]).lower()
    named: dict[str, Any] = {"license": licence} if licence in LICENCES else {"license": "other", "license_name": licence}
    results = [
        EvalResult(
            task_type=KINDS.get(row.task.partition("(")[0], row.task),
            dataset_type=_dataset(row.data),
            dataset_name=row.data,
            metric_type=METRICS.get(row.metric, row.metric),
            metric_name=_metric(row, column),
            metric_value=_round(row.numbers[column].value),
            metric_args={
                "n": row.numbers[column].n,
                "interval_95": [_round(row.numbers[column].low), _round(row.numbers[column].high)],
                **({} if column.attack == CLEAN else {"attack": _attack(row, column), "norm": column.norm, "eps": column.eps_text}),
            },
        )
        for row, column in chosen
    ]  # fmt: skip
    data = ModelCardData(
        library_name=facts.library,
        pipeline_tag="image-feature-extraction",
        tags=["vision-encoder", "adversarial-robustness", "hardsight"],
        base_model=facts.base or None,
        model_name=name if results else None,
        eval_results=results or None,
        **named,
    )
    return data.to_yaml().rstrip() + "\n"


def _what(card: dict[str, Any]) -> str:
    side = f"; images are resized to {card['resize']} pixels inside" if card.get("resize") else ""
    dense = (
        f", dense features of {card['dense_dim']} channels, one cell every {card['stride']} pixels"
        if card["dense_dim"]
        else ""
    )
    classes = f", and its own classifier of {card['classes']} classes" if card["classes"] else ""
    return _inline(
        f"A vision encoder: {card['arch']}, {card['parameters']:,} parameters, for images of {card['size']} pixels a side"
        f"{side}. It takes pixels in [0, 1] and gives pooled features of {card['dim']} values{dense}{classes}."
    )


def _chosen(table: Table) -> list[tuple[Row, Column]]:
    """Every number but means over corruptions, and no worst case over a single attack."""
    found = []
    for row in table.rows:
        for column in sorted(row.numbers, key=Column.key):
            alone = column.attack == WORST and len(row.numbers[column].over) < 2
            if column.attack != MEAN and not alone:
                found.append((row, column))
    return found


def _row(row: Row, column: Column) -> tuple[str, ...]:
    number, unit = row.numbers[column], row.unit
    threat = "none" if column.attack == CLEAN else f"{column.norm} {column.eps_text}".strip()
    low, high = (shown(one, unit) for one in (number.low, number.high))
    name = f"{row.label} {row.arrow}"
    return (
        row.task, row.data, name, _attack(row, column), threat, f"{shown(number.value, unit)} {unit}".strip(),
        f"{low} to {high}", f"{number.n}{' (unfinished)' if number.partial else ''}",
    )  # fmt: skip


def _attack(row: Row, column: Column) -> str:
    return {CLEAN: "none (clean)", WORST: f"worst case over {' and '.join(row.numbers[column].over)}"}.get(
        column.attack, row.names[column]
    )


def _metric(row: Row, column: Column) -> str:
    return (
        f"{row.label}, clean"
        if column.attack == CLEAN
        else f"{row.label}, {_attack(row, column)}, {column.norm} {column.eps_text}"
    )


def _about(table: Table) -> str:
    whats = [record.cell.what for record in table.records]
    probes = sorted({str(what.get("probe", "")) for what in whats} - {""})
    seeds = sorted({int(what["seed"]) for what in whats if "seed" in what})
    heads = f"Heads: {', '.join(probes)}. " if probes else ""
    return _inline(
        f"{heads}Seed {', '.join(map(str, seeds))}. Attacked numbers are upper bounds of robustness: a stronger attack may lower "
        "them. Every one is of the same images as its clean number."
    )


def _audits(table: Table) -> list[str]:
    lines = audits(table)["lines"]
    if not lines:
        return ["These numbers were not audited."]
    found = []
    for line in lines:
        bad = [f"{title}: {reason}" for title, (verdict, reason) in line["checks"].items() if verdict in ("warn", "fail")]
        said = f" ({'; '.join(bad)})" if bad else ""
        found.append(
            _inline(
                f"Audit of {line['task']} on {line['data']} under {line['attack']}, {line['images']} images: {line['verdict']}{said}."
            )
        )
    return found


def _dataset(data: str) -> str:
    return re.split(r"[(:]", data)[0] or data


def _round(value: float) -> float | None:
    return round(float(value), 6) if value == value and abs(value) != float("inf") else None


def _inline(value: object) -> str:
    """Text without markup: names come from files of others."""
    return re.sub(r"([\\|<>`*])|\]\(", lambda found: f"\\{found[0]}" if found[1] else r"\](", " ".join(plain(value).split()))
