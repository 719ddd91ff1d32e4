"""The command `status`: what a store has and lacks of its plans, and who works on the rest. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, app

if TYPE_CHECKING:
    from hardsight.store.status import Running, Status

SHOWN = 10
"""So many missing cells are printed; --json has all."""


@app.command()
def status(
    store: Annotated[Path, typer.Argument(help="A folder that 'hardsight bench' writes or has written.")],
    as_json: AsJson = False,
) -> None:
    """What is done, running (where, since when), stale and missing in a store, and the time left. Needs no torch."""
    from hardsight.store.status import status as look

    found = look(store)
    if as_json:
        typer.echo(json.dumps({"store": str(store), **asdict(found)}, indent=1))
        return
    for line in _lines(store, found):
        typer.echo(line)
    if found.done:
        after.say("status", store=store)


def _lines(store: Path, found: Status) -> Iterator[str]:
    audits = f", {found.audited} of {found.audits} audits" if found.audits else ""
    yield f"{store}: {found.done} of {found.cells} cells{audits} done"
    for one in found.running:
        yield f"running  {_line(one)}, since {_span(one.seconds)}"
    for one in found.stale:
        yield f"  stale  {_line(one)}, no sign of life for {_span(one.silent)}: the next free process does it"
    at = {one.cell for one in found.running}
    missing = [one for one in found.missing if one not in at]
    for one in missing[:SHOWN]:
        yield f"missing  {found.what[one]}"
    if len(missing) > SHOWN:
        yield f"missing  and {len(missing) - SHOWN} more"
    for one in [one for one in found.unaudited if one not in at and one not in found.missing][:SHOWN]:
        yield f"missing  audit of {found.what[one]}"
    if found.missing:
        who = (
            f"{len(found.running)} process{'es' * (len(found.running) != 1)}"
            if found.running
            else "one process; none runs now"
        )
        time = "unknown until a cell is finished" if found.seconds is None else f"about {_span(found.seconds)} with {who}"
        yield f"   left  {time}"


def _line(one: Running) -> str:
    chunks = f", {one.chunks} of {one.of} chunks" if one.of > 1 else ""
    pid = one.who.split("-")[1] if "-" in one.who else one.who
    return f"{one.what} on {one.host}, process {pid}{chunks}"


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
