"""The zoo: encoders by short names such as `zoo:made_simclr`, listed in `zoo.toml` next to this file, one entry each.

An entry is a file in the package, whose SHA-256 is checked before it is read, or the spec of a public encoder: with the
architecture, normalization and licence stated by its publisher, and the download address if no library downloads it.
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardsight.core.errors import SpecError, WeightsError, nearest
from hardsight.specs.catalog import build, complete, register
from hardsight.specs.syntax import Call, override, read

if TYPE_CHECKING:
    from hardsight.encoders.base import Encoder

HERE = Path(__file__).parent


@register
def zoo(
    name: str,
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] | None = None,
    positions: Literal["size", "offset"] | None = None,
) -> Encoder:
    """An encoder of the zoo; `hardsight list encoders` shows the names.

    size, resize, layers, positions: override the entry's own, with the meaning they have for its source; with `resize=224`
    an attack perturbs the image at its original size, and the encoder enlarges it. Raises `SpecError` for an unknown name
    or an argument that the entry's source doesn't have, `WeightsError` if its weights are missing or not the listed ones.
    """
    listed = entry(name)
    if "file" in listed:
        call = Call("file", (("path", str(_verified(name, listed))), ("arch", listed["arch"])))
    else:
        call = read(listed["spec"])
    call = complete(call, "Encoder")
    for key, value in (("size", size), ("resize", resize), ("layers", layers), ("positions", positions)):
        if value is not None:
            call = override(call, key, value)
    try:
        encoder = build(call, "Encoder")
    except WeightsError as error:
        where = f"; fetch it from {listed['url']}" if "url" in listed and "there is no file" in str(error) else ""
        raise WeightsError(f"zoo:{name} ({listed['what']}): {error}{where}") from error
    card = encoder.card
    licence = listed.get("licence", card.licence)
    note = "; ".join(text for text in (listed.get("note", ""), card.note) if text)
    preprocess = card.preprocess if size else listed.get("preprocess", card.preprocess)
    known = {"name": name, "source": listed.get("spec", f"zoo:{name}"), "licence": licence, "note": note}
    encoder.card = replace(card, preprocess=preprocess, **known)
    return encoder


def known() -> list[dict[str, Any]]:
    """Every entry with its name, in the file's order: spec or file, what, licence, dim, and optionally url, note, recipe."""
    return [{"name": name, **entry} for name, entry in _table().items()]


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads((HERE / "zoo.toml").read_text(encoding="utf-8"))


def entry(name: str) -> dict[str, Any]:
    """The entry of that name; `SpecError`, with the most similar known one, if there is none."""
    table = _table()
    if name not in table:
        others = f"; it has {', '.join(table)}"
        raise SpecError(f"the zoo has no '{name}'{nearest(name, table) or others}")
    return table[name]


def _verified(name: str, entry: dict[str, Any]) -> Path:
    """The path of the entry's file, after its SHA-256 is checked; an entry without `sha256` is not checked."""
    place = HERE / entry["file"]
    if not place.is_file():
        raise WeightsError(f"zoo:{name} should be at {place}; this installation lacks its weights: install hardsight again")
    listed = entry.get("sha256", "")
    found = hashlib.sha256(place.read_bytes()).hexdigest()
    if listed and found != listed:
        raise WeightsError(f"{place} is not the file that zoo.toml lists: sha256 {found[:12]}.. instead of {listed[:12]}..")
    return place
