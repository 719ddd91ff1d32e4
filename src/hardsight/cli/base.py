"""Shared by all commands: the app, common options, the handling of errors and Ctrl-C, and the printing of results."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardsight import __version__
from hardsight.cli.cite import bibtex
from hardsight.core.errors import DataWarning, HardsightError, SpecError, nearest
from hardsight.core.start import quick

if TYPE_CHECKING:
    from hardsight.measure.engines.base import Engine
    from hardsight.report.results import Table
    from hardsight.store.cells import StoredCell

app = typer.Typer(
    name="hardsight",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Measure the adversarial robustness of vision encoders on many tasks. Start with: [bold]hardsight bench[/]",
)

Encoders = Annotated[
    list[str] | None, typer.Option("--encoder", help="An encoder's spec, such as timm:vit_tiny_patch16_224. Repeatable.")
]
OneEncoder = Annotated[str, typer.Option("--encoder", help="The encoder's spec, such as timm:vit_tiny_patch16_224.")]
Eps = Annotated[str | None, typer.Option(help="Radii, such as 1/255,2/255,4/255,8/255.")]
Seed = Annotated[int | None, typer.Option(help="Random seed of heads, random starts and batches.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
OnError = Annotated[str, typer.Option(help="At an unreadable image: stop, or skip it (and report its name).")]
On = Annotated[
    str | None,
    typer.Option(help="Where to run: 'local(4)' worker processes, 'slurm(partition=NAME)', ray. Default: in this process."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]


def _hush(quiet: bool) -> bool:
    from hardsight.core.progress import Watch

    Watch.silent = quiet
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress, and no next command.", callback=_hush)]
StoreOption = Annotated[Path | None, typer.Option(help="The folder of the results; default runs/<name>.")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    cite: Annotated[bool, typer.Option("--cite", help="Print how to cite this version, as BibTeX.", is_eager=True)] = False,
) -> None:
    if version or cite:
        typer.echo(__version__ if version else bibtex())
        raise typer.Exit


class Interrupted(BaseException):
    """Raised at Ctrl-C instead of KeyboardInterrupt, which libraries in between might catch."""


def main() -> None:
    """Runs the command line; a wrong input gives one line on stderr and exit code 2."""
    quick()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the log of the profiler, which measures memory

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGINT, interrupt)
    warnings.showwarning = _show
    try:
        app()
    except HardsightError as error:
        _fail(str(error), 2)
    except Interrupted:
        _fail("interrupted; finished parts are kept, run the same command again to resume", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}; files written before are kept", 2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the device is out of memory; finished parts are kept; try fewer images at once: --set chunk=8", 2)


def _show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning about data as one line on stderr; any other one with its place in the code."""
    if issubclass(category, DataWarning):
        print(f"hardsight: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *where, **more)


_python_shows = warnings.showwarning


def _fail(message: str, code: int) -> None:
    print(f"hardsight: {message}", file=sys.stderr)
    raise SystemExit(code)


def one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise SpecError(f"{what} '{value}' is unknown{nearest(value, known) or '; one of: ' + ', '.join(known)}")


def engine_of(on: str) -> Engine:
    """The engine of `--on`; `HardsightError` if it can't run anything here."""
    from hardsight.specs.catalog import build

    engine = build(on, "Engine")
    engine.check()
    return engine


def report_on(cells: list[StoredCell], folder: Path, title: str, as_json: bool) -> None:
    """Writes the report, and prints its table and where the files are."""
    from hardsight.report import write_table
    from hardsight.report.results import grid

    table = grid(cells)
    paths = write_table(table, folder, title)
    print_table(table, as_json)
    for kind, path in paths.items() if not as_json else ():
        typer.echo(f"{kind:>5}  {path}")


def print_table(table: Table, as_json: bool) -> None:
    from hardsight.report.audits import sentence
    from hardsight.report.nearest import sentences
    from hardsight.report.protocol import sentences as compared
    from hardsight.report.table import document, terminal

    if as_json:
        typer.echo(json.dumps(document(table), indent=1))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(terminal(table))
    for line in [*sentences(table, list(range(len(table.rows)))), *compared(table), sentence(table)]:
        if line:
            console.print(line, markup=False, highlight=False)
