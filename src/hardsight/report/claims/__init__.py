"""Published figures, one TOML file a source beside this one, and their strict reader; no torch.

A source has tables; a table is one setting (task, data, metric, unit, and which of our protocols measures the same, if any),
its columns are attacks, its rows encoders. Each cell of a table that has a value is a `Claim`; values are written as text, as
they were published, since their last digit says how far they were rounded. What a source says without a number is a
`Finding`. Everything unknown, out of range or given twice is refused, with the file and the nearest name.

    [encoders.NAME]   title, and what is the same weights: specs, sha256 (of an encoder's card), size (px that the encoder reads)
    [tables.NAME]     place, task, data, metric, unit, protocol, version, setting, note, columns, rows
    columns           [[KEY, ATTACK], [KEY, ATTACK, NORM, EPS], ...]
    rows              ENCODER = ["0.94", "0.01", ""]      "" where the source has no value
    [findings.NAME]   says, compare, place
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hardsight.core.errors import SpecError, nearest
from hardsight.metrics import METRICS, of
from hardsight.specs.catalog import entries
from hardsight.specs.syntax import read_number

HERE = Path(__file__).parent
PROTOCOLS = (
    "paper000-imagenet",
    "paper000-transfer",
    "paper000-segmentation",
    "paper000-detection",
    "paper001-image",
    "paper001-video",
    "paper002-classification",
    "paper002-segmentation",
    "paper002-depth",
    "paper002-hardening",
    "paper003-cifar10",
    "paper003-cifar100",
    "robustbench-cifar10-linf",
    "robustbench-imagenet-linf",
)
"""The protocols under which a claim may be compared with a measured number."""
UNITS = {"fraction": ("%", 1.0, 1.0), "%": ("%", 0.01, 100.0), "m": ("m", 1.0, 1000.0)}
"""Of each unit a claim may have: the unit of the metrics that it fits, what it is in base units, the largest value."""
ATTACKS = ("clean", "embed", "pgd", "segpgd", "depthpgd", "apgd", "autoattack", "sea", "corruptions", "unstated")
"""Attacks in claims. pgd is PGD on a classifier's loss; unstated where the source does not name it."""
NORMS = ("linf", "l2", "l1")
SOURCE = {"source": str, "title": str, "reference": str, "encoders": dict, "tables": dict, "findings": dict}
ENCODER = {"title": str, "specs": list, "sha256": str, "size": int}
TABLE = {
    "place": str,
    "task": str,
    "data": str,
    "metric": str,
    "unit": str,
    "protocol": str,
    "version": str,
    "setting": str,
    "note": str,
    "columns": list,
    "rows": dict,
}
FINDING = {"says": str, "compare": str, "place": str}
NEEDED = {"source": ("source", "title", "reference"), "encoder": ("title",), "finding": ("says", "compare", "place")}
NEEDED["table"] = ("place", "task", "data", "metric", "unit", "columns", "rows")


@dataclass(frozen=True)
class Claim:
    """One published value. name: source/table/encoder/column. row: the name without its column.

    place: where in the source, in words. specs, sha256: what is this encoder (`zoo:NAME`, and the weights' hash on a card),
    without the options that change how large it reads images; size: at how many px it read them, 0 if not stated. protocol,
    version: ours that measures the same, "" where none does; then setting says how it was measured. text: as published.
    value, half: in base units (fractions, metres), and half a unit of its last digit.
    """

    name: str
    source: str
    title: str
    reference: str
    place: str
    encoder: str
    specs: tuple[str, ...]
    sha256: str
    size: int
    protocol: str
    version: str
    setting: str
    note: str
    task: str
    data: str
    metric: str
    unit: str
    attack: str
    norm: str
    eps_text: str
    text: str
    value: float
    half: float

    @property
    def row(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def eps(self) -> float:
        return read_number(self.eps_text, "eps") if self.eps_text else 0.0

    @property
    def under(self) -> str:
        """The attack with its threat: "embed, linf 8/255"."""
        return f"{self.attack}, {self.norm} {self.eps_text}" if self.eps_text else self.attack


@dataclass(frozen=True)
class Finding:
    """What a source found, in words. compare: which of our numbers would show it, or not."""

    name: str
    source: str
    title: str
    reference: str
    place: str
    says: str
    compare: str


@functools.cache
def shipped() -> tuple[tuple[Claim, ...], tuple[Finding, ...]]:
    """Every claim and finding of the files beside this one."""
    return load(sorted(HERE.glob("*.toml")))


def load(paths: list[Path]) -> tuple[tuple[Claim, ...], tuple[Finding, ...]]:
    """The claims and findings of some files; `SpecError` for the first thing in them that is wrong, or given twice."""
    claims: dict[str, Claim] = {}
    findings: dict[str, Finding] = {}
    known: dict[tuple, Claim] = {}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{path.name} is not TOML, or gives a name twice: {error}") from None
        file = _File(path.name, path.stem, content)
        for one in file.claims():
            same = known.setdefault(_identity(one), one)
            if one.name in claims or same is not one:
                raise SpecError(
                    f"{path.name}: {one.name} is there twice, as {(claims[one.name] if same is one else same).name}"
                )
            claims[one.name] = one
        findings |= {one.name: one for one in file.findings()}
    return tuple(claims.values()), tuple(findings.values())


def found(name: str) -> list[Claim | Finding]:
    """The claims of a row, or one claim or finding, by its name; `SpecError` names the nearest."""
    claims, findings = shipped()
    chosen = [one for one in claims if name in (one.name, one.row)] or [one for one in findings if one.name == name]
    if not chosen:
        known = [*dict.fromkeys(one.row for one in claims), *(one.name for one in findings)]
        raise SpecError(f"there is no claim '{name}'{nearest(name, known) or '; see: hardsight list claims'}")
    return list(chosen)


def _identity(claim: Claim) -> tuple:
    return (
        claim.source,
        claim.place,
        claim.encoder,
        claim.task,
        claim.data,
        claim.metric,
        claim.setting,
        claim.attack,
        claim.norm,
        claim.eps,
    )


@dataclass(frozen=True)
class _File:
    """One file's content while it is read. name: of the file, for messages; stem: how the names of its claims begin."""

    name: str
    stem: str
    content: dict[str, Any]

    def __post_init__(self) -> None:
        self.known("a claims file", self.content, SOURCE, NEEDED["source"])
        if not self.content.get("tables") and not self.content.get("findings"):
            self.refuse("it has neither tables nor findings")

    def refuse(self, message: str) -> NoReturn:
        raise SpecError(f"{self.name}: {message}")

    def known(self, where: str, content: Any, kinds: dict[str, type], needed: tuple[str, ...]) -> None:
        """Refuses keys that are unknown, missing or of another type."""
        if not isinstance(content, dict):
            self.refuse(f"{where} is {content!r}; it must be a table of {', '.join(kinds)}")
        for key, value in content.items():
            if key not in kinds:
                self.refuse(f"{where} has no '{key}'{nearest(key, kinds) or '; it has ' + ', '.join(kinds)}")
            if type(value) is not kinds[key]:
                self.refuse(f"{where}: {key} is {value!r}; it must be of type {kinds[key].__name__}")
        for key in needed:
            if key not in content:
                self.refuse(f"{where} lacks '{key}'")

    def one_of(self, where: str, what: str, value: Any, known: tuple[str, ...]) -> None:
        if value not in known:
            self.refuse(
                f"{where}: {what} '{value}' is unknown{nearest(str(value), known) or '; one of: ' + ', '.join(known)}"
            )

    def findings(self) -> list[Finding]:
        made = []
        for name, one in self.content.get("findings", {}).items():
            self.known(f"finding {name}", one, FINDING, NEEDED["finding"])
            made.append(Finding(f"{self.stem}/{name}", **self.source(), **one))
        return made

    def claims(self) -> list[Claim]:
        encoders = self.content.get("encoders", {})
        for name, one in encoders.items():
            self.known(f"encoder {name}", one, ENCODER, NEEDED["encoder"])
        made, used = [], set()
        for name, table in self.content.get("tables", {}).items():
            self.table(name, table)
            for row, texts in table["rows"].items():
                self.one_of(f"table {name}", "the row's encoder", row, tuple(encoders))
                used.add(row)
                if not isinstance(texts, list) or len(texts) != len(table["columns"]):
                    self.refuse(f"table {name}: row {row} is {texts!r}; it must have {len(table['columns'])} values")
                for column, text in zip(table["columns"], texts, strict=True):
                    if text != "":
                        made.append(self.claim(name, table, row, encoders[row], column, text))
        if idle := [name for name in encoders if name not in used]:
            self.refuse(f"encoder {idle[0]} is in no table")
        return made

    def source(self) -> dict[str, str]:
        return {key: self.content[key] for key in ("source", "title", "reference")}

    def table(self, name: str, table: Any) -> None:
        where = f"table {name}"
        self.known(where, table, TABLE, NEEDED["table"])
        self.one_of(where, "task", table["task"], METRICS)
        labels = of(table["task"]).labels
        self.one_of(where, "metric", table["metric"], tuple(labels))
        self.one_of(where, "unit", table["unit"], tuple(UNITS))
        unit = labels[table["metric"]][1]
        if UNITS[table["unit"]][0] != unit:
            self.refuse(f"{where}: {table['metric']} is in {unit or '1'}, not in {table['unit']}")
        if ("protocol" in table) != ("version" in table) or ("protocol" in table) == ("setting" in table):
            self.refuse(f"{where} needs a protocol and its version, or else a setting that says how it was measured")
        if "protocol" in table:
            self.one_of(where, "protocol", table["protocol"], PROTOCOLS)
            self.one_of(where, "data", table["data"], tuple(one.name for one in entries().values() if one.kind == "Data"))
        keys = []
        for column in table["columns"]:
            if not isinstance(column, list) or len(column) not in (2, 4) or not all(isinstance(one, str) for one in column):
                self.refuse(f"{where}: column {column!r} must be [key, attack], or [key, attack, norm, eps]")
            self.one_of(where, "attack", column[1], ATTACKS)
            if len(column) == 4:
                self.one_of(where, "norm", column[2], NORMS)
                read_number(column[3], f"{self.name}: {where}: eps")
            if (len(column) == 2) != (column[1] in ("clean", "corruptions")):
                self.refuse(
                    f"{where}: column {column[0]}: an attack needs a norm and an eps, clean and corruptions have none"
                )
            keys.append(column[0])
        if twice := [key for key in keys if keys.count(key) > 1]:
            self.refuse(f"{where} has the column {twice[0]} twice")

    def claim(
        self, name: str, table: dict[str, Any], row: str, encoder: dict[str, Any], column: list[str], text: Any
    ) -> Claim:
        where = f"{self.stem}/{name}/{row}/{column[0]}"
        _, scale, most = UNITS[table["unit"]]
        if not isinstance(text, str):
            self.refuse(f"{where} is {text!r}; write it as text, as it was published: its digits say how it was rounded")
        value = read_number(text, f"{self.name}: {where}")
        if not 0 <= value <= most:
            self.refuse(f"{where} is {text} {table['unit']}; it must be in [0, {most:g}]")
        norm, eps_text = column[2:] if len(column) == 4 else ("", "")
        optional = {key: table.get(key, "") for key in ("protocol", "version", "setting", "note")}
        return Claim(
            name=where,
            **self.source(),
            **{key: table[key] for key in ("place", "task", "data", "metric", "unit")},
            **optional,
            encoder=encoder["title"],
            specs=tuple(encoder.get("specs", ())),
            sha256=encoder.get("sha256", ""),
            size=encoder.get("size", 0),
            attack=column[1],
            norm=norm,
            eps_text=eps_text,
            text=text,
            value=value * scale,
            half=0.5 * 10.0 ** -len(text.partition(".")[2]) * scale,
        )
