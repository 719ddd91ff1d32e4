"""A recipe: a grid of encoders x tasks x data x attacks x eps, with every setting that determines the numbers; no torch.

It is a TOML file of specs (see `recipes/`), all checked before anything is loaded. The comment at the top of each file gives
its purpose, the command, the cost and the expected result.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hardsight.core.errors import SpecError, nearest
from hardsight.specs.catalog import complete, find
from hardsight.specs.syntax import Call, calls_in, eps_of, override, read, read_number, read_value, show

GROUPS = ("tasks", "data", "attacks", "eps")
SHIPPED = Path(__file__).parent / "recipes"
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """What to measure. Specs as text; eps as text too, so that tables print it as the user wrote it.

    attacks: "task" is each task's own. norm: the threat's name, or a threat that wraps one: masked(linf, [0, 0, 0.5, 1]).
    threat: complete threats, with their radii, in place of norm and eps. count: images per cell. chunk: images attacked at
    once; random numbers are drawn per chunk, so it is part of the result. split: "" is test, or val where the labels of
    test are not published. preprocess: of images of unlike sizes; "auto" is each encoder's own (measure/pictures), "data" what
    the data's spec says, or one spec for all, such as evaluation(224, 256). gallery: images stored for visual inspection.
    audit: images used by the audit's checks, for each encoder and task (0: no audit).
    """

    name: str = "custom"
    title: str = ""
    encoders: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("classify", "segment", "depth")
    data: tuple[str, ...] = ("made",)
    attacks: tuple[str, ...] = ("clean", "embed", "task")
    norm: str = "linf"
    eps: tuple[str, ...] = ("8/255",)
    threat: tuple[str, ...] = ()
    probe: str = "probe"
    split: str = ""
    preprocess: str = "auto"
    count: int = 1000
    chunk: int = 50
    seed: int = 0
    precision: Precision = "float32"
    gallery: int = 4
    audit: int = 8

    def threats(self) -> tuple[tuple[str, str], ...]:
        """(spec, eps as written) of every radius; `SpecError` for an invalid one."""
        if self.threat:
            return tuple((text, _radius_in(complete(text, "Threat"))) for text in self.threat)
        found = []
        for text in self.eps:
            value = read_number(text, "eps")
            if value < 0:
                raise SpecError(f"eps '{text}' is negative; a radius is at least 0, written as '8/255'")
            if self.norm == "linf" and value > 1:
                raise SpecError(f"eps '{text}' is above 1, but pixels are in [0, 1]; did you mean '{text}/255'?")
            found.append((show(_with_eps(read(self.norm), value)), text))
        return tuple(found)

    def check(self) -> Recipe:
        """Checks every spec and number, and returns itself; `SpecError` says which one is wrong and what would be right."""
        check_name(self.name)
        for group in GROUPS:
            if not getattr(self, group):
                raise SpecError(f"no {group} to measure with; name at least one in the recipe or by its option")
        for name in ("norm", "probe", "split", "preprocess", "title"):
            if not isinstance(getattr(self, name), str):
                raise SpecError(f"{name} is {getattr(self, name)!r}; it must be text")
        if not self.encoders:
            raise SpecError(
                "no encoder to measure; give --encoder, such as 'timm:vit_tiny_patch16_224' (see: hardsight list encoders)"
            )
        kinds = (("encoders", "Encoder"), ("tasks", "Task"), ("data", "Data"), ("attacks", "Attack"))
        for group, kind in kinds:
            for text in getattr(self, group):
                if not (kind == "Attack" and text == "task"):
                    complete(text, kind)
        complete(self.probe, "Probe")
        if self.preprocess not in ("auto", "data"):
            complete(self.preprocess, "Preprocess")
        find(read(self.norm).name, "Threat")
        for spec, _ in self.threats():
            complete(spec, "Threat")
        if self.precision not in get_args(Precision):
            raise SpecError(
                f"precision '{self.precision}' is unknown{nearest(self.precision, get_args(Precision)) or '; float32 or bf16'}"
            )
        for name, least in (("count", 1), ("chunk", 1), ("gallery", 0), ("audit", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SpecError(f"{name} is {value!r}; it must be an integer of at least {least}")
        return self

    def with_set(self, assignment: str) -> Recipe:
        """The recipe with one `path=value` changed: `count=50`, `probe.epochs=5`, `attacks.steps=100` (in every attack)."""
        path, equals, text = assignment.partition("=")
        first, _, rest = path.strip().partition(".")
        known = [f.name for f in fields(self)]
        if not equals or not first:
            raise SpecError(f"--set takes path=value, such as 'probe.epochs=5', not '{assignment}'")
        if first not in known:
            raise SpecError(f"a recipe has no '{first}'{nearest(first, known) or '; it has ' + ', '.join(known)}")
        old = getattr(self, first)
        if rest:
            texts = old if isinstance(old, tuple) else (old,)
            new, refused = [], []
            for one in texts:
                try:
                    new.append(_changed(one, rest, text))
                except SpecError as error:
                    new.append(one)
                    refused.append(str(error))
            new = tuple(new)
            if len(refused) == len(texts):
                raise SpecError(f"--set {path}: {refused[0] if refused else f'nothing in {first} has {rest!r}'}")
            return replace(self, **{first: new if isinstance(old, tuple) else new[0]})
        if isinstance(old, tuple):
            return replace(self, **{first: split_list(text)})
        value: Any = read_value(text) if isinstance(old, int) else text.strip()
        return replace(self, **{first: value})


def split_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated list; commas within parentheses, brackets or quotes don't split it."""
    parts, depth, quote, part = [], 0, "", ""
    for mark in text:
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        elif mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark == "," and depth == 0:
            parts.append(part.strip())
            part = ""
            continue
        part += mark
    return tuple(one for one in (*parts, part.strip()) if one)


def check_name(name: object) -> None:
    """`SpecError` unless the name can be used as a folder's name in runs/."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or len(name) > 100:
        raise SpecError(f"a recipe's name is {name!r}; it names a folder: use only letters, digits, '.', '_' and '-'")


def load(name: str) -> Recipe:
    """The recipe in a TOML file, or the recipe of that name shipped with the package."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.exists():
        shipped = sorted(one.stem for one in SHIPPED.glob("*.toml"))
        raise SpecError(
            f"there is no recipe '{name}'{nearest(name, shipped) or '; shipped: ' + ', '.join(shipped)} (or give a .toml file)"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    return from_dict(content, str(path), path.stem)


def from_dict(content: dict[str, Any], where: str, name: str) -> Recipe:
    known = {f.name for f in fields(Recipe)}
    if "method" in content and "encoders" not in content:
        raise SpecError(f"{where} is a training recipe; use it with 'hardsight pretrain'")
    for key in content:
        if key not in known:
            raise SpecError(
                f"{where}: a recipe has no '{key}'{nearest(key, known) or '; it has ' + ', '.join(sorted(known))}"
            )
    made = {key: tuple(map(str, value)) if isinstance(value, list) else value for key, value in content.items()}
    for group in (*GROUPS, "encoders", "threat"):
        if group in made and not isinstance(made[group], tuple):
            made[group] = (str(made[group]),)
    return Recipe(**{"name": name, **made})


def _with_eps(call: Call, value: float) -> Call:
    """The threat with `value` as its eps, or as that of the threat it wraps; `SpecError` if it combines several threats."""
    names = [parameter.name for parameter in find(call.name, "Threat").parameters]
    if "eps" in names:
        return Call(call.name, (*call.arguments, ("eps", value)))
    named = [(names[key] if isinstance(key, int) and key < len(names) else key, part) for key, part in call.arguments]
    if not isinstance(dict(named).get("threat"), Call):
        raise SpecError(f"{call.name} has no eps of its own; write the radii inside it, and pass it as --threat")
    return Call(call.name, tuple((key, _with_eps(part, value) if key == "threat" else part) for key, part in named))


def _radius_in(call: Call) -> str:
    """The radius of a completed threat, as text; empty if it has several."""
    radii = [show(part.get("eps")) for part in calls_in(call) if part.get("eps") is not None]
    return radii[0] if len(radii) == 1 else ""


def _changed(spec: str, path: str, text: str) -> str:
    """The spec with the argument at `path` changed; `SpecError` if there is no such argument, or its type is another."""
    if spec == "task":
        return spec
    changed = override(read(spec), path, _eps(read_value(text)))
    complete(changed)
    return show(changed)


def _eps(value: Any) -> Any:
    return eps_of(value) if type(value) is float else value
