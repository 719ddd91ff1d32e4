"""The house stands as docs/architecture.md draws it: its table of rooms is read here, and every import is held against it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import hardsight

ROOT = Path(hardsight.__file__).parent
TABLE = Path(__file__).parents[2] / "docs" / "architecture.md"
LOOSE = {"__init__.py", "__main__.py"}
WITHOUT_TORCH = (
    "core.errors",
    "core.progress",
    "specs.syntax",
    "specs.catalog",
    "specs.recipe",
    "metrics",
    "store",
    "report",
)
NEVER = {
    "attacks.search": ("tasks", "encoders", "training", "data", "losses"),
    "losses": ("losses.objective",),
    "training.criteria": ("tasks", "attacks", "encoders", "losses", "data"),
    "training.methods": ("attacks.attack", "attacks.presets", "tasks"),
}
ALLOWED = {("attacks.search", "losses.objective")}
"""The joint that every search reads a loss through; it is not a loss."""


@functools.cache
def rooms() -> dict[str, tuple[int, list[set[str]]]]:
    """Of each room its floor, and its files and folders by what may import what, from the ground up: read from the document."""
    found = {}
    for line in TABLE.read_text().splitlines():
        if match := re.match(r"\| (\d+) \| `(\w+)/` \| (.*?) \|", line):
            floor, room, order = match.groups()
            found[room] = (int(floor), [set(re.findall(r"`(\w+)/?`", level)) for level in order.split(" · ")])
    return found


def dotted(path: Path) -> str:
    """A file's name within the package: "attacks.search.pgd"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Every place of this package, and every other module, that the file imports, anywhere in it but under TYPE_CHECKING.

    Of the package's own, the file or folder itself, without the names taken from it: "attacks.search.base".
    """
    found = set()
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                full = ROOT.joinpath(*node.module.split(".")[1:], alias.name)
                whole = node.module.startswith("hardsight") and (full.is_dir() or full.with_suffix(".py").exists())
                found.add(f"{node.module}.{alias.name}" if whole else node.module)
    return {name.removeprefix("hardsight.") for name in found}


def unit(place: str) -> tuple[str, str]:
    """The room of a place, and which of the room's files or folders it is in; a room's own name is its `__init__`."""
    room, _, rest = place.partition(".")
    return room, rest.partition(".")[0] or "__init__"


def within(place: str, region: str) -> bool:
    return place == region or place.startswith(f"{region}.")


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def test_nothing_lies_loose() -> None:
    assert {path.name for path in ROOT.glob("*") if path.is_file()} == LOOSE


def test_the_document_names_every_room_and_all_that_is_in_it() -> None:
    there: dict[str, set[str]] = {}
    for path in FILES:
        room, name = unit(dotted(path))
        there.setdefault(room, set()).add(name)
    listed = {room: set().union(*levels) for room, (_, levels) in rooms().items()}
    assert listed == there
    assert all(sum(map(len, levels)) == len(listed[room]) for room, (_, levels) in rooms().items()), "named twice"


def test_imports_go_down() -> None:
    """From room to room by the floors, within a room by the order that the document gives."""
    wrong = []
    for path in FILES:
        room, name = unit(dotted(path))
        floor, levels = rooms()[room]
        level = {one: place for place, names in enumerate(levels) for one in names}
        for module in imports_of(path):
            there, part = unit(module)
            if there not in rooms():
                continue
            if there != room and rooms()[there][0] >= floor:
                wrong.append(f"{dotted(path)} (floor {floor}) imports {module} (floor {rooms()[there][0]})")
            if there == room and part != name and level[part] >= level[name]:
                wrong.append(f"{dotted(path)} imports {module}, which lies no lower in {room}/")
    assert not wrong, "\n".join(wrong)


def test_nevers() -> None:
    wrong = []
    for path in FILES:
        here = dotted(path)
        for module in imports_of(path):
            for region, others in NEVER.items():
                barred = any(within(module, other) for other in others) and not any(
                    within(here, one) and within(module, other) for one, other in ALLOWED
                )
                if within(here, region) and barred and here != module:
                    wrong.append(f"{here} imports {module}")
            if module.split(".")[0] in ("torch", "torchvision", "timm") and any(within(here, one) for one in WITHOUT_TORCH):
                wrong.append(f"{here} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_files_are_read_in_one_sitting() -> None:
    long = {dotted(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 380}
    assert not long, long


def test_every_module_opens_with_its_idea() -> None:
    silent = [
        str(p.relative_to(ROOT)) for p in [*FILES, ROOT / "__init__.py"] if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent, silent
