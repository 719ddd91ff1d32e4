"""The lists that lie beside images: lines of text, tables of MATLAB; and the one rule for the paths in them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from hardsight.core.errors import DataError
from hardsight.data.lazy import need


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without the spaces around them; `DataError` where it can't be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as text: {error}") from None
    return [line for line in map(str.strip, lines) if line]


def inside(name: str, where: Path) -> str:
    """The name itself; `DataError` where it is a path that leaves the folder: absolute, or with `..` in it."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{where}: '{name}' lies outside the folder")
    return name


def table_of(path: Path, name: str, reader: str) -> Any:
    """The variable `name` of a MATLAB file of version 5, structs as dicts.

    Raises `DataError`, `MissingDependency` (scipy).
    """
    io = need("scipy.io", reader)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        found = io.loadmat(str(path), simplify_cells=True)
    except Exception as error:  # scipy raises nearly anything on a broken file
        raise DataError(f"{path} is cut short or no MATLAB file of version 5: {error}") from None
    if name not in found:
        known = ", ".join(key for key in found if not key.startswith("__"))
        raise DataError(f"{path} has no variable '{name}'; it has: {known or 'none'}")
    return found[name]
