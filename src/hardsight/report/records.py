"""Results in the formats of others: Every Eval Ever's records, and RobustBench's model_info.

Both are of every number of a table with its interval; what a format has no field for is in its free text.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import hardsight
from hardsight.core.errors import StoreError
from hardsight.report.results import CLEAN, MEAN, NATURAL, WORST, Column, Row, Table, plain

SCHEMA = "0.3.0"
"""Version of Every Eval Ever's eval.schema.json that the records follow."""
LEAST = {"%": (0.0, 1.0)}
"""The range of a metric by its unit; of any other, `UNBOUNDED`."""
UNBOUNDED = (0.0, 1e9)
SETTINGS = (
    "task",
    "data",
    "attack",
    "threat",
    "probe",
    "split",
    "count",
    "chunk",
    "seed",
    "precision",
    "stamp",
    "preprocess",
)
"""Of a cell, what fixes its number."""


def every_eval_ever(table: Table, organization: str, relationship: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, record) of each encoder: data/BENCHMARK/DEVELOPER/MODEL/ID.json, as the project's repository has them.

    organization: who measured, and its relationship to the model: first_party, third_party, collaborative or other. The same
    results give the same paths and contents. Source: evaleval/every_eval_ever, eval.schema.json of version `SCHEMA`.
    """
    for name in dict.fromkeys(row.encoder for row in table.rows):
        rows = [(place, row) for place, row in enumerate(table.rows) if row.encoder == name]
        records = [record for record in table.records if record.row in {place for place, _ in rows}]
        card = next((card for record in records if (card := record.cell.what.get("encoder_card"))), {})
        finished = max(
            (str(done["finished"]) for record in records if (done := record.cell.done) and "finished" in done), default=""
        )
        stamp = _epoch(finished)
        developer, model = _developer(str(card.get("source", "")), name)
        results = []
        for place, row in rows:
            cells = [one for one in records if one.row == place]
            for column in _columns(row):
                own = [one.cell.what for one in cells if one.column == column]
                results.append(_result(row, column, _shared(own or [one.cell.what for one in cells]), stamp))
        details = {
            "deployment_type": "self_deployed",
            "model_availability": "open_weights" if _open(str(card.get("source", ""))) else "unknown",
            **{
                key: str(card[key])
                for key in ("arch", "source", "parameters", "size", "licence", "sha256", "note")
                if card.get(key)
            },
        }
        record = {
            "schema_version": SCHEMA,
            "evaluation_id": f"hardsight/{developer}_{model}/{stamp}",
            "evaluation_timestamp": finished,
            "retrieved_timestamp": stamp,
            "source_metadata": {
                "source_name": "hardsight",
                "source_type": "evaluation_run",
                "source_organization_name": organization,
                "evaluator_relationship": relationship,
            },
            "eval_library": {"name": "hardsight", "version": hardsight.__version__, "additional_details": _library(records)},
            "model_info": {
                "name": name,
                "id": f"{developer}/{model}",
                "developer": developer,
                "additional_details": details,
            },
            "evaluation_results": results,
        }
        yield f"data/hardsight/{developer}/{model}/{_uuid(record)}.json", record


def robustbench(table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, record) of each encoder's classification with AutoAttack: model_info/DATA/THREAT/NAME.json.

    Only where RobustBench has such an entry: accuracy, clean and under AutoAttack, at one radius of Linf or L2. Its `reported` is
    the number of a paper, which is not known here, so it is left out. Raises `StoreError` if there is none. Source:
    RobustBench/robustbench, model_info.
    """
    found = False
    for place, row in enumerate(table.rows):
        cards = [one.cell.what.get("encoder_card") or {} for one in table.records if one.row == place]
        card = next((one for one in cards if one), {})
        clean = next((number for column, number in row.numbers.items() if column.attack == CLEAN), None)
        for column, number in row.numbers.items():
            auto = "autoattack" in row.names[column].lower() and column.attack != WORST
            if not (auto and clean and row.metric == "accuracy" and column.norm.lower() in ("linf", "l2")):
                continue
            found = True
            audit = next(
                (audit for one in table.records if one.row == place and (audit := getattr(one.cell, "audit", None))), None
            )
            record = {
                "link": "",
                "name": plain(row.encoder),
                "authors": "",
                "additional_data": None,
                "number_forward_passes": 1,
                "dataset": re.split(r"[(:]", row.data)[0],
                "venue": "",
                "architecture": str(card.get("arch", "")),
                "eps": column.eps_text,
                "clean_acc": f"{100 * clean.value:.2f}",
                "autoattack_acc": f"{100 * number.value:.2f}",
                "footnote": (
                    f"Measured by hardsight {hardsight.__version__} on {number.n} images; 95% intervals: clean "
                    f"{100 * clean.low:.2f} to {100 * clean.high:.2f}, {row.names[column]} {100 * number.low:.2f} to {100 * number.high:.2f}. "
                    f"Audit: {audit['verdict'] if audit else 'none'}."
                ),
                "unreliable": bool(audit and audit["verdict"] == "fail"),
            }
            norm = {"linf": "Linf", "l2": "L2"}[column.norm.lower()]
            eps = _path(column.eps_text.replace("/", "-"))
            yield f"model_info/{_path(record['dataset'])}/{norm}/{_path(row.title)}_{eps}.json", record
    if not found:
        raise StoreError(
            "no result is one of RobustBench's: it has accuracy, clean and under AutoAttack, in Linf or L2; "
            "measure with --protocol robustbench-cifar10-linf, or with --attack autoattack"
        )


def _columns(row: Row) -> list[Column]:
    """Every number but means, worst cases over a single attack, and unfinished ones."""
    ordered = sorted(row.numbers, key=Column.key)
    return [
        column
        for column in ordered
        if column.attack != MEAN
        and not row.numbers[column].partial
        and not (column.attack == WORST and len(row.numbers[column].over) < 2)
    ]


def _result(row: Row, column: Column, settings: dict[str, str], stamp: str) -> dict[str, Any]:
    number = row.numbers[column]
    attack = {CLEAN: "clean", WORST: f"worst case over {', '.join(number.over)}"}.get(column.attack, row.names[column])
    threat = "" if column.attack == CLEAN else column.norm if column.norm == NATURAL else f"{column.norm} {column.eps_text}"
    low, high = LEAST.get(row.unit, UNBOUNDED)
    return {
        "evaluation_result_id": number.cell + (f"/{WORST}" if column.attack == WORST else ""),
        "evaluation_name": " ".join(part for part in (f"{row.task} on {row.data},", attack, threat) if part).rstrip(","),
        "source_data": {"dataset_name": row.data, "source_type": "other"},
        "evaluation_timestamp": stamp,
        "metric_config": {
            "evaluation_description": f"{row.label} of {row.task} on {row.data} ({attack}{f', {threat}' if threat else ''})",
            "metric_id": row.metric,
            "metric_name": row.label,
            "metric_kind": row.metric,
            "metric_unit": "proportion" if row.unit == "%" else row.unit or "none",
            "lower_is_better": row.better == "lower",
            "score_type": "continuous",
            "min_score": low,
            "max_score": high,
        },
        "score_details": {
            "score": float(number.value),
            "details": {"attack": attack, "norm": column.norm, "eps": column.eps_text, **settings},
            "uncertainty": {
                "confidence_interval": {
                    "lower": float(number.low),
                    "upper": float(number.high),
                    "confidence_level": 0.95,
                    "method": "wilson" if row.metric == "accuracy" else "bootstrap over images",
                },
                "num_samples": int(number.n),
            },
        },
    }  # fmt: skip


def _shared(whats: list[dict[str, Any]]) -> dict[str, str]:
    """The settings that are the same in all of these cells: of one cell all, of a worst case those of its cells."""
    first = whats[0] if whats else {}
    alike = (key for key in SETTINGS if key in first and all(one.get(key) == first[key] for one in whats))
    return {f"setting.{key}": str(first[key]) for key in alike}


def _library(records: list[Any]) -> dict[str, str]:
    versions = {
        name: str(one) for record in records if (done := record.cell.done) for name, one in done.get("versions", {}).items()
    }
    return {f"version.{name}": one for name, one in sorted(versions.items())}


def _epoch(finished: str) -> str:
    try:
        when = datetime.datetime.fromisoformat(finished)
    except ValueError:
        return "0"
    return str(int((when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()))


def _developer(source: str, name: str) -> tuple[str, str]:
    """Parts of a path: of hf:ORG/NAME both; of any other source, its library and the encoder's name."""
    kind, _, rest = source.partition(":")
    if kind == "hf" and re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        org, _, model = rest.partition("/")
        return _path(org), _path(model)
    return _path(kind or "unknown"), _path(name)


def _open(source: str) -> bool:
    """Whether anybody can download these weights, as far as their source tells."""
    return bool(re.match(r"zoo:|timm:(?!.*pretrained=False)|tv:(?!.*weights=None)|hf:[\w.-]+/[\w.-]+$", source))


def _path(text: object) -> str:
    """Text as a part of a path, that can't leave its folder."""
    return re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", str(text))).strip(".-") or "unnamed"


def _uuid(record: dict[str, Any]) -> str:
    """A version 4 identifier made of the content, so that the same results have the same name."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-{'89ab'[int(digest[16], 16) % 4]}{digest[17:20]}-{digest[20:32]}"
