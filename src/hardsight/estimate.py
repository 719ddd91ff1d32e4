"""What a plan will cost: passes counted, and time from a few passes of each encoder on this machine."""

from __future__ import annotations

import time
from typing import Any

import torch

from hardsight.audit import readings
from hardsight.bench import Bench
from hardsight.catalog import build
from hardsight.encoders import load_encoder
from hardsight.objective import against, loss_and_grad, still
from hardsight.plan import Cell


def estimate(runner: Bench) -> dict[str, Any]:
    """Every cell with its passes (images x readings, at most) and seconds, and every audit; those in the store cost nothing."""
    audited = runner.plan.audited()
    speed: dict[tuple[str, str], float] = {}
    cells = []
    for cell in runner.plan.cells:
        stored = runner.store.cell(cell.id)
        key = (cell.encoder, cell.data)
        works = [(cell.column, stored is not None and stored.done is not None, runner.plan.passes(cell))]
        if cell in audited:
            spec, count = runner.plan.audit_of(cell)
            works.append(("audit", stored is not None and bool(stored.audit), count * readings(build(spec, "Attack"))))
        for column, done, passes in works:
            if not done and key not in speed:
                speed[key] = _seconds_a_pass(runner, cell)
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


def _seconds_a_pass(runner: Bench, cell: Cell) -> float:
    """Of one image forward and backward: the least of three timings of a small batch, after one to warm up."""
    encoder = load_encoder(cell.encoder, device=runner.device)
    card = runner.plan.data[cell.data].card
    x = torch.rand(8, 3, *([card.frames] if card.frames else []), *card.size, device=runner.device)
    objective = against(lambda x: encoder(x).pooled, lambda output, target, progress: output.square().sum(1))
    times = []
    with still(encoder):
        for _ in range(4):
            started = time.perf_counter()
            loss_and_grad(objective, x)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return min(times[1:]) / len(x)
