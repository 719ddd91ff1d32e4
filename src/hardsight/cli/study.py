"""The verb `study`: several arms, several seeds, one table with what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli.base import Device, app


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study's TOML file: [measure], [arms.NAME], [[compare]].")],
    out: Annotated[Path | None, typer.Option(help="Where runs, results and the table go; default runs/<name>.")] = None,
    device: Device = "auto",
) -> None:
    """Train several arms with several seeds, measure them alike, and tell what differs. Run it again to go on."""
    from hardsight.measure import study as studies

    chosen = studies.read_study(file)
    folder = out or Path("runs") / chosen.name
    figures = studies.run(chosen, folder, device)
    typer.echo(studies.markdown(chosen, figures))
    typer.echo(f"table  {folder / 'table.md'}")
