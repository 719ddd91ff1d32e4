"""The subcommands of `data`: check a data set on this disk, or download one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, Quiet, app

group = typer.Typer(no_args_is_help=True, help="Check a data set on this disk, or download a published one.")
app.add_typer(group, name="data")
Spec = Annotated[str, typer.Argument(help="Data, such as voc:PATH(size=224) or cifar10:PATH.")]


@group.command()
def check(
    spec: Spec,
    count: Annotated[int, typer.Option(help="Images to read per split; 0 reads all.", min=0)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the choice of images.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count the images of each split, read some, and report what is missing or broken. Exit code 1 if anything is."""
    from hardsight.specs.catalog import complete

    complete(spec, "Data")
    from hardsight.core.progress import Watch
    from hardsight.data.check import check, lines

    with Watch() as watch, watch.bar("reading", 1) as bar:
        found = check(spec, count or None, seed, bar)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))
    if found["problems"]:
        raise typer.Exit(1)
    after.say("data check", as_json or quiet, data=spec)


@group.command()
def get(spec: Spec, quiet: Quiet = False) -> None:
    """Download a published data set to the path in its spec, or print how to get it if it needs a manual download."""
    from hardsight.specs.catalog import complete

    complete(spec, "Data")
    from hardsight.core.progress import Watch
    from hardsight.data.get import get

    with Watch() as watch, watch.bar("fetching, MiB", 1) as bar:
        place = get(spec, bar.reach)
    typer.echo(place)
    after.say("data get", quiet, data=spec)
