"""What is said over several cells of a row: the worst case over attacks, the mean over corruptions; of the images all have seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hardsight.metrics.mean import means
from hardsight.metrics.worst import set_wise

Rows = dict[str, np.ndarray]


def counts_of(rows: Rows, prefix: str = "counts.") -> Rows:
    """The counts among a cell's rows; with prefix '' of rows that `shared` or `worst` gave."""
    kept = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith(prefix)}
    return {key: value for key, value in kept.items() if prefix or key not in ("id", "error")}


def index(ids: np.ndarray) -> dict[str, int]:
    return {name: place for place, name in enumerate(ids)}


def shared(cells: Sequence[Rows]) -> list[Rows]:
    """Each cell's rows of the images that all cells have seen, in one order."""
    places = [index(rows["id"]) for rows in cells]
    names = [name for name in cells[0]["id"] if all(name in at for at in places)]
    picks = [np.array([at[name] for name in names], dtype=int) for at in places]
    return [{key: value[pick] for key, value in rows.items()} for rows, pick in zip(cells, picks, strict=True)]


def worst(metric: Any, attacks: Sequence[Rows]) -> tuple[int, Rows]:
    """Of the images that all attacks have seen: image by image the row of the attack that did most harm to it.

    Where the metric is no mean over images (mIoU), one attack's rows alone can be worse than that choice: then those.
    """
    parts = shared(attacks)
    count = len(parts[0]["id"])
    if not count:
        return 0, {}
    harms = np.stack([np.nan_to_num(part["error"], nan=np.inf) for part in parts])
    winner = harms.argmax(axis=0)
    mixed = {key: np.stack([part[key] for part in parts])[winner, np.arange(count)] for key in parts[0]}
    pool = [*parts, mixed]
    if metric.figures is None:  # counts add, so that the set's worst case can be put together from them
        picks = set_wise({str(place): counts_of(part, "") for place, part in enumerate(pool)}, metric)
        return count, {key: np.stack([part[key] for part in pool])[picks, np.arange(count)] for key in parts[0]}
    sign = 1 if metric.better == "higher" else -1
    return count, min((mixed, *parts), key=lambda rows: sign * metric.summary(counts_of(rows, ""))[metric.headline])


def mean(metric: Any, cells: Sequence[Rows]) -> tuple[int, dict[str, tuple[float, float, float]]]:
    """How many images all cells have seen, and of each figure its mean over the cells, with an interval over those images."""
    parts = shared(cells)
    count = len(parts[0]["id"])
    return count, means(metric, [counts_of(part, "") for part in parts]) if count else {}
