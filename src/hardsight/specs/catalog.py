"""The catalog: every `@register`ed factory, found by parsing the source and imported only when it is built.

Parsing instead of importing keeps `hardsight list`, `show` and the check of a recipe free of torch: a misspelt argument is
reported in a third of a second. An entry's kind is its return annotation, its arguments and defaults are its signature, its
description is its docstring; so a new factory needs a change in one file only.

    complete(call, "Search")  every argument named, defaults filled in, kinds and types checked
    build(call, "Search")     the object itself, with the call that made it as `.spec`
    fingerprint(call)         hash of the name and of the arguments that differ from their defaults
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hardsight.core.errors import SpecError, nearest
from hardsight.specs.syntax import Call, Value, eps_of, read, read_value, show

SUBPACKAGES = ("attacks", "data", "encoders", "losses", "measure", "probes", "specs", "tasks", "training")
"""The folders whose files may register factories; the others are not parsed."""
LIFTS = {("Attack", "Search"): ("attack", "search")}
"""A Search given where an Attack is expected means the plain attack with that search: `--attack pgd(steps=50)`."""

REGISTERED = re.compile(r"^@register\b.*\n(?:@.*\n)*def .*\n(?:(?:[ \t)].*)?\n?)*", re.MULTILINE)
"""A function with the mark `@register`, to its last line."""
REQUIRED = inspect.Parameter.empty
PLAIN = {"int": int, "float": int | float, "str": str, "bool": bool}
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: ast.expr
    default: Value = REQUIRED


@dataclass(frozen=True)
class Entry:
    """One registered factory, as read from its source."""

    name: str
    kind: str
    module: str
    file: Path
    parameters: tuple[Parameter, ...]
    doc: str

    @property
    def summary(self) -> str:
        """The docstring's first sentence."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())

    @property
    def title(self) -> str:
        """Its name in tables: the text before the colon in the docstring's first sentence, or else the factory's name."""
        head, colon, _ = self.summary.partition(": ")
        return head if colon and len(head) <= 20 else self.name

    @property
    def signature(self) -> str:
        parts = []
        for parameter in self.parameters:
            default = "" if parameter.default is REQUIRED else f" = {show(parameter.default)}"
            parts.append(f"{parameter.name}: {ast.unparse(parameter.annotation)}{default}")
        return f"{self.name}({', '.join(parts)}) -> {self.kind}"

    def factory(self) -> Callable[..., Any]:
        return getattr(importlib.import_module(self.module), self.name)


def register(factory: F) -> F:
    """Makes a factory an entry of the catalog: the objects it builds carry the call that built them as `.spec`.

    The spec is None if an argument cannot be written as text (a tensor, a user's own function).
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        made = factory(*args, **kwargs)
        try:
            written = tuple((name, _written(value)) for name, value in bound.arguments.items())
            spec = Call(factory.__name__, written)
        except TypeError:
            spec = None
        object.__setattr__(made, "spec", spec)
        return made

    return make  # type: ignore[return-value]


@functools.cache
def entries() -> dict[str, Entry]:
    """Every entry by its name: the package's own, then those of modules named by the entry point `hardsight.plugins`.

    Raises `SpecError`, which names both files, if two entries have the same name.
    """
    found: dict[str, Entry] = {}
    for module, path in _sources():
        for entry in _entries_in(module, path):
            if entry.name in found:
                raise SpecError(f"'{entry.name}' is registered twice: in {found[entry.name].file} and in {path}")
            found[entry.name] = entry
    return found


def find(name: str, kind: str | None = None) -> Entry:
    """The entry of that name; `SpecError` if it is unknown (with the most similar known name) or of another kind."""
    known = entries()
    if name not in known:
        fitting = sorted(n for n, e in known.items() if kind in (None, e.kind) or (kind, e.kind) in LIFTS)
        what = f"{kind.lower()} " if kind else ""
        hint = nearest(name, fitting) or f"; known: {', '.join(fitting)}"
        raise SpecError(f"there is no {what}'{name}'{hint}")
    entry = known[name]
    if kind and entry.kind != kind and (kind, entry.kind) not in LIFTS:
        raise SpecError(f"'{name}' is a {entry.kind.lower()}, but a {kind.lower()} is wanted here")
    return entry


def complete(call: Call | str, kind: str | None = None) -> Call:
    """The call with every argument named, defaults filled in, and kinds and types checked; nothing is imported.

    Raises `SpecError` for an unknown name or argument (with the most similar known one), a missing argument, a wrong type.
    """
    call = read(call) if isinstance(call, str) else call
    entry = find(call.name, kind)
    if kind and entry.kind != kind:
        name, place = LIFTS[kind, entry.kind]
        return complete(Call(name, ((place, call),)), kind)
    names = [parameter.name for parameter in entry.parameters]
    given: dict[str, Value] = {}
    for key, value in call.arguments:
        if isinstance(key, int) and key >= len(names):
            raise SpecError(f"{call.name} takes at most {len(names)} arguments: {entry.signature}")
        name = names[key] if isinstance(key, int) else key
        if name not in names:
            raise SpecError(f"{call.name} has no '{name}'{nearest(name, names) or f': {entry.signature}'}")
        if name in given:
            raise SpecError(f"{call.name} gets '{name}' twice")
        given[name] = value
    filled = []
    for parameter in entry.parameters:
        value = given.get(parameter.name, parameter.default)
        if value is REQUIRED:
            raise SpecError(f"{call.name} needs '{parameter.name}': {entry.signature}")
        filled.append((parameter.name, _checked(value, parameter, call.name)))
    return Call(call.name, tuple(filled))


def build(call: Call | str, kind: str | None = None) -> Any:
    """The object that the call names, its nested calls built first; its `.spec` is the completed call."""
    call = complete(call, kind)
    made = find(call.name).factory()(**{str(name): _built(value) for name, value in call.arguments})
    object.__setattr__(made, "spec", call)
    return made


def minimal(call: Call | str) -> Call:
    """The call without the arguments that equal their defaults: short to read, and the input of `fingerprint`."""
    call = complete(call)
    defaults = {parameter.name: parameter.default for parameter in find(call.name).parameters}
    kept = []
    for name, value in call.arguments:
        default = defaults[str(name)]
        if default is not REQUIRED and _shortest(value) == _shortest(default):
            continue
        kept.append((name, _shortest(value)))
    if kept and [name for name, _ in kept] == [p.name for p in find(call.name).parameters][: len(kept)]:
        kept[0] = (0, kept[0][1])
    return Call(call.name, tuple(kept))


def fingerprint(*calls: Call | str) -> str:
    """16 hexadecimal digits, a hash of what the calls mean: defaults, argument order and spelling don't change it."""
    text = "\n".join(show(_bare(minimal(call))) for call in calls)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bare(value: Value) -> Value:
    """The value with every number as a plain float, so that its spelling (`8/255`) doesn't change a fingerprint."""
    if isinstance(value, Call):
        return Call(value.name, tuple((name, _bare(part)) for name, part in value.arguments))
    if isinstance(value, tuple):
        return tuple(_bare(part) for part in value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _written(value: Any) -> Value:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return eps_of(value)
    if isinstance(value, tuple | list):
        return tuple(_written(part) for part in value)
    if isinstance(value, dict):
        return {str(key): _written(part) for key, part in value.items()}
    if isinstance(getattr(value, "spec", None), Call):
        return value.spec
    raise TypeError(f"{type(value).__name__} cannot be written as a spec")


def _built(value: Value) -> Any:
    if isinstance(value, Call):
        return build(value)
    if isinstance(value, tuple):
        return tuple(_built(part) for part in value)
    return value


def _shortest(value: Value) -> Value:
    if isinstance(value, Call):
        return minimal(value)
    if isinstance(value, tuple):
        return tuple(_shortest(part) for part in value)
    if isinstance(value, float):
        return eps_of(value)
    return value


def _checked(value: Value, parameter: Parameter, owner: str) -> Value:
    """`value`, its nested calls completed; `SpecError` if it doesn't match the parameter's annotation."""
    wanted = _kinds_in(parameter.annotation)
    if wanted and isinstance(value, str) and not _fits(value, parameter.annotation):
        value = read(value)  # a short spec within another is quoted: clips('timm:resnet18')
    if isinstance(value, Call):
        text = ast.unparse(parameter.annotation)
        if not wanted and not value.arguments and ("str" in text or "Literal" in text):
            return _checked(value.name, parameter, owner)  # a bare word for a text argument: where=pooled
        if not wanted:
            raise SpecError(f"{owner}: '{parameter.name}' should be {text}, not '{show(value)}'")
        return complete(value, wanted[0])
    if isinstance(value, tuple) and "tuple[str" in ast.unparse(parameter.annotation):  # bare words again: [A1, D5]
        value = tuple(part.name if isinstance(part, Call) and not part.arguments else part for part in value)
    if wanted and isinstance(value, tuple) and not _fits(value, parameter.annotation):
        for part in value:
            if not isinstance(part, Call):
                raise SpecError(
                    f"{owner}: '{parameter.name}' should be {ast.unparse(parameter.annotation)}, not '{show(value)}'"
                )
        return tuple(complete(part, wanted[0]) for part in value)
    if not _fits(value, parameter.annotation):
        raise SpecError(f"{owner}: '{parameter.name}' should be {ast.unparse(parameter.annotation)}, not '{show(value)}'")
    return value


def _kinds_in(node: ast.expr) -> list[str]:
    """The kinds named in an annotation: capitalised names other than typing's `Literal` and `Any`."""
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return [name for name in names if name[0].isupper() and name not in ("Literal", "Any")]


def _fits(value: Value, node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Name(id=name) if name in PLAIN:
            return isinstance(value, PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
        case ast.Name(id="Any"):
            return True
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return value in [option.value for option in options if isinstance(option, ast.Constant)]
        case ast.Subscript(value=ast.Name(id="tuple" | "list"), slice=inner) if isinstance(value, tuple):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...:
                parts = [parts[0]] * len(value)
            return len(parts) == len(value) and all(_fits(v, p) for v, p in zip(value, parts, strict=True))
        case ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
    return False


def _sources() -> list[tuple[str, Path]]:
    """Module name and file of every module that may register factories: the package's own, then the plug-ins'."""
    root = Path(__file__).parents[1]
    sources = []
    for path in (path for folder in SUBPACKAGES for path in sorted((root / folder).rglob("*.py"))):
        parts = path.relative_to(root.parent).with_suffix("").parts
        sources.append((".".join(part for part in parts if part != "__init__"), path))
    for point in importlib.metadata.entry_points(group="hardsight.plugins"):
        try:
            located = importlib.util.find_spec(point.module)
        except ImportError:
            located = None  # a broken plug-in must not make every command fail
        if located and located.origin:
            sources.append((point.module, Path(located.origin)))
    return [(module, path) for module, path in sources if path.exists()]


def _entries_in(module: str, path: Path) -> list[Entry]:
    found = []
    for node in _registered(path.read_text(encoding="utf-8")):
        if node.returns is None or node.args.vararg or node.args.kwarg:
            raise SpecError(f"{path}: '{node.name}' needs a return annotation (its kind) and no *args or **kwargs")
        parameters = tuple(_parameters(node.args))
        doc = ast.get_docstring(node) or ""
        found.append(Entry(node.name, ast.unparse(node.returns), module, path, parameters, doc))
    return found


def _registered(text: str) -> list[ast.FunctionDef]:
    """The functions of a file that are marked with `@register`: only they are parsed, which takes a tenth of the time."""
    try:
        nodes = [ast.parse(part[0]).body[0] for part in REGISTERED.finditer(text)]
    except SyntaxError:  # a text within it begins in the first column
        nodes = ast.parse(text).body
    marked = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return [
        one for one in marked if any(isinstance(mark, ast.Name) and mark.id == "register" for mark in one.decorator_list)
    ]


def _parameters(arguments: ast.arguments) -> list[Parameter]:
    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(placed) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = list(zip(placed, defaults, strict=True)) + list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return [
        Parameter(
            arg.arg,
            arg.annotation or ast.Name("Any"),
            REQUIRED if default is None else read_value(ast.unparse(default)),
        )
        for arg, default in pairs
    ]
