"""The spec language: a spec is a call written as text; it is parsed with `ast` and never evaluated.

`pgd(steps=10)`, `attack(pgd(momentum=1), loss=ce)`, `linf(8/255)`, `timm:vit_tiny_patch16_224(size=64)`. It has only
names, literals, arithmetic on numbers, lists, dicts and calls. A bare name is a call without arguments, and
`source:name(more)` is short for `source("name", more)`, as users already write models and folders.

    text -> `read` -> Call -> `show` -> text
    `override(call, "search.steps", 10)` changes one argument, however deep.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hardsight.core.errors import SpecError

Value = Any
"""None, bool, int, float, Ratio, str, Call, a tuple of values, or a dict from str to values."""

SHORT = re.compile(r"([A-Za-z_]\w*):(.+)", re.DOTALL)
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}


class Ratio(float):
    """A float that keeps the text it was written as, so that `8/255` is printed as `8/255`."""

    text: str

    def __new__(cls, over: float, under: float) -> Ratio:
        self = super().__new__(cls, over / under)
        self.text = f"{_short(over)}/{_short(under)}"
        return self

    def __repr__(self) -> str:
        return self.text

    def __getnewargs__(self) -> tuple[float, float]:
        over, under = self.text.split("/")
        return float(over), float(under)


def _short(number: float) -> str:
    """The number in full precision, without a trailing `.0`."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


@dataclass(frozen=True)
class Call:
    """A name and its arguments, in order; a positional argument has its index (an int) as key until `complete` names it."""

    name: str
    arguments: tuple[tuple[str | int, Value], ...] = ()

    def __getitem__(self, key: str) -> Value:
        return dict(self.arguments)[key]

    def get(self, key: str, default: Value = None) -> Value:
        return dict(self.arguments).get(key, default)

    def __str__(self) -> str:
        return show(self)


def eps_of(value: float) -> float:
    """The float as a `Ratio` over 255 if it is usually written so: 0.03137254901960784 -> `8/255`; 0.5 stays 0.5."""
    over = round(float(value) * 255 * 8) / 8
    return Ratio(over, 255) if len(repr(value)) > 6 and over / 255 == value else value


def read(text: str) -> Call:
    """Parses `text` as a call.

    Raises `SpecError`, which quotes the text, for anything outside the language.
    """
    text = text.strip()
    if not text:
        raise SpecError("an empty spec; write a name such as 'pgd' or a call such as 'pgd(steps=10)'")
    if short := SHORT.fullmatch(text):
        return _read_short(short[1], short[2], text)
    value = _value(_parse(text), text)
    if not isinstance(value, Call):
        raise SpecError(f"'{text}' is a value, not a name; write a call such as 'pgd(steps=10)'")
    return value


def read_value(text: str) -> Value:
    """Parses `text` as a value; text that is not a literal, number or call of the language is returned as a string."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, SpecError):
        return text


def read_number(text: str, what: str) -> float:
    """A number such as `8/255` or `0.5`; `what` names it in the error."""
    if text.strip().endswith("%"):
        raise SpecError(f"{what} '{text.strip()}' is a percentage; pixels are in [0, 1], so write it as '8/255'")
    value = read_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{what} '{text}' is not a number; write it as '8/255' or '0.5'")
    return value


def show(value: Value) -> str:
    """The text that `read` parses back into `value`."""
    if isinstance(value, Call):
        if not value.arguments:
            return value.name
        inner = ", ".join(show(v) if isinstance(k, int) else f"{k}={show(v)}" for k, v in value.arguments)
        return f"{value.name}({inner})"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(show(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {show(v)}" for k, v in value.items()) + "}"
    return repr(value)


def override(call: Call, path: str, value: Value) -> Call:
    """`call` with the argument at a dotted path (`search.steps`) set to `value`; `SpecError` if there is no such path."""
    first, _, rest = path.partition(".")
    arguments = dict(call.arguments)
    if rest:
        inner = arguments.get(first)
        if not isinstance(inner, Call):
            raise SpecError(f"{call.name} has no nested call '{first}' in which to set '{rest}'")
        value = override(inner, rest, value)
    arguments[first] = value
    return Call(call.name, tuple(arguments.items()))


def calls_in(value: Value) -> Iterator[Call]:
    """Every call within `value`, itself first."""
    if isinstance(value, Call):
        yield value
        for _, inner in value.arguments:
            yield from calls_in(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from calls_in(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from calls_in(inner)


def _read_short(source: str, rest: str, text: str) -> Call:
    name, arguments = rest, ()
    if rest.endswith(")") and "(" in rest:
        opening = _opening(rest)
        name = rest[:opening]
        inner = _value(_parse(f"_{rest[opening:]}"), text)
        arguments = tuple((k + 1 if isinstance(k, int) else k, v) for k, v in inner.arguments)
    return Call(source, ((0, name), *arguments))


def _opening(text: str) -> int:
    """Index of the opening parenthesis that the last character closes (quoted text is skipped)."""
    depth, quote = 0, ""
    for place in range(len(text) - 1, -1, -1):
        mark = text[place]
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        elif mark == ")":
            depth += 1
        elif mark == "(":
            depth -= 1
            if depth == 0:
                return place
    raise SpecError(f"'{text}' has a closing parenthesis without an opening one")


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (RecursionError, MemoryError, ValueError):
        raise SpecError(f"'{text[:40]}...' cannot be parsed as a spec; it is too long or nested too deeply") from None
    except SyntaxError as error:
        place = f" at character {error.offset}" if error.offset else ""
        raise SpecError(f"'{text}' is not a spec{place}: {error.msg}; write a call such as 'pgd(steps=10)'") from None


def _value(node: ast.expr, text: str) -> Value:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.Name(id="true" | "false" as name):  # as TOML writes them
            return name == "true"
        case ast.Name(id=name):
            return Call(name)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            number = _number(operand, text)
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            over, under = _number(left, text), _number(right, text)
            if under == 0:
                raise SpecError(f"'{text}' divides by zero")
            return Ratio(over, under)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            over, under = _number(left, text), _number(right, text)
            if isinstance(op, ast.Pow) and (abs(over) > 1e6 or abs(under) > 64):
                raise SpecError(f"'{text}' raises to a power that is too large")
            try:
                return ARITHMETIC[type(op)](over, under)
            except (ArithmeticError, ValueError) as error:
                raise SpecError(f"'{text}' cannot be computed: {error}") from None
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return tuple(_value(part, text) for part in parts)
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {k.value: _value(v, text) for k, v in zip(keys, values, strict=True)}  # type: ignore[union-attr]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            if any(isinstance(a, ast.Starred) for a in args) or any(k.arg is None for k in keywords):
                raise SpecError(f"'{text}' unpacks arguments with a star; write each argument out")
            placed = tuple((place, _value(arg, text)) for place, arg in enumerate(args))
            named = tuple((str(k.arg), _value(k.value, text)) for k in keywords)
            return Call(name, placed + named)
    raise SpecError(
        f"'{ast.unparse(node)}' in '{text}' is outside the spec language (names, literals, numbers, lists, dicts, calls)"
    )


def _number(node: ast.expr, text: str) -> float:
    value = _value(node, text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"'{ast.unparse(node)}' in '{text}' is not a number")
    return value
