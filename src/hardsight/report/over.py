"""Figures over several cells, on the images they share: the worst case over attacks, the mean over corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hardsight.metrics.mean import means
from hardsight.metrics.worst import set_wise, set_wise_each
from hardsight.store.cells import padded

Rows = dict[str, np.ndarray]


def counts_of(rows: Rows, prefix: str = "counts.") -> Rows:
    """The counts among a cell's rows; with prefix '' for the results of `shared` and `worst`."""
    kept = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith(prefix)}
    return {key: value for key, value in kept.items() if prefix or key not in ("id", "error")}


def index(ids: np.ndarray) -> dict[str, int]:
    return {name: place for place, name in enumerate(ids)}


def shared(cells: Sequence[Rows]) -> list[Rows]:
    """The columns that all cells have, for the images that all contain, in the same order."""
    places = [index(rows["id"]) for rows in cells]
    names = [name for name in cells[0]["id"] if all(name in at for at in places)]
    picks = [np.array([at[name] for name in names], dtype=int) for at in places]
    keys = [key for key in cells[0] if all(key in rows for rows in cells)]
    columns = {key: padded([rows[key][pick] for rows, pick in zip(cells, picks, strict=True)]) for key in keys}
    return [{key: columns[key][place] for key in keys} for place in range(len(cells))]


def extended(rows: Rows, other: Rows) -> Rows:
    """`rows`, and those of `other` for images that `rows` lacks; the columns that both have."""
    more = ~np.isin(other["id"], rows["id"])
    return {key: np.concatenate(padded([rows[key], other[key][more]])) for key in rows if key in other}


def worst(metric: Any, attacks: Sequence[Rows], key: str, weaker: Rows | None = None) -> Rows:
    """Per image the row of one of the attacks, so chosen that the figure `key` of the set is as bad as can be found.

    Over the images that all attacks share. weaker: rows of points in the same ball, such as the clean images or what smaller
    balls gave; used for the images that it has, so the result is never better for the model. Where counts can be summed the
    choice is `set_wise`; else (mAP) it is the worst of the attacks, of `weaker` and of the largest error of each image.
    """
    parts = shared(attacks)
    count = len(parts[0]["id"])
    if weaker is not None and count:
        parts = shared([*parts, extended(weaker, parts[0])])
    if not count or (metric.figures is None and key not in metric.summary(counts_of(parts[0], ""))):
        return {}
    errors = np.stack([np.nan_to_num(part["error"], nan=np.inf) for part in parts])
    mixed = _mixed(parts, errors.argmax(axis=0))
    pool = [*parts, mixed]
    if metric.figures is None:
        return _mixed(pool, set_wise({str(place): counts_of(part, "") for place, part in enumerate(pool)}, metric, key))
    sign = 1 if metric.labels[key][2] == "higher" else -1
    return min((mixed, *parts), key=lambda rows: sign * metric.summary(counts_of(rows, ""))[key])


def worst_each(metric: Any, parts: Sequence[Rows], key: str) -> Rows:
    """`worst` of E encoders at once, for a metric of sums: columns [E, N, ...] of the same images, with "error" [E, N]."""
    count = next(iter(parts[0].values())).shape[:2]
    each, images = np.arange(count[0])[:, None], np.arange(count[1])

    def mixed(pool: Sequence[Rows], picks: np.ndarray) -> Rows:
        return {name: np.stack([part[name] for part in pool])[picks, each, images] for name in parts[0]}

    pool = [*parts, mixed(parts, np.stack([np.nan_to_num(part["error"], nan=np.inf) for part in parts]).argmax(0))]
    counts = {name: np.stack([part[name] for part in pool], 1).astype(np.float64) for name in pool[0] if name != "error"}
    return mixed(pool, set_wise_each(counts, metric, key))


def _mixed(parts: Sequence[Rows], picks: np.ndarray) -> Rows:
    """Each image's row in the part that `picks` [N] names."""
    return {key: np.stack([part[key] for part in parts])[picks, np.arange(len(picks))] for key in parts[0]}


def mean(metric: Any, cells: Sequence[Rows]) -> tuple[int, dict[str, tuple[float, float, float]]]:
    """(number of images that all cells share, for each figure its mean over the cells, with an interval over images)."""
    parts = shared(cells)
    count = len(parts[0]["id"])
    return count, means(metric, [counts_of(part, "") for part in parts]) if count else {}
