"""Lists stored next to the images: text files and MATLAB tables; and one check for the paths in them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from hardsight.core.errors import DataError
from hardsight.data.lazy import need


def lines_of(path: Path) -> list[str]:
    """The non-blank lines of a text file, stripped of surrounding spaces; raises `DataError` if it can't be read."""
    return [line for _, line in numbered(path)]


def numbered(path: Path) -> list[tuple[int, str]]:
    """Those lines with their numbers, counted from 1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as text: {error}") from None
    return [(number, line) for number, line in enumerate(map(str.strip, lines), 1) if line]


def inside(name: str, where: Path | str) -> str:
    """Returns the name unchanged; raises `DataError` if the path leads outside the folder: absolute, or with `..` in it."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{where}: '{name}' is outside the folder")
    return name


def table_of(path: Path, name: str, reader: str) -> Any:
    """The variable `name` of a MATLAB file of version 5, structs as dicts.

    Raises `DataError`, `MissingDependency` (scipy).
    """
    io = need("scipy.io", reader)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        found = io.loadmat(str(path), simplify_cells=True)
    except Exception as error:  # scipy raises almost any error for a broken file
        raise DataError(f"{path} is truncated or not a MATLAB file of version 5: {error}") from None
    if name not in found:
        known = ", ".join(key for key in found if not key.startswith("__"))
        raise DataError(f"{path} has no variable '{name}'; its variables are: {known or 'none'}")
    return found[name]
