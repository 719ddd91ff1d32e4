"""The commands `report`, `list`, `show` and `doctor`; none of them needs torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, app, one_of, report_on
from hardsight.core.errors import SpecError


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="A folder written by 'hardsight bench'.")],
    out: Annotated[Path | None, typer.Option(help="The folder for the report; default the store itself.")] = None,
    title: Annotated[str, typer.Option(help="The page's title.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write the report of a store again: HTML, CSV, Markdown, LaTeX and JSON. Needs no torch."""
    from hardsight.store.cells import Store

    cells = Store(store, must_exist=True).cells()
    if not cells:
        raise SpecError(f"{store} contains no results yet; run 'hardsight bench --store {store}' first")
    report_on(cells, out or store, title or store.resolve().name, as_json)
    after.say("report", as_json, store=store)


@app.command(name="list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="What to list, such as encoders, attacks, losses, threats, tasks, data, probes, checks, recipes, protocols, studies, claims or quirks."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """List the available encoders, attacks, losses, and so on. Needs no torch."""
    from hardsight.cli.listing import GROUPS, rows_of

    one_of(what, (*GROUPS, "recipes", "protocols", "studies", "claims", "quirks"), "list")
    rows = list(rows_of(what))
    if as_json:
        typer.echo(json.dumps([{"name": name, "kind": kind, "what": text} for name, kind, text in rows], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "kind", "what"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "kind")
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table, highlight=False)
    if what != "quirks" and rows:
        after.say("list studies" if what == "studies" else "list", name=rows[0][0])


@app.command()
def show(spec: Annotated[str, typer.Argument(help="A name or a spec, such as pgd or 'attack(pgd(steps=50))'.")]) -> None:
    """Show the signature, description, source and full spec of a name, or the text of a recipe, protocol or claim. Needs no torch."""
    from hardsight.measure import protocol as protocols
    from hardsight.specs import catalog
    from hardsight.specs.recipe import SHIPPED
    from hardsight.specs.syntax import read
    from hardsight.specs.syntax import show as written

    if spec in {path.stem for path in SHIPPED.glob("*-*.toml")}:  # names in the catalog have no hyphen
        text = (SHIPPED / f"{spec}.toml").read_text(encoding="utf-8")
        typer.echo(text.rstrip())
        after.say("show training recipe" if re.search("^method = ", text, re.MULTILINE) else "show recipe", name=spec)
        return
    if spec in protocols.names():
        typer.echo(protocols.text(protocols.load(spec)))
        after.say("show protocol", name=spec)
        return
    if "/" in spec and not set(spec) & {":", "("}:  # only names of claims have a slash, and neither of these
        from hardsight.cli import claims

        typer.echo(claims.text(spec))
        return
    call = read(spec)
    entry = catalog.find(call.name)
    typer.echo(f"{entry.signature}\n\n{entry.doc}\n\nmodule  {entry.module}")
    if call.arguments or all(parameter.default is not catalog.REQUIRED for parameter in entry.parameters):
        typer.echo(f"means   {written(catalog.complete(call))}\nprint   {catalog.fingerprint(call)}")
        if (done := f"show {entry.kind}") in after.NEXT:
            after.say(done, name=spec)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, optional packages, and the environment variables that hardsight reads."""
    from hardsight.core.machine import facts as machine_facts

    facts = machine_facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        typer.echo(f"{name:16} {value}")
    after.say("doctor")
