"""Verbs that train encoders: `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli.base import Device, app


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Option(help="A training recipe's name or TOML file, such as made-simclr.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")] = None,
    device: Device = "auto",
) -> None:
    """Train an encoder by a recipe. Run it again to go on after the last finished epoch."""
    from hardsight.train.loop import read_recipe, train

    chosen = read_recipe(recipe)
    from hardsight.machine import pick_device
    from hardsight.watch import Watch

    typer.echo(train(chosen, out or Path("runs") / chosen.name, pick_device(device), Watch()))
