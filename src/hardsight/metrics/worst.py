"""The worst case over the attacks (members) of a suite, computed from the stored per-image counts.

For a figure that is a mean over images, the worst case takes each image's worst member. A set-level figure such as mIoU is
not such a mean: the best choice for one image depends on the choices for the others, and the image-wise worst choice can be
weaker than one member alone. So the choice is improved greedily: for one image after the other, take the member with which
the *set's* figure is worst, until a whole sweep changes nothing. The result is attained by real perturbations, so it is an
upper bound of the worst over all assignments, which are too many to search.

Source: Croce, Singh and Hein, ECCV 2024 (SEA's mIoU). differs: theirs starts from one fixed member and sweeps in random
order; here the start is the worst of all members and of the image-wise choice, and the sweep is in the order of the images,
so the result is deterministic and never weaker than a member.
"""

from __future__ import annotations

import itertools

import numpy as np

from hardsight.core.errors import DataError
from hardsight.metrics import Counts, Metric, counts_in, of

Members = dict[str, Counts]
"""Counts of each member by its name, all of the same images."""

SUITE = "suite"
"""The name under which the cell's own counts are added to its members."""
WINDOW = 16
"""Images that are tried at once, at first; twice as many where none changes its member."""
SLIGHT = 1e-12
"""A smaller decrease of a figure is treated as rounding error."""


def members_of(rows: dict[str, np.ndarray]) -> Members:
    """Each member's counts, from the columns "members.<name>.<key>" of a cell's rows; {} if there are none.

    Added as `SUITE`: the cell's own counts, where each image has the member of largest task error.
    """
    found: Members = {}
    for column, value in rows.items():
        if column.startswith("members."):
            name, _, key = column.removeprefix("members.").rpartition(".")
            found.setdefault(name, {})[key] = value
    if found:
        found[SUITE] = counts_in(rows)
    return found


def image_wise(members: Members, metric: Metric, key: str | None = None) -> np.ndarray:
    """Per image the index [N] of the member with which that image's own figure is worst; the first one if several are.

    key: which figure; None: the headline. A non-finite figure counts as the worst.
    """
    return _quality(metric.totals(_stacked(members)), metric, key).argmin(0)


def set_wise(members: Members, metric: Metric, key: str | None = None) -> np.ndarray:
    """Per image the index [N] of a member, chosen greedily so that the figure of the whole set is as bad as possible.

    Raises `DataError` for a metric whose figures are not computed from sums.
    """
    if metric.figures:
        raise DataError(
            "these figures are not a function of sums over images, so the worst case cannot be chosen image by image"
        )
    return set_wise_each({name: value[None] for name, value in _stacked(members).items()}, metric, key)[0]


def set_wise_each(counts: Counts, metric: Metric, key: str | None = None) -> np.ndarray:
    """`set_wise` for E sets at once: counts by name, each float [E, M, N, ...] for M members, to indices [E, N].

    Of a share of images the image-wise choice is the best one.
    """
    first = _quality(metric.totals(counts), metric, key).argmin(1)
    if metric.shares:
        return first
    each, images, members = np.arange(len(first)), np.arange(first.shape[1]), next(iter(counts.values())).shape[1]
    starts = [first, *(np.full(first.shape, place) for place in range(members))]
    sums = {
        name: np.stack([value[each[:, None], picks, images].sum(1) for picks in starts]) for name, value in counts.items()
    }
    values = _quality(metric.totals(sums), metric, key)
    best = values.argmin(0)
    picks, sums, value = (
        np.stack(starts)[best, each],
        {name: one[best, each] for name, one in sums.items()},
        values[best, each],
    )
    if len(each) == 1:
        return _swept({name: one[0] for name, one in counts.items()}, metric, key, picks[0], sums, value[0])[None]
    unchanged = np.zeros(len(each), dtype=int)  # number of images in a row that kept their member, in each set
    for image in itertools.cycle(images):
        options = {
            name: (sums[name] - one[each, picks[:, image], image])[:, None] + one[:, :, image]
            for name, one in counts.items()
        }
        values = _quality(metric.totals(options), metric, key)
        choice = values.argmin(1)
        lower = values[each, choice] < value - SLIGHT
        unchanged = np.where(lower, 0, unchanged + 1)
        at = np.flatnonzero(lower)
        picks[at, image], value[at] = choice[at], values[at, choice[at]]
        for name, option in options.items():
            sums[name][at] = option[at, choice[at]]
        if (unchanged >= len(images)).all():
            break
    return picks


def _swept(counts: Counts, metric: Metric, key: str | None, picks: np.ndarray, sums: Counts, value: float) -> np.ndarray:
    """The sweeps of `set_wise_each` for one set, counts [M, N, ...]: many images that keep their member are tried at once.

    The image that changes next, and all numbers, are those of trying one image after the other.
    """
    count, window = len(picks), WINDOW
    place = kept = 0
    while kept < count:
        images = np.arange(place, min(place + window, place + count - kept, count))
        options = {
            name: (sums[name] - one[picks[images], images])[:, None] + np.ascontiguousarray(one[:, images].swapaxes(0, 1))
            for name, one in counts.items()
        }
        values = _quality(metric.totals(options), metric, key)
        choice = values.argmin(1)
        lower = np.flatnonzero(values[np.arange(len(images)), choice] < value - SLIGHT)
        if not len(lower):
            place, kept, window = (place + len(images)) % count, kept + len(images), 2 * window
            continue
        at = int(lower[0])
        image, pick = int(images[at]), int(choice[at])
        picks[image], value = pick, float(values[at, pick])
        sums = {name: option[None, at, pick] for name, option in options.items()}
        place, kept, window = (image + 1) % count, 0, max(WINDOW, 2 * at)
    return picks


def chosen(members: Members, picks: np.ndarray) -> Counts:
    """The counts of each image under its chosen member: the input of a metric's `summary` and `interval`."""
    return {name: value[picks, np.arange(len(picks))] for name, value in _stacked(members).items()}


def counts_for(rows: dict[str, np.ndarray], metric: Metric, key: str | None = None) -> Counts:
    """The counts from which a figure of a cell is computed: the set-wise worst choice of members (fixed also for intervals).

    They are the cell's own counts if it has no members, if figures are not computed from sums (average precision), or if the
    figure cannot be computed from counts stored by an older version.
    """
    members = members_of(rows)
    if metric.figures or not members or (key and key not in metric.summary(counts_in(rows))):
        return counts_in(rows)
    return chosen(members, set_wise(members, metric, key))


def summary(rows: dict[str, np.ndarray], task: str) -> dict[str, float]:
    """Every figure of a cell, each at its own worst case over the members; without members, from the cell's counts."""
    metric = of(task)
    figures = metric.summary(counts_in(rows))
    return {key: metric.summary(counts_for(rows, metric, key))[key] for key in figures if key in metric.labels}


def _stacked(members: Members) -> Counts:
    """Counts by name, each [M, N, ...] for M members; float64, so that integers cannot overflow."""
    if not members:
        raise DataError("a worst case needs the counts of at least one member")
    names = list(next(iter(members.values())))
    for member, counts in members.items():
        if list(counts) != names or len({len(value) for other in members.values() for value in other.values()}) > 1:
            raise DataError(f"the counts of {member} are not of the same images, or not the same counts, as the others'")
    return {name: np.stack([counts[name] for counts in members.values()]).astype(np.float64) for name in names}


def _quality(totals: dict[str, np.ndarray], metric: Metric, key: str | None) -> np.ndarray:
    """The figure with the sign that makes smaller worse for the model; non-finite values are the smallest."""
    key = key or metric.headline
    value = totals[key] if metric.labels[key][2] == "higher" else -totals[key]
    return np.where(np.isfinite(value), value, -np.inf)
