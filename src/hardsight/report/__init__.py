"""Reports: from the rows of a store to an HTML page, tables for papers, and machine-readable numbers; never imports torch.

write(Store("runs"), "report")    report.html, report.csv, report.md, report.tex and report.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hardsight.report import table as tables
from hardsight.report.page import html
from hardsight.report.results import CellLike, grid
from hardsight.store.cells import Store
from hardsight.store.files import write_bytes

if TYPE_CHECKING:
    from hardsight.report.results import Table

__all__ = ["write", "write_table"]


def write(
    source: Store | str | Path | Iterable[CellLike], folder: str | Path, title: str = "Robustness report"
) -> dict[str, Path]:
    """Writes the five files of a report into `folder`, each atomically.

    source: a store, its folder, or cells. Returns their paths by kind: "html", "csv", "md", "tex", "json".
    """
    if isinstance(source, str | Path):
        source = Store(source, must_exist=True)
    return write_table(grid(source.cells() if isinstance(source, Store) else source), folder, title)


def write_table(table: Table, folder: str | Path, title: str = "Robustness report") -> dict[str, Path]:
    """`write`, for an existing table."""
    texts = {
        "html": html(table, title),
        "csv": tables.csv(table),
        "md": tables.markdown(table),
        "tex": tables.latex(table),
        "json": json.dumps(tables.document(table), indent=1, ensure_ascii=False) + "\n",
    }
    paths = {kind: Path(folder) / f"report.{kind}" for kind in texts}
    for kind, path in paths.items():
        write_bytes(path, texts[kind].encode("utf-8"))
    return paths
