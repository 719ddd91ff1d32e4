"""The command `board`: one static site over any number of stores. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import app


@app.command()
def board(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Folders written by 'hardsight bench'.")],
    out: Annotated[Path, typer.Option(help="The folder of the site.")] = Path("site"),
    title: Annotated[str, typer.Option(help="The site's title.")] = "Robustness board",
) -> None:
    """Rank the encoders of all stores, with ties from paired tests, on one site that opens from a folder. Needs no torch."""
    from hardsight.report.board import write

    found = write(stores, out, title)
    for line in found.left_out:
        typer.echo(f"left out: {line}", err=True)
    typer.echo(f"{len(found.names)} encoders, {len(found.setups)} setups, {len(found.rankings)} rankings")
    typer.echo(f"site  {out / 'index.html'}")
    a, b = (found.names * 2)[:2]
    after.say("board" if len(stores) == 1 < len(found.names) else "board one", store=stores[0], a=a, b=b)
