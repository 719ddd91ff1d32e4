"""The command line: one verb a function. Data goes to stdout, progress and errors to stderr; nothing heavy is imported at the top.

Exit codes: 0 done, 1 failed, 2 wrong input (one line says what would be right), 130 interrupted with everything finished kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardsight import __version__
from hardsight.errors import HardsightError, SpecError, nearest

if TYPE_CHECKING:
    from hardsight.recipe import Recipe
    from hardsight.store import StoredCell

app = typer.Typer(
    name="hardsight",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="How does a vision encoder break under attack, across every task it serves? Start with: [bold]hardsight bench[/]",
)

Encoders = Annotated[
    list[str] | None, typer.Option("--encoder", help="An encoder's spec, such as timm:vit_tiny_patch16_224. Repeatable.")
]
OneEncoder = Annotated[str, typer.Option("--encoder", help="The encoder's spec, such as timm:vit_tiny_patch16_224.")]
Eps = Annotated[str | None, typer.Option(help="Radii, such as 1/255,2/255,4/255,8/255.")]
Seed = Annotated[int | None, typer.Option(help="Seed of heads, starts and batches.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
OnError = Annotated[str, typer.Option(help="What an unreadable image does: stop, or skip (it is named, and left out).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
StoreOption = Annotated[Path | None, typer.Option(help="The folder of results; default runs/<name>.")]


@app.command()
def bench(
    recipe: Annotated[str, typer.Option(help="A recipe's name (hardsight list recipes) or a TOML file.")] = "made",
    encoder: Encoders = None,
    task: Annotated[list[str] | None, typer.Option(help="classify, segment or depth. Repeatable.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Data, such as cifar10:PATH or camvid:PATH. Repeatable.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="clean, embed, task (each task's own) or a spec. Repeatable.")
    ] = None,
    eps: Eps = None,
    norm: Annotated[str | None, typer.Option(help="The threat: linf, l2 or l1.")] = None,
    count: Annotated[int | None, typer.Option(help="Images a number is measured on.")] = None,
    seed: Seed = None,
    store: StoreOption = None,
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help="Of the search: float32 or bf16. Verdicts are always float32.")
    ] = None,
    as_json: AsJson = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Changes the recipe: probe.epochs=5.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and an estimate of passes and time; run nothing.")
    ] = False,
    on_error: OnError = "stop",
) -> None:
    """Measure encoders at tasks, clean and under attack, and write a report. Run it again to go on where it stopped."""
    from hardsight import recipe as recipes

    chosen = recipes.load(recipe)
    for name, value in (("encoders", encoder), ("tasks", task), ("data", data), ("attacks", attack)):
        if value:
            chosen = replace(chosen, **{name: tuple(value)})
    if eps is not None:
        chosen = replace(chosen, eps=recipes.split_list(eps))
    for name, value in (("norm", norm), ("count", count), ("seed", seed), ("precision", precision)):
        if value is not None:
            chosen = replace(chosen, **{name: value})
    for one in setting or []:
        chosen = chosen.with_set(one)
    if attack and "clean" not in chosen.attacks:
        chosen = replace(chosen, attacks=("clean", *chosen.attacks))
    _one_of(on_error, ("stop", "skip"), "--on-error")
    chosen.check()

    from hardsight.bench import Bench
    from hardsight.plan import plan
    from hardsight.store import Store
    from hardsight.watch import Watch

    folder = store or Path("runs") / _run_name(chosen, recipes.load(recipe))
    results = Store(folder)
    planned = plan(chosen)
    runner = Bench(planned, results, device, on_error, chosen.gallery, Watch())  # type: ignore[arg-type]
    for line in planned.left_out:
        runner.watch.note(f"left out: {line}")
    if dry_run:
        _estimate(runner, as_json)
        return
    cells = runner.run()
    paths = _write_report(cells, folder, chosen.title or chosen.name)
    _print_table(cells, as_json)
    if not as_json:
        for kind, path in paths.items():
            typer.echo(f"{kind:>5}  {path}")


@app.command()
def attack(
    encoder: OneEncoder,
    images: Annotated[Path, typer.Option(help="A folder of images.")],
    out: Annotated[Path, typer.Option(help="Where adversarial PNGs and attack.json go.")],
    attack: Annotated[str, typer.Option(help="An attack's spec.")] = "embed",
    task: Annotated[str, typer.Option(help="The task whose output or features are attacked.")] = "classify",
    data: Annotated[str | None, typer.Option(help="Data to train the task's head on, where the attack needs one.")] = None,
    eps: Annotated[str, typer.Option(help="The radius, such as 8/255.")] = "8/255",
    norm: Annotated[str, typer.Option(help="The threat: linf, l2 or l1.")] = "linf",
    seed: Annotated[int, typer.Option(help="Seed of starts.")] = 0,
    batch: Annotated[int, typer.Option(help="Images attacked at once.", min=1)] = 16,
    device: Device = "auto",
    on_error: OnError = "stop",
    as_json: AsJson = False,
) -> None:
    """Write adversarial versions of your own images, as PNGs that stay within eps after rounding to 8 bits."""
    from hardsight.catalog import build, complete
    from hardsight.recipe import Recipe

    _one_of(on_error, ("stop", "skip"), "--on-error")
    threat_spec = Recipe(norm=norm, eps=(eps,)).threats()[0][0]
    for text, kind in ((encoder, "Encoder"), (attack, "Attack"), (task, "Task"), (threat_spec, "Threat")):
        complete(text, kind)
    from torch import nn

    from hardsight.encoders import load_encoder
    from hardsight.machine import pick_device
    from hardsight.probe import fit_probe
    from hardsight.saving import attack_folder, attack_is_blind
    from hardsight.tasks.base import System
    from hardsight.watch import Watch

    where = pick_device(device)
    loaded = load_encoder(encoder, device=where)
    built, what = build(attack, "Attack"), build(task, "Task")
    if not built.fits(what):
        raise SpecError(f"'{attack}' does not fit the task '{task}': its loss reads another target")
    if attack_is_blind(built):
        system = System(loaded, nn.Identity(), what)
    elif data is not None:
        system = fit_probe(loaded, what, data, device=where, seed=seed)
    elif getattr(what, "kind", "") == "own":
        from hardsight.tasks.classify import OwnHead

        if not loaded.card.classes:
            raise SpecError(
                f"{loaded.card.name} has no classifier of its own; give --data to train a head on, or --attack embed"
            )
        system = System(loaded, OwnHead(loaded), what)
    else:
        raise SpecError(
            f"'{attack}' attacks the task's output, so it needs a head: give --data to train one on, or --task 'classify(head=own)'"
        )
    with Watch() as watch, watch.bar("attacking", 1) as bar:
        report = attack_folder(system, built, build(threat_spec, "Threat"), images, out, seed, batch, on_error, bar)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    sizes = [record["size_saved"] for record in report["images"]]
    typer.echo(
        f"{len(sizes)} images written to {out}; greatest {report['norm']} after rounding {max(sizes, default=0.0):.5f} (eps {report['eps']:.5f})"
    )
    for message in report["skipped"]:
        typer.echo(f"left out: {message}", err=True)


@app.command()
def probe(
    encoder: OneEncoder,
    task: Annotated[str, typer.Option(help="classify, segment or depth.")],
    data: Annotated[str, typer.Option(help="Data, such as cifar10:PATH.")] = "made",
    probe: Annotated[str, typer.Option(help="How the head is trained: probe(epochs=10, lr=1e-3).")] = "probe",
    count: Annotated[int, typer.Option(help="Test images.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the head.")] = 0,
    store: StoreOption = None,
    device: Device = "auto",
    as_json: AsJson = False,
    on_error: OnError = "stop",
) -> None:
    """Train a head on an encoder, store it, and measure it clean."""
    bench(
        encoder=[encoder], task=[task], data=[data], attack=["clean"], count=count, seed=seed, store=store, device=device,
        as_json=as_json, on_error=on_error, setting=[f"probe={probe}"], recipe="made",
    )  # fmt: skip


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="A folder that 'hardsight bench' wrote.")],
    out: Annotated[Path | None, typer.Option(help="Where the report goes; default the store itself.")] = None,
    title: Annotated[str, typer.Option(help="The page's title.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the report of a store again: HTML, CSV, Markdown, LaTeX and JSON. Needs no torch."""
    from hardsight.store import Store

    cells = Store(store, must_exist=True).cells()
    if not cells:
        raise SpecError(f"{store} holds no results yet; run 'hardsight bench --store {store}' first")
    paths = _write_report(cells, out or store, title or store.resolve().name)
    _print_table(cells, as_json)
    if not as_json:
        for kind, path in paths.items():
            typer.echo(f"{kind:>5}  {path}")


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="One of: encoders, attacks, losses, threats, tasks, data, methods, recipes.")],
    as_json: AsJson = False,
) -> None:
    """List what there is to name. Needs no torch."""
    from hardsight.listing import GROUPS, rows_of

    _one_of(what, (*GROUPS, "recipes"), "list")
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


@app.command()
def show(spec: Annotated[str, typer.Argument(help="A name or a spec, such as pgd or 'attack(pgd(steps=50))'.")]) -> None:
    """Show a thing: its signature, what it does, its source, and what the spec means in full. Needs no torch."""
    from hardsight import catalog
    from hardsight.spec import read
    from hardsight.spec import show as written

    call = read(spec)
    entry = catalog.find(call.name)
    typer.echo(f"{entry.signature}\n\n{entry.doc}\n\nmodule  {entry.module}")
    if call.arguments or all(parameter.default is not catalog.REQUIRED for parameter in entry.parameters):
        typer.echo(f"means   {written(catalog.complete(call))}\nprint   {catalog.fingerprint(call)}")


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


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine has: versions, devices, optional packages, and the environment variables that are read."""
    from hardsight.machine import facts as machine_facts

    facts = machine_facts()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        typer.echo(f"{name:16} {value}")


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


class Interrupted(BaseException):
    """Ctrl-C, under a name that no library on the way takes for its own."""


def main() -> None:
    """Runs the command line; a user's mistake is one line on stderr and exit code 2."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except HardsightError as error:
        _fail(str(error), 2)
    except Interrupted:
        _fail("interrupted; what was finished is kept, and the same command goes on from there", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}; what was written before is kept", 2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the device is out of memory; what was finished is kept; try fewer images at once: --set chunk=8", 2)


def _fail(message: str, code: int) -> None:
    print(f"hardsight: {message}", file=sys.stderr)
    raise SystemExit(code)


def _one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise SpecError(f"{what} '{value}' is unknown{nearest(value, known) or '; one of: ' + ', '.join(known)}")


def _run_name(chosen: Recipe, plain: Recipe) -> str:
    """The recipe's name, with a mark of what was changed: another question never overwrites an answer."""
    if chosen == plain:
        return chosen.name
    return f"{chosen.name}-{hashlib.sha256(repr(chosen).encode()).hexdigest()[:6]}"


def _write_report(cells: list[StoredCell], folder: Path, title: str) -> dict[str, Path]:
    from hardsight.report import write

    return write(cells, folder, title=title)


def _print_table(cells: list[StoredCell], as_json: bool) -> None:
    from hardsight.report.table import document, grid, terminal

    table = grid(cells)
    if as_json:
        typer.echo(json.dumps(document(table), indent=1))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(terminal(table))


def _estimate(runner: Any, as_json: bool) -> None:
    from hardsight.estimate import estimate

    found = estimate(runner)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for cell in found["cells"]:
        typer.echo(
            f"{cell['id']}  {cell['state']:8} {cell['passes']:>10,} passes  {cell['seconds']:>8.0f} s  {cell['what']}"
        )
    typer.echo(
        f"{len(found['cells'])} cells, {found['passes']:,} passes, about {found['seconds'] / 60:.1f} minutes here (heads not counted)"
    )
