"""The gallery: a report of every store, the page of every study, and one board over all stores."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from hardsight.report import board
from hardsight.report.page import write_html
from hardsight.specs.recipe import SHIPPED
from hardsight.specs.study_file import load, shipped
from hardsight.store.cells import Store

RECIPES = Path(__file__).parents[1] / "results"
HEAD = """# Gallery of reports

Pages as the commands write them, each one file that needs no network.
"""
NONE = """
This site was built without any: `benchmarks/site/build.py --runs FOLDER` shows the stores and studies of a folder.
"""


def write(runs: Path | None, folder: Path) -> None:
    """Writes `index.md`, a folder a store or study, and `board/`; a store without a finished cell is named and left out."""
    folder.mkdir(parents=True)
    rows, stores, left_out = [], [], []
    for store, name in found(runs) if runs else []:
        cells = [cell for cell in store.cells() if cell.done]
        if not cells:
            left_out.append(name)
            continue
        what, command = described(name)
        write_html(cells, folder / name / "report.html", what)
        links = [f"[report]({name}/report.html)"]
        study = store.path.parent / "study.html"
        if study.exists():
            shutil.copy(study, folder / name / "study.html")
            links.insert(0, f"[study]({name}/study.html)")
        stores.append(store.path)
        encoders = len({cell.what["encoder_name"] for cell in cells})
        rows.append(f"| {what} | {', '.join(links)} | {encoders} | {len(cells)} | {f'`{command}`' if command else ''} |")
    lines = [HEAD]
    if stores:
        made = board.write(stores, folder / "board", "Every encoder of the gallery")
        rankings = f"{len(made.names)} encoders in {len(made.rankings)} rankings"
        lines += [f"**[The board](board/index.html)** ranks what is comparable among all of them: {rankings}.", ""]
        lines += ["| what | pages | encoders | cells | command |", "|:--|:--|--:|--:|:--|", *rows]
    else:
        lines.append(NONE)
    if left_out:
        lines += ["", f"Without a finished cell, and left out: {', '.join(left_out)}."]
    (folder / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def found(runs: Path) -> list[tuple[Store, str]]:
    """(store, name) of each folder that is a store, or a study with one."""
    places = [
        (place, place.parent.name if place.name == "store" else place.name)
        for place in sorted(path.parent for pattern in ("*/store.json", "*/store/store.json") for path in runs.glob(pattern))
    ]
    return [(Store(place, must_exist=True), name) for place, name in places]


def described(name: str) -> tuple[str, str]:
    """(what was measured, the command) of a study or a recipe of that name; of another store its name alone."""
    if name in shipped():
        study = load(name)
        return study.what, study.command
    for path, command in (
        (RECIPES, f"hardsight bench --recipe benchmarks/results/{name}.toml"),
        (SHIPPED, f"hardsight bench --recipe {name}"),
    ):
        if (path / f"{name}.toml").exists():
            title = tomllib.loads((path / f"{name}.toml").read_text(encoding="utf-8")).get("title", "")
            return title or name, command
    return name, ""
