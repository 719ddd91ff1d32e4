"""Where a measured cell departs from a protocol: every reason, as sentences, from facts alone; without torch and files.

`what` is a cell's record, the content of its cell.json. An empty list means that the number may stand beside the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardsight.core.errors import SpecError
from hardsight.measure.protocol import (
    ENCODER,
    INPUT,
    ROOT,
    Part,
    Protocol,
    PublishedSet,
    filled,
    with_names,
)
from hardsight.specs.catalog import complete, entries, find, fingerprint, minimal
from hardsight.specs.syntax import Call, Value, read, show

OWN = {"classify": "classpgd", "segment": "segpgd", "depth": "depthpgd", "detect": "detpgd"}
"""Each task's own attack, as `task.attack` says."""
UNTRAINED = ("own", "knn")
"""Heads without training."""


def record(protocol: Protocol, what: Mapping[str, Any], images: int, skipped: int = 0) -> dict[str, Any]:
    """The key "protocol" of a cell's record."""
    return {
        "name": protocol.name,
        "version": protocol.version,
        "title": protocol.title,
        "source": protocol.source,
        "snapshots": protocol.snapshots,
        "departures": departures(protocol, what, images, skipped),
    }


def departures(protocol: Protocol, what: Mapping[str, Any], images: int, skipped: int = 0) -> list[str]:
    """Every reason why a cell is not comparable with the protocol's source.

    images: in the measured split on this disk. skipped: images that could not be read. Of several parts of a protocol, the
    one from which the cell departs least counts.
    """
    known = protocol.set_of(what["data"])
    asked = min((_of_part(part, what, known) for part in protocol.parts), key=len)
    lost = [f"{skipped} of the images could not be read"] if skipped else []
    return [*asked, *_of_data(protocol, what, known, images), *_of_encoder(protocol, what), *lost, *protocol.differs]


def _of_part(part: Part, what: Mapping[str, Any], known: PublishedSet | None) -> list[str]:
    recipe, found = part.recipe, []
    found += _nearest("the task", what["task"], recipe.tasks)
    if what["column"] != "clean":
        attacks = [OWN[what["task_name"]] if one == "task" else one for one in recipe.attacks if one != "clean"]
        found += _nearest("the attack", what["attack"], _apart(attacks), "Attack")
        if not _own_threat(what["attack"]):
            found += _nearest("the threat", what["threat"], [spec for spec, _ in recipe.threats()])
    if complete(what["task"], "Task").get("head") not in UNTRAINED:
        found += _nearest("the head's training", what["probe"], [recipe.probe])
    found += _wrapped(part, what["encoder"])
    most = min(recipe.count, known.images) if known else recipe.count
    if what["count"] != most:
        found.append(f"{what['count']:,} images are measured; the protocol measures {most:,}")
    split = recipe.split or (known.split if known else what["split"])
    if what["split"] != split:
        found.append(f"the part '{what['split']}' of the data is measured; the protocol measures '{split}'")
    if what["precision"] != recipe.precision:
        found.append(f"the attack runs in {what['precision']}; the protocol's in {recipe.precision}")
    return found


def _of_data(protocol: Protocol, what: Mapping[str, Any], known: PublishedSet | None, images: int) -> list[str]:
    card, name = what["data_card"], what["data_name"]
    if known is None:
        return [f"the data are {name}; the protocol's are {' or '.join(one.name for one in protocol.sets)}"]
    side = protocol.input_of(_names(what))
    found = _contrast("the data", _rootless(read(what["data"])), filled(_rootless(read(known.spec)), INPUT, side))
    if images != known.images:
        found.append(
            f"{name} has {images:,} images in '{what['split']}' on this disk; the published set has {known.images:,}"
        )
    classes = len(card.get("mask_classes") or card.get("classes") or ())
    if known.classes and classes != known.classes:
        found.append(f"{name} has {classes} classes here; the published set has {known.classes}")
    if known.prepared and what.get("preprocess") not in known.prepared:
        how = what.get("preprocess") or "as stored"
        found.append(f"the images are prepared by {how}; the protocol's by {' or '.join(known.prepared)}")
    return found


def _of_encoder(protocol: Protocol, what: Mapping[str, Any]) -> list[str]:
    """Sentences on the encoder's input, if the protocol's data are made as large as that."""
    card, side = what["encoder_card"], protocol.input_of(_names(what))
    if not side or not any(INPUT in one.spec for one in protocol.sets):
        return []
    if card.get("resize") and card["resize"] != side:
        return [f"the encoder resizes images to {card['resize']} pixels inside; the protocol gives it {side}"]
    if card["size"] != side:
        return [f"the encoder is one for {card['size']} pixels; the protocol's has an input of {side}"]
    return []


def _names(what: Mapping[str, Any]) -> str:
    """Every text that may tell which encoder this is."""
    card = what["encoder_card"]
    return " ".join([what["encoder"], *(str(card.get(key, "")) for key in ("arch", "source", "name", "note"))])


def _wrapped(part: Part, encoder: str) -> list[str]:
    """A sentence if the embedding is not made of the encoder's as the part says: as it is, or the mean over crops."""
    have, want = complete(encoder, "Encoder"), read(part.encoder)
    if want.name != ENCODER:
        want = complete(filled(want, ENCODER, have.get("image", have)), "Encoder")
        return [] if fingerprint(have) == fingerprint(want) else [f"the embedding is not of {part.encoder}"]
    return [f"the embedding is that of {have.name}(...), not the encoder's own"] if have.name == "crops" else []


def _nearest(what: str, have: str, wanted: list[str] | tuple[str, ...], kind: str = "") -> list[str]:
    """Where `have` departs from the one in `wanted` that it is nearest to."""
    if not wanted:
        return [f"{what} is {have}; the protocol has none"]
    calls = complete(have, kind or None), [complete(one, kind or None) for one in wanted]
    all_found = [(calls[0].name != one.name, _contrast(what, calls[0], one)) for one in calls[1]]
    _, found = min(all_found, key=lambda one: (one[0], len(one[1])))
    if len(wanted) > 1 and found and all(read(have).name != read(one).name for one in wanted):
        return [f"{what} is {have}; the protocol's are {', '.join(dict.fromkeys(wanted))}"]
    return found


def _apart(attacks: list[str]) -> list[str]:
    """The attacks, with a family of corruptions as the cells that it is planned as."""
    found = []
    for one in attacks:
        call = complete(one, "Attack")
        if call.name == "corruptions":
            names = [entry.name for entry in entries().values() if entry.kind == "Corruption"]
            found += [f"corrupt({name}, {level})" for name in names for level in call["severities"]]
        else:
            found.append(one)
    return found


def _own_threat(attack: str) -> bool:
    """Whether the attack brings its own threat, whatever eps is asked for."""
    return read(attack).name in ("corrupt", "corruptions")


def _contrast(what: str, have: Value, want: Value) -> list[str]:
    """One sentence for each argument in which two calls differ; one if they are of different names."""
    if not isinstance(have, Call) or not isinstance(want, Call) or have.name != want.name:
        return [] if _same(have, want) else [f"{what} is {_said(have)}; the protocol's is {_said(want)}"]
    found, usual = [], {one.name: one.default for one in find(have.name).parameters}
    have, want = with_names(have), with_names(want)
    for key, default in usual.items():
        if key == ROOT:
            continue
        mine, theirs = have.get(key, default), want.get(key, default)
        if key == "size" and isinstance(mine, Call) and theirs is None:
            continue  # pictures of unlike sizes: how they are prepared is compared by itself
        found += _contrast(f"{what}: {key}", mine, theirs)
    return found


def _same(have: Value, want: Value) -> bool:
    if isinstance(have, Call) and isinstance(want, Call):
        return have.name == want.name and fingerprint(have) == fingerprint(want)
    have, want = (one.name if isinstance(one, Call) and not one.arguments else one for one in (have, want))  # a bare word
    both_numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (have, want))
    return abs(have - want) < 1e-9 if both_numbers else have == want


def _said(value: Value) -> str:
    if not isinstance(value, Call):
        return show(value)
    try:
        return show(minimal(value))
    except SpecError:  # without its root
        return show(Call(value.name, tuple(enumerate(part for _, part in value.arguments))))


def _rootless(call: Call) -> Call:
    """The data without the reader's root, arguments named."""
    call = with_names(call)
    arguments = (
        (key, _rootless(value) if isinstance(value, Call) and _is_data(value) else value) for key, value in call.arguments
    )
    return Call(call.name, tuple((key, value) for key, value in arguments if key != ROOT))


def _is_data(call: Call) -> bool:
    return call.name in entries() and find(call.name).kind == "Data"
