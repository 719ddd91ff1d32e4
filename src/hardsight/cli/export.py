"""The commands `export` and `push`: an encoder, or the results of a store, handed on to others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import typer

from hardsight.cli import after
from hardsight.cli.base import AsJson, app, one_of
from hardsight.core.errors import SpecError

ENCODERS = ("hf", "timm", "safetensors")
RESULTS = ("csv", "latex", "eee", "robustbench")
Relationship = Literal["first_party", "third_party", "collaborative", "other"]


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="An encoder's spec, such as run:runs/made-simclr, or a store's folder.")],
    to: Annotated[
        str,
        typer.Option(
            help="Of an encoder: hf, timm or safetensors. Of a store: csv, latex, eee (Every Eval Ever) or robustbench."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; for csv and latex, the file.")],
    store: Annotated[Path | None, typer.Option(help="A store whose results of this encoder go into its card.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, where none is known: MIT for your own.")] = "",
    organization: Annotated[str, typer.Option(help="For eee: who measured.")] = "unknown",
    relationship: Annotated[
        str, typer.Option(help="For eee, of who measured to the model: first_party, third_party, collaborative or other.")
    ] = "other",
    as_json: AsJson = False,
) -> None:
    """Write an encoder with a model card for others to load, or a store's results in the format of others."""
    of_store = (Path(what) / "store.json").exists()
    one_of(to, RESULTS if of_store else ENCODERS, "a store's --to" if of_store else "an encoder's --to")
    one_of(relationship, get_args(Relationship), "--relationship")
    if of_store:
        if store is not None or licence:
            raise SpecError("--store and --licence are for the card of an encoder, and this is a store")
        files = _results(Path(what), to, out, organization, relationship)
    else:
        from hardsight.specs.catalog import complete

        complete(what, "Encoder")
        from hardsight.measure.export import Form, export_encoder

        files = list(export_encoder(what, cast(Form, to), out, store, licence).values())
    if as_json:
        typer.echo(json.dumps([str(path) for path in files], indent=1))
        return
    for path in files:
        typer.echo(path)
    if not of_store:
        after.say("export", out=out)


def _results(store: Path, to: str, out: Path, organization: str, relationship: str) -> list[Path]:
    from hardsight.core.errors import StoreError
    from hardsight.report import records, table
    from hardsight.report.results import grid
    from hardsight.store.cells import Store
    from hardsight.store.files import write_bytes

    found = grid(Store(store, must_exist=True).cells())
    if not found.rows:
        raise StoreError(f"{store} contains no results yet; run 'hardsight bench --store {store}' first")
    texts: dict[Path, str] = {}
    if to in ("csv", "latex"):
        texts[out] = table.csv(found) if to == "csv" else table.latex(found)
    else:
        made = records.every_eval_ever(found, organization, relationship) if to == "eee" else records.robustbench(found)
        texts = {out / path: _document(record) for path, record in made}
    for path, text in texts.items():
        write_bytes(path, text.encode())
    return list(texts)


def _document(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A folder written by 'hardsight export'.")],
    to: Annotated[str, typer.Option(help="The repository, ORG/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Make it public; without this it is private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --public: do not ask.")] = False,
) -> None:
    """Upload an exported encoder to the Hugging Face hub, or to the hub of HF_ENDPOINT. Private unless --public, which asks."""
    from hardsight.core.hub import need_token, upload

    need_token(folder, to)
    if public and not yes:
        typer.confirm(f"Anybody will be able to read and keep {to}. Make it public?", abort=True, err=True)
    typer.echo(upload(folder, to, public))
    after.say("push", encoder=f"hf:{to}")
