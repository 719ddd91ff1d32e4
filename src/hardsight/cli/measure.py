"""The commands that measure: `bench`, `attack`, `probe` and `speed`."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hardsight.cli import after
from hardsight.cli.base import (
    AsJson,
    Device,
    Encoders,
    Eps,
    On,
    OneEncoder,
    OnError,
    Quiet,
    Seed,
    StoreOption,
    app,
    engine_of,
    one_of,
    report_on,
)
from hardsight.core.errors import SpecError
from hardsight.measure import protocol as protocols
from hardsight.measure.early import check_data, check_encoders, check_recipe, images_for
from hardsight.specs import recipe as recipes
from hardsight.specs.catalog import complete
from hardsight.specs.recipe import Recipe, split_list
from hardsight.specs.syntax import show


@app.command()
def bench(
    recipe: Annotated[str, typer.Option(help="A recipe's name (hardsight list recipes) or a TOML file.")] = "made",
    encoder: Encoders = None,
    task: Annotated[list[str] | None, typer.Option(help="classify, segment or depth. Repeatable.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Data, such as cifar10:PATH or camvid:PATH. Repeatable.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="clean, embed, task (the default attack of each task) or a spec. Repeatable.")
    ] = None,
    eps: Eps = None,
    norm: Annotated[
        str | None, typer.Option(help="The threat without its radius: linf, l2, l1, l0, 'masked(linf, [0, 0, 0.5, 1])'.")
    ] = None,
    threat: Annotated[
        list[str] | None,
        typer.Option(help="A whole threat instead of --norm and --eps: 'union([linf(8/255), l2(0.5)])'. Repeatable."),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of images for each result.")] = None,
    seed: Seed = None,
    store: StoreOption = None,
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help="Of the attack: float32 or bf16. Its result is always evaluated in float32.")
    ] = None,
    as_json: AsJson = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change the recipe: probe.epochs=5.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells with an estimate of forward passes and time; run nothing.")
    ] = False,
    on_error: OnError = "stop",
    on: On = None,
    protocol: Annotated[
        str | None, typer.Option(help="A published protocol instead of a recipe (hardsight list protocols).")
    ] = None,
    off_protocol: Annotated[
        bool, typer.Option("--off-protocol", help="Allow settings that contradict the protocol; the report names them.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate encoders on tasks, clean and under attack, and write a report. Run it again to resume an interrupted run."""
    given = {"tasks": task, "attacks": attack, "threat": threat, "norm": norm, "count": count, "precision": precision}
    given |= {"eps": split_list(eps) if eps is not None else None, "seed": seed}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    if threat and (eps is not None or norm is not None):
        raise SpecError("--threat gives whole threats, with their radii; give either it, or --norm and --eps")
    one_of(on_error, ("stop", "skip"), "--on-error")
    if off_protocol and not protocol:
        raise SpecError("--off-protocol is for a --protocol, and none is given")
    chosen = [_chosen(recipe, encoder, data, given, setting)] if not protocol else []
    found = protocols.load(protocol) if protocol else None
    if found:
        encoders = _snapshots(found, encoder or []) if found.snapshots else encoder or []
        chosen = protocols.asked(found, encoders, data or [], given, setting or [], off_protocol)
    for one in chosen:
        one.check()
        check_recipe(one)
    engine = engine_of(on) if on and not dry_run else None

    from hardsight.core.progress import Watch
    from hardsight.measure.bench import Bench
    from hardsight.measure.plan import plan, plan_of
    from hardsight.store.cells import Store

    first = chosen[0]
    plain = found is None and chosen == [recipes.load(recipe)]
    folder = store or Path("runs") / (first.name if plain else f"{first.name}-{_hash(chosen if found else first)}")
    results = Store(folder)
    planned = plan_of(found, chosen) if found else plan(first)
    runner = Bench(planned, results, "cpu" if engine else device, on_error, first.gallery, Watch())  # type: ignore[arg-type]
    for line in planned.left_out:
        runner.watch.note(f"left out: {line}")
    if dry_run:
        _estimate(runner, as_json)
        if not (as_json or quiet) and "--dry-run" in sys.argv:
            after.say("dry run", command=("hardsight", *(word for word in sys.argv[1:] if word != "--dry-run")))
        return
    if engine:
        from hardsight.measure.workers import run_on

        cells = run_on(engine, runner, device)
    else:
        cells = runner.run()
    report_on(cells, folder, first.title or first.name, as_json)
    alone = len(first.encoders) == 1 and any(one.startswith("classify") for one in first.tasks)
    done = "bench clean" if set(first.attacks) == {"clean"} else "bench one" if alone else "bench"
    facts = {"encoder": first.encoders[0], "task": first.tasks[0], "data": first.data[0]}
    after.say(done, as_json or quiet, store=folder, **facts)


@app.command()
def attack(
    encoder: OneEncoder,
    images: Annotated[Path, typer.Option(help="A folder of images.")],
    out: Annotated[Path, typer.Option(help="The folder for the adversarial PNGs and attack.json.")],
    attack: Annotated[str, typer.Option(help="An attack's spec.")] = "embed",
    task: Annotated[str, typer.Option(help="The task whose output or features are attacked.")] = "classify",
    data: Annotated[str | None, typer.Option(help="Data to train the task's head on, if the attack needs one.")] = None,
    eps: Annotated[str, typer.Option(help="The radius, such as 8/255.")] = "8/255",
    norm: Annotated[str, typer.Option(help="The threat: linf, l2 or l1.")] = "linf",
    seed: Annotated[int, typer.Option(help="Random seed of random starts.")] = 0,
    batch: Annotated[int, typer.Option(help="Images attacked at once.", min=1)] = 16,
    device: Device = "auto",
    on_error: OnError = "stop",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write adversarial versions of your own images, as PNGs that stay within eps after rounding to 8 bits."""
    from hardsight.specs.catalog import build, complete
    from hardsight.specs.recipe import Recipe

    one_of(on_error, ("stop", "skip"), "--on-error")
    threat_spec = Recipe(norm=norm, eps=(eps,)).threats()[0][0]
    for text, kind in ((encoder, "Encoder"), (attack, "Attack"), (task, "Task"), (threat_spec, "Threat")):
        complete(text, kind)
    images_for(images, out)
    check_encoders([encoder])
    check_data([data] if data else [])
    from torch import nn

    from hardsight.core.machine import pick_device
    from hardsight.core.progress import Watch
    from hardsight.encoders import load_encoder
    from hardsight.measure.saving import attack_folder, label_free
    from hardsight.probes.linear import fit_probe
    from hardsight.tasks.base import System

    where = pick_device(device)
    loaded = load_encoder(encoder, device=where)
    built, what = build(attack, "Attack"), build(task, "Task")
    if not built.fits(what):
        raise SpecError(f"'{attack}' does not fit the task '{task}': its loss needs another target")
    if label_free(built):
        system = System(loaded, nn.Identity(), what)
    elif data is not None:
        system = fit_probe(loaded, what, data, device=where, seed=seed)
    elif getattr(what, "kind", "") == "own":
        from hardsight.tasks.classify import OwnHead

        if not loaded.card.classes:
            raise SpecError(
                f"{loaded.card.name} has no classifier of its own; give --data to train a head, or --attack embed"
            )
        system = System(loaded, OwnHead(loaded), what)
    else:
        raise SpecError(
            f"'{attack}' attacks the task's output, so it needs a head: give --data to train one, "
            "or --task 'classify(head=own)'"
        )
    with Watch() as watch, watch.bar("attacking", 1) as bar:
        report = attack_folder(system, built, build(threat_spec, "Threat"), images, out, seed, batch, on_error, bar)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    sizes = [record["size_saved"] for record in report["images"]]
    typer.echo(
        f"{len(sizes)} images written to {out}; largest {report['norm']} size after rounding "
        f"{max(sizes, default=0.0):.5f} (eps {report['eps']:.5f})"
    )
    for message in report["skipped"]:
        typer.echo(f"left out: {message}", err=True)
    after.say("attack", quiet, encoder=encoder)


@app.command()
def probe(
    encoder: OneEncoder,
    task: Annotated[str, typer.Option(help="classify, segment or depth.")],
    data: Annotated[str, typer.Option(help="Data, such as cifar10:PATH.")] = "made",
    probe: Annotated[str, typer.Option(help="How the head is trained: probe(epochs=10, lr=1e-3).")] = "probe",
    count: Annotated[int, typer.Option(help="Number of test images.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed of the head.")] = 0,
    store: StoreOption = None,
    device: Device = "auto",
    as_json: AsJson = False,
    on_error: OnError = "stop",
    quiet: Quiet = False,
) -> None:
    """Train a head on an encoder, store it, and evaluate it on clean images."""
    bench(
        encoder=[encoder], task=[task], data=[data], attack=["clean"], count=count, seed=seed, store=store, device=device,
        as_json=as_json, on_error=on_error, quiet=quiet, setting=[f"probe={probe}"], recipe="made",
    )  # fmt: skip


@app.command()
def speed(
    encoder: OneEncoder,
    task: Annotated[str, typer.Option(help="The task whose head is attacked.")] = "classify",
    data: Annotated[str, typer.Option(help="Data, such as cifar10:PATH.")] = "made",
    attack: Annotated[str, typer.Option(help="An attack's spec, or task for the task's default attack.")] = "task",
    eps: Annotated[str, typer.Option(help="The radius, such as 8/255.")] = "8/255",
    norm: Annotated[str, typer.Option(help="The threat: linf, l2 or l1.")] = "linf",
    count: Annotated[int, typer.Option(help="Number of images, all in one batch.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="How often each variant is timed, in turn.", min=1)] = 3,
    probe: Annotated[str, typer.Option(help="How the head is trained.")] = "probe",
    seed: Annotated[int, typer.Option(help="Random seed of the head and of random starts.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time an attack on this machine, compared with a floor: its bare forward and backward passes."""
    from hardsight.specs.catalog import build, complete

    threat_spec = Recipe(norm=norm, eps=(eps,)).threats()[0][0]
    for text, kind in ((encoder, "Encoder"), (task, "Task"), (threat_spec, "Threat"), (data, "Data"), (probe, "Probe")):
        complete(text, kind)
    check_encoders([encoder])
    check_data([data])
    from dataclasses import asdict

    from hardsight.core import tree
    from hardsight.core.machine import device_name, pick_device
    from hardsight.core.progress import Watch
    from hardsight.data import open_data
    from hardsight.data.feed import choose, load, pixels
    from hardsight.encoders import load_encoder
    from hardsight.measure.speed import speed as timed
    from hardsight.probes.linear import fit_probe

    what, where = build(task, "Task"), pick_device(device)
    chosen = build(what.attack if attack == "task" else attack, "Attack")
    if not chosen.fits(what):
        raise SpecError(f"'{attack}' does not fit the task '{task}': its loss needs another target")
    opened = open_data(data)
    images = opened.split(opened.measured_on())
    batch = load(images, choose(images, count))
    x, y = pixels(batch.images, where), tree.move(batch.target[what.target], where)
    with Watch() as watch, watch.bar("training the head", 1) as bar:
        system = fit_probe(load_encoder(encoder, device=where), what, opened, probe, seed, where, tick=bar)
        with watch.bar("timing", 1) as rounds_bar:
            paces = timed(system, chosen, build(threat_spec, "Threat"), x, y, rounds, seed, rounds_bar)
    if as_json:
        typer.echo(json.dumps({"device": device_name(where), "paces": [asdict(pace) for pace in paces]}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from hardsight.metrics import of

    metric = of(what.name)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "contestant",
        "seconds",
        "of the floor",
        "least–greatest",
        "peak MB",
        "of the floor",
        metric.label,
        "readings",
    ):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    for pace in paces:
        table.add_row(
            pace.name, f"{pace.seconds:.3f}", f"{pace.ratio:.2f}", f"{pace.spread[0]:.2f}–{pace.spread[1]:.2f}",
            f"{pace.megabytes:.1f}", f"{pace.memory_ratio:.2f}", "" if pace.score is None else f"{pace.score:.3f}",
            "" if pace.queries is None else f"{pace.queries:.1f}",
        )  # fmt: skip
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(table, highlight=False)
    typer.echo(f"{len(x)} images, {rounds} rounds, seed {seed}, {device_name(where)}")
    after.say("speed", quiet, encoder=encoder, task=task, data=data)


def _chosen(
    recipe: str, encoder: list[str] | None, data: list[str] | None, given: dict[str, Any], setting: list[str] | None
) -> Recipe:
    """The recipe with the options and settings given."""
    chosen = recipes.load(recipe)
    if "eps" in given or "norm" in given:
        chosen = replace(chosen, threat=())
    lists = {name: tuple(value) for name, value in (("encoders", encoder), ("data", data)) if value}
    chosen = replace(chosen, **lists, **given)
    for one in setting or []:
        chosen = chosen.with_set(one)
    if "attacks" in given and "clean" not in chosen.attacks:
        chosen = replace(chosen, attacks=("clean", *chosen.attacks))
    return chosen


def _snapshots(protocol: protocols.Protocol, encoders: list[str]) -> list[str]:
    """Every snapshot of the training runs, as encoders."""
    from hardsight.measure.geometry import kept_in

    calls = [complete(one, "Encoder") for one in encoders]
    for call in calls:
        if call.name != "run" or call["epoch"] is not None or call["best"]:
            raise SpecError(
                f"protocol {protocol.name} measures every snapshot of a training run; give its folder, --encoder run:FOLDER"
            )
    return [show(one) for call in calls for one in kept_in(call["folder"]).values()]


def _hash(what: Recipe | list[Recipe]) -> str:
    """Of changed settings, in the folder's name, so that they never overwrite other results."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:6]


def _estimate(runner: Any, as_json: bool) -> None:
    from hardsight.measure.estimate import estimate

    found = estimate(runner)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for cell in found["cells"]:
        typer.echo(
            f"{cell['id']}  {cell['state']:8} {cell['passes']:>10,} passes  {cell['seconds']:>8.0f} s  {cell['what']}"
        )
    typer.echo(
        f"{len({cell['id'] for cell in found['cells']})} cells, {found['passes']:,} passes, "
        f"about {found['seconds'] / 60:.1f} minutes on this machine (training of heads not included)"
    )
