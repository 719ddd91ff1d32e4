"""Figures over several cells, on the images they share: the worst case over attacks, the mean over corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hardsight.metrics.mean import means
from hardsight.metrics.worst import set_wise

Rows = dict[str, np.ndarray]


def counts_of(rows: Rows, prefix: str = "counts.") -> Rows:
    """The counts among a cell's rows; with prefix '' for the results of `shared` and `worst`."""
    kept = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith(prefix)}
    return {key: value for key, value in kept.items() if prefix or key not in ("id", "error")}


def index(ids: np.ndarray) -> dict[str, int]:
    return {name: place for place, name in enumerate(ids)}


def shared(cells: Sequence[Rows]) -> list[Rows]:
    """The rows of each cell for the images that all cells contain, in the same order."""
    places = [index(rows["id"]) for rows in cells]
    names = [name for name in cells[0]["id"] if all(name in at for at in places)]
    picks = [np.array([at[name] for name in names], dtype=int) for at in places]
    return [{key: value[pick] for key, value in rows.items()} for rows, pick in zip(cells, picks, strict=True)]


def worst(metric: Any, attacks: Sequence[Rows]) -> tuple[int, Rows]:
    """(number of images that all attacks share, rows): per image the row of the attack with the largest error.

    For a set-level metric another choice can be worse: one found greedily if counts can be summed (mIoU), or one attack's
    own rows (mAP); then those are returned.
    """
    parts = shared(attacks)
    count = len(parts[0]["id"])
    if not count:
        return 0, {}
    errors = np.stack([np.nan_to_num(part["error"], nan=np.inf) for part in parts])
    strongest = errors.argmax(axis=0)
    mixed = {key: np.stack([part[key] for part in parts])[strongest, np.arange(count)] for key in parts[0]}
    pool = [*parts, mixed]
    if metric.figures is None:  # counts can be summed, so that the set's worst case can be searched greedily
        picks = set_wise({str(place): counts_of(part, "") for place, part in enumerate(pool)}, metric)
        return count, {key: np.stack([part[key] for part in pool])[picks, np.arange(count)] for key in parts[0]}
    sign = 1 if metric.better == "higher" else -1
    return count, min((mixed, *parts), key=lambda rows: sign * metric.summary(counts_of(rows, ""))[metric.headline])


def mean(metric: Any, cells: Sequence[Rows]) -> tuple[int, dict[str, tuple[float, float, float]]]:
    """(number of images that all cells share, for each figure its mean over the cells, with an interval over images)."""
    parts = shared(cells)
    count = len(parts[0]["id"])
    return count, means(metric, [counts_of(part, "") for part in parts]) if count else {}
