"""What a plan will cost: passes counted, and time from a few passes of each encoder on this machine."""

from __future__ import annotations

import time
from typing import Any

import torch

from hardsight.encoders import load_encoder
from hardsight.losses.objective import against, loss_and_grad, still
from hardsight.measure.audit import readings
from hardsight.measure.bench import Bench
from hardsight.measure.cells import Resolved


def estimate(runner: Bench) -> dict[str, Any]:
    """Every cell with its passes (images x readings, at most) and seconds, and every audit; those in the store cost nothing."""
    audited = {one.cell.id for one in runner.plan.audited()}
    speed: dict[tuple[str, str], float] = {}
    cells = []
    for one in runner.plan.resolved:
        cell = one.cell
        stored = runner.store.cell(cell.id)
        key = (cell.encoder, cell.data)
        works = [(cell.column, stored is not None and stored.done is not None, one.passes)]
        if cell.id in audited:
            _, attack, count = runner.plan.audit_of(one)
            works.append(("audit", stored is not None and bool(stored.audit), count * readings(attack)))
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
    """Of one image forward and backward: the least of three timings of a small batch, after one to warm up."""
    encoder = load_encoder(one.cell.encoder, device=runner.device)
    card = one.data.card
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
