"""The command `study`: several arms and seeds, and one table with their differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli.base import Device, app


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study's TOML file: [measure], [arms.NAME], [[compare]].")],
    out: Annotated[Path | None, typer.Option(help="The folder for runs, results and table; default runs/<name>.")] = None,
    device: Device = "auto",
) -> None:
    """Train several arms with several seeds, measure them in the same way, and compare them. Run it again to resume."""
    from hardsight.measure import study as studies

    chosen = studies.read_study(file)
    folder = out or Path("runs") / chosen.name
    figures = studies.run(chosen, folder, device)
    typer.echo(studies.markdown(chosen, figures))
    typer.echo(f"table  {folder / 'table.md'}")
