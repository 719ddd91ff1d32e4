"""The worst case over a suite's members, put together afterwards from what the store keeps of every image.

For a figure that is a mean over images the worst case is each image's worst member. A set-level figure such as mIoU is none:
there an image's choice depends on what the others chose, and the image-wise choice can be milder than one member alone. So the
choice is improved greedily: image by image the member with which the *set's* figure is worst, until a sweep changes nothing.
The images at hand attain what it finds, so the worst of all assignments, which nobody can search, is only lower.

Source: Croce, Singh and Hein, ECCV 2024 (SEA's mIoU). differs: theirs starts at one fixed member and sweeps in a random order;
here the start is the worst of all members and of the image-wise choice, and the order is the images', so that the same counts
give the same choice, and one that is never milder than a member.
"""

from __future__ import annotations

import itertools

import numpy as np

from hardsight.core.errors import DataError
from hardsight.metrics import Counts, Metric, of

Members = dict[str, Counts]
"""Each member's counts by its name, all of the same images."""

SUITE = "suite"
"""The name of what a cell itself counts, beside its members."""
SLIGHT = 1e-12
"""By less than this a figure does not fall but is rounded."""


def members_of(rows: dict[str, np.ndarray]) -> Members:
    """What each member of a suite did to each image: "members.<name>.<key>" of a cell's rows; {} where it kept none.

    Beside them, as `SUITE`, what the cell itself counts: each image's worst by the task's error.
    """
    found: Members = {}
    for column, value in rows.items():
        if column.startswith("members."):
            name, _, key = column.removeprefix("members.").rpartition(".")
            found.setdefault(name, {})[key] = value
    if found:
        found[SUITE] = _own(rows)
    return found


def image_wise(members: Members, metric: Metric, key: str | None = None) -> np.ndarray:
    """Per image the place [N] of the member with which that image's own figure is worst; of several the first.

    key: which figure, the headline where it is None. A figure that is not finite is the worst there is.
    """
    return _harm(metric.totals(_stacked(members)), metric, key).argmin(0)


def set_wise(members: Members, metric: Metric, key: str | None = None) -> np.ndarray:
    """Per image the place [N] of a member, chosen so that the figure of the whole set is as bad as the greedy search gets it.

    Raises `DataError` for a metric whose figures are not made of sums.
    """
    if metric.figures:
        raise DataError("these figures are no function of sums over images, so no member can be exchanged for another")
    counts = _stacked(members)
    count = len(next(iter(counts.values()))[0])
    images = np.arange(count)
    starts = [image_wise(members, metric, key), *(np.full(count, place) for place in range(len(members)))]
    first = [{name: value[picks, images].sum(0) for name, value in counts.items()} for picks in starts]
    values = _harm(metric.totals({name: np.stack([sums[name] for sums in first]) for name in counts}), metric, key)
    best = int(values.argmin())
    picks, sums, value = starts[best].copy(), first[best], values[best]
    settled = 0  # how many images in a row have kept their member
    for image in itertools.cycle(images):
        without = {name: sums[name] - value[picks[image], image] for name, value in counts.items()}
        options = {name: without[name] + value[:, image] for name, value in counts.items()}
        values = _harm(metric.totals(options), metric, key)
        choice = int(values.argmin())
        settled += 1
        if values[choice] < value - SLIGHT:
            picks[image], value, settled = choice, values[choice], 0
            sums = {name: option[choice] for name, option in options.items()}
        if settled >= count:
            return picks
    return picks


def chosen(members: Members, picks: np.ndarray) -> Counts:
    """The counts of each image under its own member: what a metric's `summary` and `interval` read."""
    return {name: value[picks, np.arange(len(picks))] for name, value in _stacked(members).items()}


def counts_for(rows: dict[str, np.ndarray], metric: Metric, key: str | None = None) -> Counts:
    """The counts that a figure of a cell is read from: the set-wise choice over its members; an interval holds it fixed.

    The cell's own where it keeps no members, where figures are not made of sums (average precision), and for a figure that
    its counts, kept by an older version, do not give.
    """
    members = members_of(rows)
    if metric.figures or not members or (key and key not in metric.summary(_own(rows))):
        return _own(rows)
    return chosen(members, set_wise(members, metric, key))


def summary(rows: dict[str, np.ndarray], task: str) -> dict[str, float]:
    """Every figure of a cell, each at its own worst case over the cell's members; without members what its counts say."""
    metric = of(task)
    figures = metric.summary(_own(rows))
    return {key: metric.summary(counts_for(rows, metric, key))[key] for key in figures if key in metric.labels}


def _own(rows: dict[str, np.ndarray]) -> Counts:
    return {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith("counts.")}


def _stacked(members: Members) -> Counts:
    """Counts by name, each [M, N, ...], members leading; floating, so that nothing overflows or wraps."""
    if not members:
        raise DataError("a worst case needs at least one member's counts")
    names = list(next(iter(members.values())))
    for member, counts in members.items():
        if list(counts) != names or len({len(value) for other in members.values() for value in other.values()}) > 1:
            raise DataError(f"the counts of {member} are not of the same images, or not the same counts, as the others'")
    return {name: np.stack([counts[name] for counts in members.values()]).astype(np.float64) for name in names}


def _harm(totals: dict[str, np.ndarray], metric: Metric, key: str | None) -> np.ndarray:
    """The figure as a search reads it: smaller is worse for the model, and what is not finite is smallest."""
    key = key or metric.headline
    value = totals[key] if metric.labels[key][2] == "higher" else -totals[key]
    return np.where(np.isfinite(value), value, -np.inf)
