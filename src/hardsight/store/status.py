"""What a store has and lacks of the plans that were run on it, and who works on the rest. No torch; nothing is written.

One look at each cell's folder, so that plans of many thousand cells are checked in seconds, also while other processes run.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardsight.core.errors import StoreError
from hardsight.core.process import runs
from hardsight.store.cells import Store, chunk_name, measured
from hardsight.store.claims import STALE, held

SAMPLE = 20
"""Of each encoder, so many finished cells are read for the time of a forward pass."""


@dataclass(frozen=True)
class Running:
    """A process that works on the store. what: its cell, audit or head. seconds: since it began with it; silent: since its last sign of life.

    A process is stale if it has ended, or is on another machine and gave no sign of life for `STALE` seconds.
    """

    who: str
    host: str
    what: str
    seconds: float
    silent: float
    stale: bool
    cell: str = ""
    chunks: int = 0
    of: int = 0


@dataclass(frozen=True)
class Status:
    """cells, audits: how many are planned. left: the forward passes (images x passes, at most) that are not done."""

    cells: int
    done: int
    audits: int
    audited: int
    missing: tuple[str, ...]
    unaudited: tuple[str, ...]
    running: tuple[Running, ...] = ()
    stale: tuple[Running, ...] = ()
    left: float = 0.0
    seconds: float | None = None
    """Of the cells that are not done, on the processes that run now, or on one; None: nothing is finished to learn it from."""
    what: dict[str, str] = field(default_factory=dict)
    """By id of each cell that is not done, in words."""


def status(folder: Path) -> Status:
    """`StoreError` if there is no store, or if no plan was noted in it."""
    store = Store(folder, must_exist=True)
    plan = store.planned()
    if not plan:
        raise StoreError(f"{folder} has no plan: 'hardsight bench --store {folder}' notes what is to be measured")
    names = {cell["id"]: store.names(cell["id"]) for cell in plan}
    there = {one["id"]: sum(chunk_name(place) in names[one["id"]] for place in range(one["chunks"])) for one in plan}
    missing = [one for one in plan if not measured(names[one["id"]], range(one["chunks"]))]
    audits = [one for one in plan if one["audited"]]
    unaudited = [one["id"] for one in audits if "audit.json" not in names[one["id"]]]
    workers = _workers(store.path, {one["id"]: one for one in plan}, there)
    live = tuple(one for one in workers if not one.stale)
    left = {one["id"]: one["passes"] * (1 - there[one["id"]] / max(one["chunks"], 1)) for one in missing}
    lacking = {one["id"] for one in missing}
    return Status(
        cells=len(plan),
        done=len(plan) - len(missing),
        audits=len(audits),
        audited=len(audits) - len(unaudited),
        missing=tuple(one["id"] for one in missing),
        unaudited=tuple(unaudited),
        running=live,
        stale=tuple(one for one in workers if one.stale),
        left=sum(left.values()),
        seconds=_seconds(store, [one for one in plan if one["id"] not in lacking], missing, left, max(1, len(live))),
        what={one["id"]: one["what"] for one in plan if one["id"] in lacking or one["id"] in unaudited},
    )


def _workers(store: Path, plan: dict[str, dict[str, Any]], there: dict[str, int]) -> list[Running]:
    """Each process that has a claim once, with the narrowest one: its head, audit or cell, or the chunk that it helps with."""
    kinds = ("head", "audit", "cell", "done", "chunk", "group")
    claims: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
    for name, claim in held(store).items():
        kind, _, what = name.partition("-")
        if kind in kinds:
            claims.setdefault(claim["who"], []).append((kinds.index(kind), what, claim))
    now = _clock(store, [claim for found in claims.values() for _, _, claim in found])
    workers = []
    for who, found in claims.items():
        kind, what, claim = min(found, key=lambda one: one[0])
        silent = max(0.0, now - max(one["changed"] for _, _, one in found))
        alive = runs(who)
        cell = next(
            (name.rpartition("-")[0] or name for place, name, _ in found if kinds[place] not in ("head", "group")), ""
        )
        workers.append(
            Running(
                who=who,
                host=claim["host"],
                what=claim["what"] or plan.get(cell, {}).get("what", kinds[kind]),
                seconds=max(0.0, now - claim["since"]),
                silent=silent,
                stale=not alive if alive is not None else silent > STALE,
                cell=cell,
                chunks=there.get(cell, 0),
                of=plan.get(cell, {}).get("chunks", 0),
            )
        )
    return sorted(workers, key=lambda one: (one.host, one.who))


def _clock(store: Path, claims: list[dict[str, Any]]) -> float:
    """The time, not before the newest claim: where the file system's clock is ahead of this machine's, nothing is from the future."""
    return max([time.time(), *(claim["changed"] for claim in claims)])


def _seconds(
    store: Store, done: list[dict[str, Any]], missing: list[dict[str, Any]], left: dict[str, float], workers: int
) -> float | None:
    """From the seconds a pass of finished cells, those of the same encoder where there are any."""
    if not missing:
        return 0.0
    wanted = {one["encoder"] for one in missing}
    took: dict[str, list[float]] = {}
    for one in done[::-1]:
        times = took.setdefault(one["encoder"], [0.0, 0.0, 0.0])
        if times[2] >= (SAMPLE if one["encoder"] in wanted else 1):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads((store.path / "cells" / one["id"] / "done.json").read_text(encoding="utf-8"))
            times[0] += found["seconds"]
            times[1] += one["passes"]
            times[2] += 1
    pace = {encoder: seconds / passes for encoder, (seconds, passes, _) in took.items() if passes}
    if not pace:
        return None
    usual = sum(pace.values()) / len(pace)
    return sum(left[one["id"]] * pace.get(one["encoder"], usual) for one in missing) / workers
