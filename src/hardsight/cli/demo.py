"""The command `demo`: one attack on what an encoder sees, and two tasks before and after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, Device, Quiet, app


@app.command()
def demo(
    encoder: Annotated[str, typer.Option(help="The encoder's spec.")] = "zoo:made_supervised",
    count: Annotated[int, typer.Option(help="Number of scenes.", min=8)] = 64,
    eps: Annotated[str, typer.Option(help="The radius, such as 4/255.")] = "4/255",
    seed: Annotated[int, typer.Option(help="Random seed of heads and of the random start.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("demo"),
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what one attack on an encoder's embedding does to two tasks at once: a picture, four sentences, a small page."""
    from hardsight.specs.catalog import complete
    from hardsight.specs.recipe import Recipe

    complete(encoder, "Encoder")
    Recipe(eps=(eps,)).threats()
    from rich.console import Console

    from hardsight.core.machine import pick_device
    from hardsight.core.progress import Watch
    from hardsight.measure import demo as measuring
    from hardsight.report import demo as reporting

    with Watch() as watch, watch.bar("loading", 1) as bar:

        def tick(what: str, done: int, total: int) -> None:
            bar.say(what)
            bar(done, total)

        found = measuring.demo(encoder, count, eps, seed, pick_device(device), tick)
    page = reporting.write(found, out)
    if as_json:
        typer.echo(json.dumps(reporting.document(found) | {"page": str(page)}, indent=1))
        return
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(reporting.terminal(found, console.width, console.color_system is not None))
    for text in reporting.sentences(found):
        console.print(text)
    typer.echo(f" page  {page}")
    after.say("demo", quiet)
