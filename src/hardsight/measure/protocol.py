"""Named, versioned protocols: what a paper or a leaderboard fixes, so that a number may stand beside its own. No torch.

A protocol is a TOML file (see `protocols/`): the [recipe] that it fixes, varied by each [[part]]; the published data sets,
[sets.NAME]; and what no setting of ours can follow, `differs`. Open to the user are the encoders, the data's root, the seed,
the chunk, the device, and any choice among what is fixed: one data set of three, one radius of four. All else contradicts it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hardsight.core.errors import SpecError, nearest
from hardsight.specs.catalog import complete, entries, find, minimal
from hardsight.specs.recipe import Recipe, from_dict, split_list
from hardsight.specs.syntax import Call, Value, calls_in, read, read_number, read_value, show

SHIPPED = Path(__file__).parent / "protocols"
ENCODER, INPUT, ROOT = "ENCODER", "INPUT", "root"
"""In a protocol's specs: the user's encoder, and the side in pixels of its input; and the reader's argument that is left out."""
GRIDS = {"tasks": "Task", "attacks": "Attack", "eps": "", "threat": "Threat"}
"""Lists of which some may be measured without contradicting the protocol."""
SINGLE = {"norm": "Threat", "probe": "Probe", "split": "", "preprocess": "", "count": "", "precision": ""}
KEYS = ("version", "title", "source", "measures", "recipe", "part", "sets", "inputs", "differs", "holds", "snapshots")


@dataclass(frozen=True)
class PublishedSet:
    """A data set as published. spec: without its root. images: in `split`. prepared: preprocessings; empty: any."""

    name: str
    spec: str
    images: int
    split: str = "test"
    classes: int = 0
    prepared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A recipe without encoders and data; encoder: ENCODER, or what is made of it: crops(ENCODER, 16)."""

    recipe: Recipe
    encoder: str = ENCODER


@dataclass(frozen=True)
class Protocol:
    """measures: one sentence. inputs: side of an encoder's input, by a text in its name, `other` for all else.

    differs: where our recipe departs from the publication, each a reason why numbers are not comparable. holds: what else
    must hold, and no code can check. snapshots: every snapshot of a training run is measured.
    """

    name: str
    version: int
    title: str
    source: str
    measures: str
    parts: tuple[Part, ...]
    sets: tuple[PublishedSet, ...]
    inputs: Mapping[str, int]
    differs: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    snapshots: bool = False

    def set_of(self, data: str | Call) -> PublishedSet | None:
        """The published set that the data's reader reads; None for other data."""
        return next((one for one in self.sets if reader(read(one.spec)) == reader(as_call(data))), None)

    def input_of(self, encoder: str) -> int:
        """The side of an encoder's input, by any text that names the encoder; 0 if the protocol states none."""
        known = (side for name, side in self.inputs.items() if name in encoder)
        return next(known, self.inputs.get("other", 0))


def names() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str) -> Protocol:
    """The protocol of that name; `SpecError`, with the most similar name, if there is none."""
    if name not in names():
        raise SpecError(f"there is no protocol '{name}'{nearest(name, names()) or '; there are ' + ', '.join(names())}")
    path = SHIPPED / f"{name}.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for key in content:
        if key not in KEYS:
            raise SpecError(f"{path}: a protocol has no '{key}'{nearest(key, KEYS)}")
    sets = tuple(
        PublishedSet(one, **{**given, "prepared": tuple(given.get("prepared", ()))})
        for one, given in content["sets"].items()
    )
    splits = {one.split for one in sets}
    common = {"split": splits.pop() if len(splits) == 1 else "", "data": []}
    parts = []
    for more in content.get("part", [{}]):
        given = {**common, **content["recipe"], **more}
        encoder = given.pop("encoder", ENCODER)
        parts.append(Part(from_dict(given, str(path), name), encoder))
    return Protocol(
        name=name,
        parts=tuple(parts),
        sets=sets,
        inputs=content.get("inputs", {}),
        differs=tuple(content.get("differs", ())),
        holds=tuple(content.get("holds", ())),
        snapshots=content.get("snapshots", False),
        **{key: content[key] for key in ("version", "title", "source", "measures")},
    )


def command(protocol: Protocol) -> str:
    """The command that measures it."""
    root = f"--data {protocol.sets[0].name}:PATH" if len(protocol.sets) > 1 else "--set data.root=PATH"
    encoder = "run:FOLDER" if protocol.snapshots else "ENCODER"
    return f"hardsight bench --protocol {protocol.name} --encoder {encoder} {root}"


def text(protocol: Protocol) -> str:
    """What `hardsight show` prints: what it measures and fixes, where it departs, the command, and the file itself."""
    lines = [f"{protocol.title} (version {protocol.version})", protocol.measures, "", f"source   {protocol.source}"]
    lines += [f"data     {one.name}: {one.spec}, {one.images:,} images of '{one.split}'" for one in protocol.sets]
    lines += [f"command  {command(protocol)}"]
    for heading, found in (("differs from the source", protocol.differs), ("must also hold", protocol.holds)):
        lines += ["", f"{heading}:", *(f"  - {line}" for line in found)] if found else []
    return "\n".join([*lines, "", (SHIPPED / f"{protocol.name}.toml").read_text(encoding="utf-8").rstrip()])


def asked(
    protocol: Protocol, encoders: Sequence[str], data: Sequence[str], options: Mapping[str, Any],
    settings: Sequence[str] = (), off: bool = False,
) -> list[Recipe]:  # fmt: skip
    """The recipes to measure, one a part.

    data: the user's, with their roots; empty: all of the protocol's. options: fields of a recipe that the user gives.
    settings: `path=value`. off: departures are allowed. Raises `SpecError`, which names every contradiction.
    """
    if not encoders:
        raise SpecError(f"protocol {protocol.name} needs an encoder: {command(protocol)}")
    options, rest = dict(options), []
    for one in settings:
        name, _, value = one.partition("=")
        if name.strip() in GRIDS:
            options[name.strip()] = split_list(value)
        else:
            rest.append(one)
    clashes: list[str] = []
    parts = list(protocol.parts)
    for name, value in options.items():
        parts = (
            _narrowed(parts, name, value, clashes) if name in GRIDS else [_with(p, {name: value}, clashes) for p in parts]
        )
    ours = [one for one in rest if not one.lstrip().startswith("data.")]
    parts = [_with(part, _set(part.recipe, ours, protocol), clashes) for part in parts]
    sets = _data(protocol, encoders, data, [one for one in rest if one not in ours], clashes)
    if clashes and not off:
        raise SpecError(
            f"protocol {protocol.name} is contradicted: " + "; ".join(dict.fromkeys(clashes))
            + "; --off-protocol measures it so, and the report says that it is not comparable"
        )  # fmt: skip
    found = []
    for part in parts:
        wrapped = tuple(show(filled(read(part.encoder), ENCODER, read(one))) for one in encoders)
        found.append(replace(part.recipe, encoders=wrapped, data=tuple(sets), title=protocol.title))
    return found


def _narrowed(parts: list[Part], name: str, given: Sequence[str], clashes: list[str]) -> list[Part]:
    """The parts with the given ones of a list only; all with what is given, a contradiction, if that isn't in the list."""
    if name == "eps":
        for one in given:
            read_number(one, name)
    wanted = {meaning(one, GRIDS[name]) for one in given}
    known = {meaning(one, GRIDS[name]): one for part in parts for one in getattr(part.recipe, name)}
    if not wanted <= set(known):
        strange = [one for one in given if meaning(one, GRIDS[name]) not in known]
        clashes.append(f"{name} is {', '.join(known.values()) or 'not set'}, and {', '.join(strange)} is asked for")
        more = {"threat": ()} if name == "eps" else {}
        return [replace(part, recipe=replace(part.recipe, **{name: tuple(given), **more})) for part in parts]
    found = []
    for part in parts:
        here = getattr(part.recipe, name)
        kept = tuple(
            one for one in here if meaning(one, GRIDS[name]) in wanted | ({"clean"} if name == "attacks" else set())
        )
        if set(kept) - {"clean"} or wanted == {"clean"}:
            found.append(replace(part, recipe=replace(part.recipe, **{name: kept})))
    return found


def _with(part: Part, changes: Mapping[str, Any], clashes: list[str]) -> Part:
    for name, value in changes.items():
        old = getattr(part.recipe, name)
        if name in (*GRIDS, *SINGLE) and _all(old, name) != _all(value, name):
            clashes.append(f"{name} is {_shown(old)}, and {_shown(value)} is asked for")
    return replace(part, recipe=replace(part.recipe, **changes))


def _set(recipe: Recipe, settings: Sequence[str], protocol: Protocol) -> dict[str, Any]:
    """The fields that `path=value` assignments change; one that this part alone can't take is left out."""
    changed = recipe
    for one in settings:
        try:
            changed = changed.with_set(one)
        except SpecError:
            if not any(_takes(part.recipe, one) for part in protocol.parts):
                raise
    return {f.name: getattr(changed, f.name) for f in fields(Recipe) if getattr(changed, f.name) != getattr(recipe, f.name)}


def _takes(recipe: Recipe, setting: str) -> bool:
    try:
        recipe.with_set(setting)
    except SpecError:
        return False
    return True


def _data(
    protocol: Protocol, encoders: Sequence[str], given: Sequence[str], settings: Sequence[str], clashes: list[str]
) -> list[str]:
    """The specs of the data, with roots and the encoders' input side filled in."""
    sides = {one: protocol.input_of(one) for one in encoders}
    if any(INPUT in one.spec for one in protocol.sets) and len(set(sides.values())) > 1:
        told = ", ".join(f"{one}: {side}" for one, side in sides.items())
        raise SpecError(
            f"protocol {protocol.name} gives encoders inputs of unlike sides ({told}); measure each side by itself"
        )
    side, roots, changes = next(iter(sides.values())), {}, []
    for one in settings:
        path, _, value = (part.strip() for part in one.partition("="))
        if path == "data.root":
            roots = _roots(protocol, value)
        else:
            changes.append((path.removeprefix("data."), read_value(value)))
    if not given and not roots:
        raise SpecError(f"protocol {protocol.name} needs data; give their folder: {command(protocol)}")
    found = []
    for one in given or [f"{name}({root!r})" for name, root in roots.items()]:
        known, call = protocol.set_of(one), as_call(one)
        if known is None:
            asked_for = " or ".join(show(read(each.spec)) for each in protocol.sets)
            clashes.append(f"data is {asked_for}, and {one} is asked for")
            found.append(one)
            continue
        plan = filled(read(known.spec), INPUT, side)
        call = _merged(plan, with_names(call), set(protocol.inputs.values()), clashes)
        for path, value in changes:
            call = _merged(call, _changed(call, path, value), set(protocol.inputs.values()), clashes)
        found.append(show(call))
    return found


def _roots(protocol: Protocol, root: str) -> dict[str, str]:
    """The root of every set: PATH, or PATH/NAME of each where several sets have one; `SpecError` if only some have one."""
    here = {one.name: Path(root).expanduser() / one.name for one in protocol.sets}
    there = [name for name, place in here.items() if place.is_dir()]
    if len(here) == 1 or not there:
        return dict.fromkeys(here, root)
    if missing := [name for name in here if name not in there]:
        raise SpecError(
            f"{root} has no folder {', '.join(missing)}; it has {', '.join(there)}: measure some of the protocol's data by "
            + " ".join(f"--data {name}:{here[name]}" for name in there)
        )
    return {name: str(place) for name, place in here.items()}


def _merged(plan: Call, given: Call, sides: set[int], clashes: list[str]) -> Call:
    """The plan's data with what the user gives: the root, and what contradicts the plan."""
    if plan.name != given.name:
        inner = next((key for key, value in plan.arguments if isinstance(value, Call)), None)
        if inner is None or reader(given) != given.name:
            clashes.append(f"data is {show(plan)}, and {show(given)} is asked for")
            return given
        return _replaced(plan, inner, _merged(plan[inner], given, sides, clashes))  # type: ignore[index]
    plan = with_names(plan)
    for key, value in given.arguments:
        old = plan.get(str(key))
        if isinstance(value, Call) and isinstance(old, Call) and old.name in entries():
            value = _merged(old, with_names(value), sides, clashes)
        elif key != ROOT and old != value and not (key == "size" and old in sides and value in sides):
            clashes.append(f"the data's {key} is {_shown(old)}, and {_shown(value)} is asked for")
        plan = _replaced(plan, key, value)
    return plan


def _changed(call: Call, path: str, value: Value) -> Call:
    """The data with an argument changed, in the reader or in what is around it."""
    names = [parameter.name for parameter in find(call.name).parameters]
    inner = next((key for key, part in call.arguments if isinstance(part, Call)), None)
    if path not in names and inner is not None:
        return _replaced(call, inner, _changed(call[inner], path, value))  # type: ignore[index]
    if path not in names:
        raise SpecError(f"--set data.{path}: {call.name} has no '{path}'{nearest(path, names)}")
    return _replaced(call, path, value)


def as_call(data: str | Call) -> Call:
    return read(data) if isinstance(data, str) else data


def reader(call: Call) -> str:
    """The name of the innermost call: the reader of a wrapped data set."""
    known = entries()
    return [one.name for one in calls_in(call) if one.name in known and known[one.name].kind == "Data"][-1]


def meaning(value: Any, kind: str = "") -> Any:
    """A value by what it means, so that its spelling makes no difference: a spec in minimal form, a number."""
    if not isinstance(value, str) or value == "task":
        return value
    if kind:
        return show(minimal(complete(value, kind)))
    return read_number(value, "eps") if value[:1].isdigit() else value


def _all(value: Any, name: str) -> Any:
    kind = {**GRIDS, **SINGLE}[name]
    if name == "norm":
        return value
    return {meaning(one, kind) for one in value} if isinstance(value, tuple) else meaning(value, kind)


def with_names(call: Call) -> Call:
    """The call with its positional arguments named."""
    order = [parameter.name for parameter in find(call.name).parameters]
    if len(call.arguments) > len(order):
        complete(call)
    return Call(call.name, tuple((order[key] if isinstance(key, int) else key, value) for key, value in call.arguments))


def _replaced(call: Call, key: str | int, value: Value) -> Call:
    arguments = dict(call.arguments)
    return Call(call.name, tuple({**arguments, key: value}.items()))


def filled(value: Value, name: str, by: Value) -> Any:
    """The value with every bare `name` in it replaced."""
    if not isinstance(value, Call):
        return tuple(filled(one, name, by) for one in value) if isinstance(value, tuple) else value
    if value.name == name:
        return by
    return Call(value.name, tuple((key, filled(part, name, by)) for key, part in value.arguments))


def _shown(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
