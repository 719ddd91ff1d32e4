"""The command `geometry`: statistics of an encoder's embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, Device, Encoders, On, Quiet, app, engine_of
from hardsight.core.errors import SpecError
from hardsight.specs.recipe import Recipe


@app.command()
def geometry(
    encoder: Encoders = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="A training run's folder: every snapshot of its encoder. Repeatable.")
    ] = None,
    data: Annotated[str, typer.Option(help="Data with labels, such as cifar10:PATH.")] = "made",
    eps: Annotated[str, typer.Option(help="The radius of the attacks, such as 4/255.")] = "4/255",
    norm: Annotated[str, typer.Option(help="The threat: linf, l2 or l1; Lipschitz constants are in this norm.")] = "linf",
    count: Annotated[int, typer.Option(help="Number of test images.")] = 500,
    seed: Annotated[int, typer.Option(help="Random seed of views, probes, random starts and intervals.")] = 0,
    views: Annotated[str, typer.Option(help="How the two views of an image are drawn, for alignment.")] = "views",
    probe: Annotated[str, typer.Option(help="How the linear probe is trained.")] = "probe(images=2000)",
    k: Annotated[int, typer.Option(help="Number of nearest neighbours whose classes are compared.")] = 10,
    device: Device = "auto",
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="Write an HTML page, the numbers and the arrays to this folder.")] = None,
    on: On = None,
    quiet: Quiet = False,
) -> None:
    """Statistics of an encoder's embeddings: alignment, uniformity, rank, classes, margins, effect of EmbedAttack."""
    from hardsight.specs.catalog import complete

    if not encoder and not run:
        raise SpecError("no encoder: give --encoder, such as zoo:made_simclr, or --run, a training run's folder")
    threat = Recipe(norm=norm, eps=(eps,)).threats()[0][0]
    for text, kind in ((threat, "Threat"), (data, "Data"), (views, "Views"), (probe, "Probe")):
        complete(text, kind)
    for text in encoder or []:
        complete(text, "Encoder")
    from rich.console import Console

    from hardsight.core.machine import pick_device
    from hardsight.core.progress import Watch
    from hardsight.data import open_data
    from hardsight.encoders import load_encoder
    from hardsight.measure.geometry import kept_in, over, over_epochs
    from hardsight.report.geometry import document, terminal, write

    for folder in run or []:
        kept_in(folder)
    opened = open_data(data)
    how: dict[str, Any] = {"count": count, "seed": seed, "views": views, "probe": probe, "k": k}
    if on:
        from hardsight.measure.workers import geometry_on

        found = geometry_on(engine_of(on), encoder or [], run or [], data, threat, Watch(), device, **how)
    else:
        where = pick_device(device)
        with Watch() as watch, watch.bar("geometry", count) as bar:

            def tick(label: str, done: int, total: int) -> None:
                bar.say(label)
                bar(done, total)

            named = ((one.card.name, one) for one in (load_encoder(text, where) for text in encoder or []))
            found = over(named, opened, threat, tick, **how)
            for folder in run or []:
                found += over_epochs(folder, opened, threat, tick, where, **how)
    paths = write(found, out) if out is not None else {}
    if as_json:
        typer.echo(json.dumps(document(found), indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(terminal(found), highlight=False)
    for kind, path in paths.items():
        typer.echo(f"{kind:>5}  {path}")
    after.say("geometry", quiet, encoder=encoder[0] if encoder else f"run:{(run or [Path()])[0]}", data=data)
