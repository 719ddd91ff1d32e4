"""The command `compare`: two stores, cells or encoders, paired on the same images. Needs no torch.

Exit code 3: with --fail-under, B is worse than that in at least one comparison, or lacks a cell that A has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, app
from hardsight.core.errors import SpecError

if TYPE_CHECKING:
    from hardsight.report.compare import Comparison


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A store, a cell's folder, or an encoder of --store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with A: the newer one.")],
    store: Annotated[Path | None, typer.Option(help="The store whose encoders A and B name.")] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit with 3 if B is worse by more than this many points (percent of A where it is no share)."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two stores, cells or encoders on the same images: settings, differences with intervals, tests. Needs no torch."""
    from hardsight.report import compare as comparing
    from hardsight.store.files import write_bytes

    if fail_under is not None and not 0 <= fail_under < 100:
        raise SpecError(f"--fail-under {fail_under} must be at least 0 and below 100: how many points B may be worse than A")
    found = comparing.compare(a, b, store, fail_under)
    if junit is not None:
        write_bytes(junit, comparing.junit(found))
    if as_json:
        typer.echo(json.dumps(comparing.document(found), indent=1))
    else:
        _print(found)
    if fail_under is not None and found.failures:
        typer.echo(f"hardsight: B fails in {found.failures} comparison{'s' * (found.failures != 1)}", err=True)
        raise typer.Exit(3)
    sides = (
        (store,)
        if store
        else tuple(Path(one) if (Path(one) / "store.json").exists() else Path(one).parent.parent for one in (a, b))
    )
    after.say("compare", as_json, stores=tuple(dict.fromkeys(sides)))


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hardsight.report.compare import cells, settings

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("comparison", "A", "B", "B − A [95%]", "p", "p (Holm)", "n", "verdict"):
        table.add_column(heading, justify="left" if heading in ("comparison", "verdict") else "right", overflow="fold")
    for line in found.lines:
        table.add_row(*(Text(text) for text in cells(line)))
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 150)
    typer.echo(f"A  {found.a}\nB  {found.b}")
    for text in settings(found):
        typer.echo(f"differs: {text}")
    console.print(table, highlight=False)
    for text in [*found.missing, *(f"left out: {one}" for one in found.left_out)]:
        typer.echo(text)
