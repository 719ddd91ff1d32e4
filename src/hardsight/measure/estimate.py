"""The cost of a plan: the number of forward passes, and the time extrapolated from a few passes of each encoder here."""

from __future__ import annotations

import time
from typing import Any

import torch

from hardsight.losses.objective import against, loss_and_grad, still
from hardsight.measure.audit import audit_passes
from hardsight.measure.bench import Bench
from hardsight.measure.cells import Resolved
from hardsight.specs.catalog import build, complete

ENOUGH = 0.1


def estimate(runner: Bench) -> dict[str, Any]:
    """Every cell and audit with its passes (images x forward passes, at most) and seconds; 0 for those in the store."""
    audited = {one.cell.id for one in runner.plan.audited()}
    speed: dict[tuple[str, str], float] = {}
    cells = []
    for one in runner.plan.resolved:
        cell = one.cell
        stored = runner.store.cell(cell.id)
        key = (cell.encoder, cell.data)
        works = [(cell.column, runner.is_done(cell), one.passes)]
        if cell.id in audited:
            _, attack, count = runner.plan.audit_of(one)
            works.append(("audit", stored is not None and bool(stored.audit), count * audit_passes(attack)))
        for column, done, passes in works:
            if not done and key not in speed:
                speed[key] = _seconds_a_pass(runner, one)
            passes = 0 if done else passes
            cells.append(
                {
                    "id": cell.id,
                    "state": "done" if done else "to do",
                    "passes": passes,
                    "seconds": round(passes * speed.get(key, 0.0), 2),
                    "what": " ".join(part for part in (cell.encoder, cell.task, cell.data, column, cell.eps_text) if part),
                }
            )
    return {"cells": cells, "passes": sum(c["passes"] for c in cells), "seconds": sum(c["seconds"] for c in cells)}


def _seconds_a_pass(runner: Bench, one: Resolved) -> float:
    """Seconds per image of one forward and backward pass: the minimum of up to three timings of a small batch, after one image.

    Of an encoder that takes longer than `ENOUGH` seconds, one timing.
    """
    encoder = build(complete(one.cell.encoder, "Encoder"), "Encoder").eval().requires_grad_(False).to(runner.device)
    card = one.data.card
    x = torch.rand(8, 3, *([card.frames] if card.frames else []), *card.size, device=runner.device)
    objective = against(lambda x: encoder(x).pooled, lambda output, target, progress: output.square().sum(1))
    times: list[float] = []
    with still(encoder):
        loss_and_grad(objective, x[:1])
        while not times or (len(times) < 3 and sum(times) < ENOUGH):
            started = time.perf_counter()
            loss_and_grad(objective, x)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return min(times) / len(x)
