"""The zoo: encoders by short names, `zoo:made_simclr`, listed in `zoo.toml` beside this file. Weights: one entry there.

An entry is a file within the package, whose SHA-256 is checked before it is read, or the spec of a public encoder.
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardsight.catalog import build, register
from hardsight.errors import SpecError, WeightsError, nearest

if TYPE_CHECKING:
    from hardsight.encoders.base import Encoder

HERE = Path(__file__).parent


@register
def zoo(name: str) -> Encoder:
    """An encoder of the zoo; `hardsight list encoders` shows the names.

    Raises `SpecError` for an unknown name, `WeightsError` where its weights are missing or not the ones that were listed.
    """
    entry = _entry(name)
    if "spec" in entry:
        try:
            encoder = build(entry["spec"], "Encoder")
        except WeightsError as error:
            raise WeightsError(f"zoo:{name} ({entry['what']}): {error}") from error
    else:
        from hardsight.encoders.checkpoint import file

        encoder = file(str(_verified(name, entry)), entry["arch"])
    card = encoder.card
    licence = entry.get("licence", card.licence)
    note = "; ".join(text for text in (entry.get("note", ""), card.note) if text)
    encoder.card = replace(card, name=name, source=entry.get("spec", f"zoo:{name}"), licence=licence, note=note)
    return encoder


def known() -> list[dict[str, Any]]:
    """Every entry with its name, in the file's order: spec or file, what, licence, and dim and recipe where told."""
    return [{"name": name, **entry} for name, entry in _table().items()]


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads((HERE / "zoo.toml").read_text(encoding="utf-8"))


def _entry(name: str) -> dict[str, Any]:
    table = _table()
    if name not in table:
        others = f"; it has {', '.join(table)}"
        raise SpecError(f"the zoo has no '{name}'{nearest(name, table) or others}")
    return table[name]


def _verified(name: str, entry: dict[str, Any]) -> Path:
    """The entry's file, once its bytes are the listed ones; an entry without `sha256` is not checked."""
    place = HERE / entry["file"]
    if not place.is_file():
        raise WeightsError(f"zoo:{name} should be at {place}, and is not; this installation lacks its weights")
    listed = entry.get("sha256", "")
    found = hashlib.sha256(place.read_bytes()).hexdigest()
    if listed and found != listed:
        raise WeightsError(f"{place} is not the file that zoo.toml lists: sha256 {found[:12]}.. instead of {listed[:12]}..")
    return place
