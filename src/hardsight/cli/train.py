"""The commands that train encoders: `pretrain`, `harden` and `resume`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hardsight.cli import after
from hardsight.cli.base import Device, Quiet, app
from hardsight.core.errors import ProcessLost, SpecError

if TYPE_CHECKING:
    from hardsight.training.engine.recipe import TrainingRecipe


REQUEUE = 75
"""Exit code of a run that was stopped from outside and goes on with the same command: EX_TEMPFAIL, on which schedulers requeue."""
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change the recipe: epochs=5, method.temperature=0.5. Repeatable."),
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; default runs/<name>.")]
Minutes = Annotated[
    float | None, typer.Option(help="Save and stop after this many minutes; continue with 'hardsight resume'.", min=0.0)
]
Seed = Annotated[int | None, typer.Option(help="Random seed of new weights, views and batches.")]


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Option(help="A training recipe's name or TOML file, such as made-simclr.")],
    out: Out = None,
    setting: Setting = None,
    seed: Seed = None,
    device: Device = "auto",
    minutes: Minutes = None,
    quiet: Quiet = False,
) -> None:
    """Train an encoder with a recipe. Run it again to resume; use torchrun for several devices.

    The trained encoder is run:FOLDER: hardsight bench --encoder run:runs/made-simclr.
    """
    from hardsight.training.engine.recipe import read_recipe

    _train(_changed(read_recipe(recipe), setting, seed), out, device, minutes, quiet)


@app.command()
def harden(
    encoder: Annotated[str | None, typer.Option(help="The encoder to harden, as a spec.")] = None,
    method: Annotated[str | None, typer.Option(help="How, such as 'deacl(weight=2)'; see: hardsight list methods.")] = None,
    data: Annotated[str | None, typer.Option(help="Data to train on (its training split), such as folder:PATH.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.", min=1)] = None,
    recipe: Annotated[str | None, typer.Option(help="A training recipe to take the rest from.")] = None,
    out: Out = None,
    setting: Setting = None,
    seed: Seed = None,
    device: Device = "auto",
    minutes: Minutes = None,
    quiet: Quiet = False,
) -> None:
    """Make an existing encoder more robust, starting from its weights. Default: DeACL, 5 epochs of AdamW at 1e-4.

    The hardened encoder is run:FOLDER: hardsight bench --encoder run:runs/made_simclr-deacl.
    """
    from hardsight.specs.catalog import complete
    from hardsight.training.engine.recipe import TrainingRecipe, read_recipe

    if not encoder and not recipe:
        raise SpecError("harden needs an encoder: give --encoder SPEC, or a --recipe that names one")
    if encoder:
        complete(encoder, "Encoder")
    start = read_recipe(recipe) if recipe else None
    chosen = start or TrainingRecipe("run", "", "deacl", "made", epochs=5, batch=64, optimizer="adamw(1e-4)")
    given = {"encoder": encoder, "method": method, "data": data, "epochs": epochs}
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    chosen = _changed(chosen, setting, seed)
    if not start or (start.encoder, start.method) != (chosen.encoder, chosen.method):
        chosen = replace(chosen, name=_named(chosen))
    _train(replace(chosen, title=chosen.title or f"{chosen.encoder} hardened"), out, device, minutes, quiet)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/made-simclr.")],
    setting: Setting = None,
    device: Device = "auto",
    minutes: Minutes = None,
    quiet: Quiet = False,
) -> None:
    """Resume a stopped run from its last checkpoint, with the recipe in its folder."""
    from hardsight.training.engine.recipe import recipe_of_run

    _train(_changed(recipe_of_run(run), setting, None), run, device, minutes, quiet)


def _changed(recipe: TrainingRecipe, setting: list[str] | None, seed: int | None) -> TrainingRecipe:
    for one in setting or []:
        recipe = recipe.with_set(one)
    return (recipe if seed is None else replace(recipe, seed=seed)).check()


def _named(recipe: TrainingRecipe) -> str:
    """Encoder and method in one word: made_simclr-deacl."""
    from hardsight.specs.syntax import read

    call = read(recipe.encoder)
    first = next((value for _, value in call.arguments if isinstance(value, str)), call.name)
    words = f"{first.rpartition('/')[2]}-{read(recipe.method).name}"
    return re.sub(r"[^\w.-]+", "-", words).strip(".-")[:100]


def _train(recipe: TrainingRecipe, out: Path | None, device: str, minutes: float | None, quiet: bool) -> None:
    from hardsight.core.machine import pick_device
    from hardsight.core.progress import Watch
    from hardsight.training.engine.loop import train
    from hardsight.training.engine.settle import NOTICES

    folder = out or Path("runs") / recipe.name
    leads = os.environ.get("RANK", "0") == "0"  # under torchrun only one process prints
    before = {number: signal.signal(number, _stop) for number in NOTICES}
    try:
        path = train(recipe, folder, pick_device(device), Watch(quiet=not leads), minutes)
    except Stopped as stopped:
        said = f"{stopped.number.name}: the run is saved, and the same command goes on"
        if leads:
            typer.echo(f"hardsight: {said}{_requeued(stopped.number)}", err=True)
        raise typer.Exit(REQUEUE) from None
    except ProcessLost as lost:
        typer.echo(f"hardsight: {lost}", err=True)
        raise typer.Exit(REQUEUE) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if leads and path is not None:
        typer.echo(path)
        after.say("train", quiet, encoder=f"run:{folder}", data=recipe.data)
    if path is None:
        if leads:
            typer.echo(f"hardsight: saved after {minutes:g} minutes", err=True)
            after.say("stopped", run=folder)
        raise typer.Exit(130)


class Stopped(BaseException):
    """Raised when a scheduler's notice takes effect; no library in between may catch it."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def _requeued(number: signal.Signals) -> str:
    """Has Slurm run its job again, if it gave notice of the time limit (SIGUSR2); what came of it, for the message.

    After SIGTERM Slurm itself requeues the job, where it was pre-empted, or not, where it was cancelled.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if number.name != "SIGUSR2" or not job:
        return ""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which requeueing sends to this very job
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        text = " ".join(str(getattr(error, "stderr", "") or error).split())
        return f"; Slurm could not requeue job {job}: {text}"
    return f"; Slurm requeues job {job}"
