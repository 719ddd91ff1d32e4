"""Many workers on one store: what a second one gains, what dispatch costs, how fast a plan is checked, and random kills.

    python benchmarks/performance/many.py speedup|dispatch|plan|soak|all [--rounds 5] [--kills 100] [--seed 0]

speedup: 4 encoders x 6 cells by one and by two workers of `local`, each on one thread, in turn, round after round; both by the
clock, and by the CPU seconds of the busiest worker, which other work on the machine does not change: on two free cores it is
the time without what workers wait for. dispatch: the seconds a cell that a worker spends on finding, claiming and giving back
its work. plan: 20,000 cells of which half are finished. soak: a random worker of four gets SIGKILL at random times while they
measure the grid; rows, cells and files are compared with those of one process, in as many runs as the kills take.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from hardsight.core.progress import Watch
from hardsight.measure.bench import Bench
from hardsight.measure.engines.base import Call, results
from hardsight.measure.engines.local import Local
from hardsight.measure.plan import Plan, plan
from hardsight.measure.queue import Queue
from hardsight.measure.workers import Job, work
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store, chunk_name
from hardsight.store.claims import Claims, held
from hardsight.store.status import status

ENCODERS = tuple(f"tiny(widths=({width}, 16, 16, 16))" for width in (4, 8, 12, 16))
GRID = Recipe(
    name="many",
    encoders=ENCODERS,
    tasks=("classify", "depth"),
    data=("made(size=32, train=64, test=64)",),
    attacks=("clean", "embed(steps=10)", "pgd(10)"),
    eps=("8/255",),
    probe="probe(epochs=4, images=64, batch=16)",
    count=48,
    chunk=12,
    audit=0,
    gallery=0,
)
LARGE = replace(
    GRID, encoders=tuple(f"tiny(widths=(4, 8, 8, {n}))" for n in range(8, 58)),
    attacks=tuple(f"embed(steps={n})" for n in range(1, 51)),
    eps=("1/255", "2/255", "4/255", "8/255"), count=8, chunk=8,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speedup", "dispatch", "plan", "soak", "all"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, torch {torch.__version__}, one thread a process\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in ("speedup", "dispatch", "plan", "soak") if given.what == "all" else (given.what,):
            place = Path(folder) / name
            place.mkdir()
            if name == "speedup":
                speedup(place, given.rounds)
            elif name == "soak":
                sys.exit(soak(place, given.kills, given.seed))
            else:
                {"dispatch": dispatch, "plan": planned}[name](place)


def timed(job: Job, device: str = "auto") -> float:
    """In a worker: the CPU seconds of its work."""
    started = time.process_time()
    work(job, device)
    return time.process_time() - started


def speedup(folder: Path, rounds: int) -> None:
    cells = plan(GRID).cells
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(rounds + 1):
        for workers in (1, 2) if turn % 2 else (2, 1):
            store = folder / f"{turn}-{workers}"
            Store(store).create()
            job = Job(cells, 0, None, store, "stop", 0)
            engine = Local(workers, 1)
            started = time.perf_counter()
            busy = [value for _, value in results(engine, [Call(timed, (job,), "cpu")] * workers, poll=0.05)]
            if turn:  # the first one starts the process that workers are forked from
                found[workers].append((time.perf_counter() - started, max(busy)))
    print("| 4 encoders x 6 cells, seconds: median [min, max] | one worker | two workers | two / one |")
    print("|:--|--:|--:|--:|")
    for place, what in enumerate(("by the clock", "CPU of the busiest worker")):
        one, two = ([times[place] for times in found[workers]] for workers in (1, 2))
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        print(f"| {what} | {spread(one, 1)} | {spread(two, 1)} | {spread(ratios, 2)} |", flush=True)
    print()


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def dispatch(folder: Path) -> None:
    """A worker that measures nothing: each cell that it gets is written as finished."""
    print("| dispatch | cells | ms a cell, CPU | ms a cell, by the clock |\n|:--|--:|--:|--:|")
    for name, recipe, most in (("4 encoders x 6 cells", GRID, 24), ("the first of 20,000 cells", LARGE, 400)):
        whole, store = plan(recipe), Store(folder / name.replace(" ", "-"))
        store.create()
        missing = {one.cell.id for one in whole.resolved}
        cpu = wall = 0.0
        with Claims(store.path) as claims:
            parts, count = iter(Queue(whole, store, claims, missing, ())), 0
            while count < most:
                started, begun = time.process_time(), time.perf_counter()
                part = next(parts, None)
                cpu, wall = cpu + time.process_time() - started, wall + time.perf_counter() - begun
                if part is None:
                    break
                finish(store, part.one.cell.id, len(part.one.cell.places))
                count += 1
            parts.close()  # type: ignore[attr-defined]
        print(f"| {name} | {count} | {1000 * cpu / count:.1f} | {1000 * wall / count:.1f} |", flush=True)
    print()


def finish(store: Store, cell: str, chunks: int) -> None:
    place = store.path / "cells" / cell
    place.mkdir(parents=True)
    for name in ("cell.json", "done.json", *map(chunk_name, range(chunks))):
        (place / name).write_text('{"seconds": 1.0}')


def planned(folder: Path) -> None:
    store = Store(folder)
    store.create()
    begun: list[Plan] = []
    times = {"the recipe becomes a plan": clock(lambda: begun.append(plan(LARGE)))}
    whole = begun[0]
    runner = Bench(whole, store, "cpu")
    for one in whole.resolved[::2]:
        finish(store, one.cell.id, len(one.cell.places))
    todo = []
    times["what is missing of it (`bench`)"] = clock(lambda: todo.append(runner.todo()))
    assert len(todo[0].cells) == len(whole.resolved) // 2
    store.keep_plan([runner._planned(one, frozenset()) for one in whole.resolved])
    times["done, running, missing, time left (`status`)"] = clock(lambda: todo.append(status(folder)))
    assert todo[1].done == len(whole.resolved) // 2
    print(f"| {len(whole.resolved)} cells, half of them finished | seconds, CPU | seconds, by the clock |\n|:--|--:|--:|")
    for name, (cpu, wall) in times.items():
        print(f"| {name} | {cpu:.1f} | {wall:.1f} |", flush=True)
    print()


def clock(call: object) -> tuple[float, float]:
    started, begun = time.process_time(), time.perf_counter()
    call()  # type: ignore[operator]
    return time.process_time() - started, time.perf_counter() - begun


def soak(folder: Path, kills: int, seed: int) -> int:
    """The number of runs that do not have the rows of one process, or left something behind."""
    rng, one = random.Random(seed), folder / "one"
    Bench(plan(GRID), Store(one), "cpu", gallery=0, watch=Watch(quiet=True)).run()
    expected, started = contents(one), time.perf_counter()
    words = [sys.executable, "-m", "hardsight", "bench", "--recipe", recipe(folder), "--device", "cpu", "--on", "local(4)"]
    total = runs = again = wrong = doubled = 0
    while total < kills:
        store, runs = folder / f"run-{runs}", runs + 1
        killed: set[int] = set()
        said = ""
        while True:
            command = subprocess.Popen(
                [*words, "--store", str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            while command.poll() is None:
                time.sleep(rng.uniform(0.1, 1.5))
                there = {int(one["who"].split("-")[1]) for one in held(store).values()} - killed - {command.pid}
                if there and total < kills and (victim := rng.choice(sorted(there))) and end(victim):
                    killed.add(victim)
                    total += 1
            said += command.communicate()[1]
            if command.returncode == 0:
                break
            again += 1
            print(f"  the command ended with {command.returncode}: {said.strip().splitlines()[-1][:200]}", flush=True)
        found = contents(store)
        left = [
            str(path.relative_to(store))
            for path in store.rglob("*")
            if path.name.endswith(".tmp") or path.parent.name == "claims"
        ]
        lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        other = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
        doubled += max(0, said.count(f", n = {GRID.count}") - len(plan(GRID).cells))
        wrong += bool(lost or more or other or left)
        print(
            f"  run {runs}: {total} of {kills} kills; lost {lost}, more {more}, other bytes {other}, left {left}", flush=True
        )
    minutes = (time.perf_counter() - started) / 60
    heads = (
        "kills",
        f"runs of {len(plan(GRID).cells)} cells",
        "command given again",
        "runs with a fault",
        "cells said twice",
        "minutes",
    )
    print(f"\n| {' | '.join(heads)} |\n|{'--:|' * len(heads)}")
    print(f"| {total} | {runs} | {again} | {wrong} | {doubled} | {minutes:.0f} |")
    return wrong


def end(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def contents(store: Path) -> dict[str, bytes]:
    names = [*store.glob("cells/*/*.npz"), *store.glob("cells/*/cell.json"), *store.glob("heads/*.safetensors")]
    return {str(path.relative_to(store)): path.read_bytes() for path in names}


def recipe(folder: Path) -> str:
    """The grid as a file."""

    def text(value: object) -> str:
        return (
            str(list(value)).replace("'", '"')
            if isinstance(value, tuple)
            else f'"{value}"'
            if isinstance(value, str)
            else str(value)
        )

    names = ("encoders", "tasks", "data", "attacks", "eps", "probe", "count", "chunk", "audit", "gallery")
    path = folder / "many.toml"
    path.write_text("".join(f"{name} = {text(getattr(GRID, name))}\n" for name in names))
    return str(path)


if __name__ == "__main__":
    main()
