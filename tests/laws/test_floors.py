"""The house stands: a file imports only from lower floors, and some files never import torch."""

from __future__ import annotations

import ast
from pathlib import Path

import hardsight

ROOT = Path(hardsight.__file__).parent
FLOORS = [
    {"errors"},
    {"spec"},
    {"catalog", "tree", "noise", "metrics", "watch", "machine", "when"},
    {"schedules"},
    {"objective", "losses", "criteria", "encoders", "data", "store", "recipe"},
    {"tasks", "threats", "corruptions", "report"},
    {"search", "aim"},
    {"attack", "bf16", "methods"},
    {"evaluate", "train", "presets", "beyond", "natural", "official", "suites", "saving"},
    {"probe", "checks"},
    {"plan", "audit", "speed", "protocols", "geometry"},
    {"bench"},
    {"estimate", "listing", "study"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
WITHOUT_TORCH = {"errors", "spec", "catalog", "metrics", "watch", "store", "recipe", "report"}
NEVER = {
    "search": {"tasks", "losses", "encoders", "methods", "data"},
    "losses": {"tasks", "search", "encoders", "objective", "data"},
    "criteria": {"tasks", "search", "encoders", "objective", "data"},
    "tasks": {"attack", "presets", "search"},
    "methods": {"attack", "presets", "tasks"},
}


def unit_of(path: Path) -> str:
    """The floor's name a file belongs to: its folder, or its own name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it but under TYPE_CHECKING."""
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
            found |= {node.module} | (
                {f"hardsight.{alias.name}" for alias in node.names} if node.module == "hardsight" else set()
            )
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_file_has_a_floor() -> None:
    assert {unit_of(path) for path in FILES} == set(FLOOR)


def test_imports_go_down() -> None:
    wrong = []
    for path in FILES:
        here = unit_of(path)
        for module in imports_of(path):
            parts = module.split(".")
            there = parts[1] if parts[0] == "hardsight" and len(parts) > 1 else here
            if there in FLOOR and there != here and FLOOR[there] >= FLOOR[here]:
                wrong.append(f"{path.relative_to(ROOT)} (floor {FLOOR[here]}) imports {module} (floor {FLOOR[there]})")
    assert not wrong, "\n".join(wrong)


def test_nevers() -> None:
    wrong = []
    for path in FILES:
        here = unit_of(path)
        for module in imports_of(path):
            there = [*module.split("."), ""][1] if module.startswith("hardsight") else ""
            if there in NEVER.get(here, ()):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
            if here in WITHOUT_TORCH and module.split(".")[0] in ("torch", "torchvision", "timm"):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_files_are_read_in_one_sitting() -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 380}
    assert not long, long


def test_every_module_opens_with_its_idea() -> None:
    silent = [
        str(p.relative_to(ROOT)) for p in [*FILES, ROOT / "__init__.py"] if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent, silent
