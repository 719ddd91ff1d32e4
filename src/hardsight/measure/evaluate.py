"""Evaluates an attack on a batch, one row per image: x_adv is projected into the threat set and evaluated in float32."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hardsight.attacks.attack import Attack, on, seeks_nearest
from hardsight.attacks.bf16 import in_bf16
from hardsight.attacks.inputs import checked, shaped
from hardsight.attacks.official import as_run, mirrored
from hardsight.attacks.quick import exact, quick
from hardsight.attacks.search.minimal import share_of
from hardsight.attacks.targets import goal, judged
from hardsight.attacks.threats.base import Threat
from hardsight.core import tree
from hardsight.losses.objective import AttackResult, still
from hardsight.store.files import Rows
from hardsight.tasks.base import System

Precision = Literal["float32", "bf16"]
SLACK = 0.005
"""Tolerance on a dense task's error: an image whose float32 error is below 1 by no more than this is not attacked again."""
STRIP = 4
"""Number of frames of a clip that the gallery shows."""


def evaluate(
    system: System,
    attack: Attack,
    threat: Threat,
    x: Tensor,
    y: Any,
    ids: list[str],
    rng: torch.Generator | None = None,
    precision: Precision = "float32",
    gallery: int = 0,
) -> tuple[Rows, Rows | None]:
    """Attacks images x [B, 3, H, W], or clips [B, 3, T, H, W], in [0, 1] with targets y, and evaluates the result.

    Returns the rows ("id", "error", "size", "queries", "flat", "halted", "counts.<key>", each [B, ...]; for a suite also
    "members.<name>.<key>", each member's counts; for minimal-perturbation attacks "nearest", the size of the minimal
    perturbation found, infinite if none; for attacks with a target class "reached", the share of the output that is the target,
    and "left_out": where the label already is the target, which no figure should count) and the example data of the first `gallery` images. The search may run in bf16, but
    not a minimal-perturbation attack: its points are on the decision boundary, whose sides bf16 cannot distinguish. x_adv is
    always projected and evaluated again in float32, and only that counts. Raises `RuntimeError` if a perturbation is larger
    than its threat allows, which would be a bug in hardsight.
    """
    x, y = checked(x, y, system.task)
    part = on(attack, system.task.target)
    minimal, (counted, left_out), wanted = seeks_nearest(part, threat, system.task), judged(part, y), goal(part)
    precision = "float32" if minimal else precision
    x, y = mirrored(system.task, x, y, ids, attack)
    run = as_run(attack, system)
    attack, under, system = run.attack, run.under, run.judge
    with in_bf16(under, x) if precision == "bf16" else nullcontext(False) if minimal else quick(under, x) as changed:
        found = attack(under, x, y, threat, rng)
    x_adv, output = _forward(found, system, threat, x, y)
    if (precision == "bf16" or changed) and found.error is not None:
        doubtful = ((found.error >= 1) & (system.task.error(output, counted) < 1 - SLACK)).nonzero().flatten()
        if len(doubtful):
            del x_adv, output
            found = _attack_again(found, doubtful, under, attack, threat, x, y, rng)
            x_adv, output = _forward(found, system, threat, x, y)
    size = threat.size(x_adv - x)
    if not bool((size <= threat.eps * (1 + 1e-4) + 1e-6).all()):
        raise RuntimeError(
            f"a perturbation of size {float(size.max()):.6g} is outside the {threat.norm} ball of eps {threat.eps:.6g}"
        )
    with torch.no_grad(), still(system.encoder, system.head):
        rows: Rows = {
            "id": np.array(ids),
            "error": as_array(system.task.error(output, counted)),
            "size": as_array(size),
            "queries": as_array(found.queries),
            "flat": as_array(found.flat),
            "halted": as_array(found.halted),
        }
        rows |= {f"counts.{key}": as_array(value) for key, value in system.task.counts(output, counted).items()}
        if left_out is not None:
            rows["left_out"] = as_array(left_out)
        if wanted is not None:
            rows["reached"] = as_array(1 - system.task.error(output, wanted(y)))
        if minimal:
            success = system.task.error(system.output(found.x_best_loss), counted) >= share_of(getattr(part, "search", None))
            rows["nearest"] = as_array(torch.where(success, threat.size(found.x_best_loss - x), torch.inf))
        for name, points in found.members:
            counts = system.task.counts(system.output(threat.project(points.to(x.dtype), x)), counted)
            rows |= {f"members.{name}.{key}": as_array(value) for key, value in counts.items()}
        shown = _gallery(system, output, x[:gallery], x_adv[:gallery], tree.take(y, torch.arange(min(gallery, len(x)))), ids)
    return rows, shown if gallery else None


def _forward(found: AttackResult, system: System, threat: Threat, x: Tensor, y: Any) -> tuple[Tensor, Any]:
    """x_adv projected in the dtype of x, and the system's output for it."""
    with torch.no_grad(), still(system.encoder, system.head):
        x_adv = threat.project(found.x_adv.to(x.dtype), x)
        return x_adv, shaped(system.output(x_adv), x_adv, y, system.task)


def _attack_again(
    found: AttackResult,
    doubtful: Tensor,
    system: System,
    attack: Attack,
    threat: Threat,
    x: Tensor,
    y: Any,
    rng: torch.Generator | None,
) -> AttackResult:
    """Attacks the `doubtful` images again in float32: their bf16 search stopped at a point that fails in float32."""
    with exact(system):
        again = attack(system, x[doubtful], tree.take(y, doubtful), threat, rng)
    x_adv, queries = found.x_adv.to(x.dtype), found.queries.clone()
    x_adv[doubtful] = again.x_adv
    queries[doubtful] += again.queries
    return found._replace(x_adv=x_adv, queries=queries)


def _gallery(system: System, output: Any, x: Tensor, x_adv: Tensor, y: Any, ids: list[str]) -> Rows:
    def image(pixels: Tensor) -> np.ndarray:
        return as_array((pixels * 255).round().byte().permute(0, 2, 3, 1))

    def drawable(values: Any) -> np.ndarray:
        if isinstance(values, list):
            return _boxes(values)
        return as_array(values.byte() if system.task.name == "segment" else values)

    x, x_adv = _side_by_side(x), _side_by_side(x_adv)

    return {
        "id": np.array(ids[: len(x)]),
        "image": image(x),
        "x_adv": image(x_adv),
        "delta": as_array((x_adv - x).permute(0, 2, 3, 1)),
        "target": drawable(y),
        "answer": drawable(system.task.answer(output)[: len(x)]),
    }


def _boxes(answers: list[dict[str, Tensor]]) -> np.ndarray:
    """The boxes of n images as one array [n, N, 6]: x1 y1 x2 y2 in pixels, the class (-1: padding), the score."""
    found = np.full((len(answers), max(len(one["labels"]) for one in answers), 6) if answers else (0, 0, 6), -1, np.float32)
    for place, one in enumerate(answers):
        score = one.get("scores", torch.ones(len(one["labels"])))
        for column, value in ((slice(4), one["boxes"]), (4, one["labels"]), (5, score)):
            found[place, : len(one["labels"]), column] = as_array(value)
    return found


def _side_by_side(x: Tensor) -> Tensor:
    """Images unchanged; of clips [B, 3, T, H, W] up to `STRIP` evenly spaced frames side by side, [B, 3, H, n W]."""
    if x.dim() == 4:
        return x
    shown = torch.linspace(0, x.shape[2] - 1, min(STRIP, x.shape[2]), device=x.device).round().long()
    return x[:, :, shown].transpose(2, 3).flatten(3)


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor as an array on the CPU, without its gradient."""
    return tensor.detach().cpu().numpy()
