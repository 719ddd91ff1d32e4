"""The command `study`: several arms and seeds, one table with their differences, and which of a paper's findings come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import Device, On, Quiet, app, engine_of


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A study's name (see: hardsight list studies), or a TOML file.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, in place of the study's own.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="measure.PATH=VALUE, such as measure.count=100. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for runs, results and tables; default runs/<name>.")] = None,
    device: Device = "auto",
    on: On = None,
    quiet: Quiet = False,
) -> None:
    """Train several arms with several seeds, measure them in the same way, and compare them. Run it again to resume."""
    from hardsight.specs.study_file import load

    chosen = load(name)
    for assignment in set_ or []:
        chosen = chosen.with_set(assignment)
    if seeds is not None:
        chosen = replace(chosen, seeds=seeds)
    engine = engine_of(on) if on else None
    from hardsight.measure.study import run, spent
    from hardsight.report.study import markdown

    folder = out or Path("runs") / chosen.name
    figures = run(chosen, folder, device, engine=engine)
    typer.echo(markdown(chosen, figures, spent(folder)))
    for kind, file in (("table", "table.md"), ("html", "study.html"), ("json", "figures.json")):
        typer.echo(f"{kind:>5}  {folder / file}")
    after.say("study", quiet, store=folder / "store")
