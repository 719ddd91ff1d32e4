"""Rankings: the encoders measured in one setup under one attack, on the same images, with paired tests between all of them.

A setup (task, data, count, head, ...) has a ranking for each attack and threat, and for the worst case in each ball, which is
over the clean images, the smaller balls and every attack measured there, as in the report. Cells of one setup whose images
are not the same, and worst cases over other attacks, are rankings of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hardsight.core.errors import StoreError
from hardsight.metrics import Counts, Metric, of
from hardsight.metrics.intervals import drawn, resampled, wilson
from hardsight.metrics.paired import Standing, bootstrap_tests, differing, errors_of, share_tests, standing
from hardsight.metrics.worst import SUITE, counts_for, members_of
from hardsight.report.measured import Entry, Settings
from hardsight.report.over import counts_of, worst, worst_each
from hardsight.report.results import NATURAL, WORST
from hardsight.store.cells import padded

Rows = dict[str, np.ndarray]
ROOM = 1 << 25
"""Numbers held at once while worst cases are searched for: encoders are taken a few at a time."""
LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Ranking:
    """E encoders on the same N images. kind: "clean", "attack", "natural" or "worst"; under: the settings of the attack.

    values, low, high, tail: [E], figures with their 95% intervals, and of the worst tenth of images. right: bool [E, N] for
    a share of images, else None; error: [E, N] in [0, 1]; errors: [E, E], standard errors of differences, or None for shares.
    """

    setup: Settings
    under: Settings
    kind: str
    title: str
    norm: str
    eps: float
    metric: Metric
    entries: list[Entry]
    ids: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tail: np.ndarray
    error: np.ndarray
    right: np.ndarray | None
    errors: np.ndarray | None
    differ: np.ndarray
    standing: Standing


@dataclass(frozen=True)
class Column:
    """The cells of one setup under one attack, of the same images: rows of entry k as its counts [E, N, ...] have them."""

    under: Settings
    kind: str
    title: str
    norm: str
    eps: float
    entries: list[Entry]
    ids: np.ndarray
    error: np.ndarray
    counts: Counts
    members: tuple[Rows, ...] = ()


def rankings(entries: Sequence[Entry], left_out: list[str]) -> Iterator[Ranking]:
    """Every ranking, setup by setup; adds a line to `left_out` for each cell whose rows cannot be read."""
    setups: dict[Settings, list[Entry]] = {}
    for entry in entries:
        setups.setdefault(entry.setup, []).append(entry)
    for setup, inside in setups.items():
        metric = of(inside[0].what["task_name"])
        columns = list(_columns(metric, inside, left_out))
        for column in [*columns, *_worst_columns(metric, columns)]:
            yield _ranking(metric, setup, column)


def _columns(metric: Metric, entries: list[Entry], left_out: list[str]) -> Iterator[Column]:
    groups: dict[Settings, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.under, []).append(entry)
    for under, inside in groups.items():
        same: dict[bytes, list[tuple[Entry, Rows]]] = {}
        for entry in inside:
            try:
                rows = entry.rows()
                metric.summary(counts_of(rows))
            except (StoreError, KeyError, ValueError) as error:
                text = (
                    str(error) if isinstance(error, StoreError) else f"{entry.cell.path}: its rows are not those of its task"
                )
                left_out.append(text)
                continue
            shape = repr([(key, value.shape[1:]) for key, value in rows.items() if key != "id" and metric.figures is None])
            same.setdefault(rows["id"].tobytes() + shape.encode(), []).append((entry, rows))
        for pairs in sorted(same.values(), key=lambda one: -len(one)):
            yield _column(metric, under, pairs)


def _column(metric: Metric, under: Settings, pairs: list[tuple[Entry, Rows]]) -> Column:
    first, rows = pairs[0]
    own = [counts_for(one, metric, metric.headline) for _, one in pairs]
    suites = [members_of(one) if metric.figures is None else {} for _, one in pairs]
    members = tuple(
        {key: np.stack([suite[name][key] for suite in suites]) for key in suites[0][name]}
        for name in sorted(suites[0], key=lambda name: name != SUITE)
        if all(name in suite for suite in suites)
    )
    return Column(
        under,
        "clean" if first.attack == "clean" else NATURAL if first.natural else "attack",
        first.title,
        first.norm,
        round(float(first.what.get("eps", 0) or 0), 9),
        [entry for entry, _ in pairs],
        rows["id"],
        np.stack([one["error"] for _, one in pairs]),
        _stacked(own),
        members,
    )


def _stacked(parts: list[Counts]) -> Counts:
    """Counts of several encoders, [E, N, ...]; lists of boxes get the length of the longest."""
    found = {}
    for key in parts[0]:
        columns = padded([part[key] for part in parts])
        found[key] = np.stack(columns)
        if columns[0].dtype == np.int64 and abs(found[key]).max(initial=0) < 2**31:
            found[key] = found[key].astype(np.int32)
    return found


def _worst_columns(metric: Metric, columns: list[Column]) -> Iterator[Column]:
    """The worst case of each norm and eps, for encoders of the same images and attacks, as a column."""
    attacks = [column for column in columns if column.kind == "attack"]
    for norm in sorted({column.norm for column in attacks}):
        whole = [column for column in attacks if column.norm == norm]
        chains: dict[tuple[int, ...], list[Entry]] = {}
        encoders = {entry.encoder: entry for column in whole for entry in column.entries}
        for encoder, entry in encoders.items():
            there = [n for n, one in enumerate(columns) if one in whole and _at(one, encoder) is not None]
            clean = [n for n, one in enumerate(columns) if one.kind == "clean" and _at(one, encoder) is not None]
            if len({columns[n].ids.tobytes() for n in [*clean, *there]}) == 1:
                chains.setdefault((*clean, *there), []).append(entry)
        for chain, entries in chains.items():
            yield from _levels(metric, [columns[n] for n in chain], norm, entries)


def _at(column: Column, encoder: tuple[str, str, str]) -> int | None:
    return next((place for place, one in enumerate(column.entries) if one.encoder == encoder), None)


def _levels(metric: Metric, chain: list[Column], norm: str, entries: list[Entry]) -> Iterator[Column]:
    """By rising eps, where every attack of the chain was measured, as in the report."""
    attacks = [column for column in chain if column.kind == "attack"]
    series = {column.title.partition(" · ")[0] for column in attacks}
    places = {id(column): [_at(column, entry.encoder) for entry in entries] for column in chain}
    clean = next((column for column in chain if column.kind == "clean"), None)
    weaker = None if clean is None else _rows(clean, places[id(clean)], clean.counts)
    seen: list[Column] = [clean] if clean else []
    for eps in sorted({column.eps for column in attacks}):
        level = [column for column in attacks if column.eps == eps]
        seen += level
        parts = []
        for column in level:
            own = places[id(column)]
            parts += [_rows(column, own, counts) for counts in column.members or (column.counts,)]
        found = _chosen(metric, parts, weaker)
        weaker = found
        if {column.title.partition(" · ")[0] for column in level} != series:
            continue
        over = "; ".join(f"{dict(one.under)['attack']} in {dict(one.under)['threat'] or 'no threat'}" for one in seen)
        protocols = [(key, "; ".join(dict.fromkeys(filter(None, (dict(one.under)[key] for one in seen)))))
                     for key in ("protocol", "departures from the protocol")]  # fmt: skip
        under = (("attack", f"worst case over {over}"), ("threat", dict(level[0].under)["threat"]), *protocols)
        title = f"worst case · {level[0].title.rpartition(' · ')[2]}"
        ordered = [level[0].entries[place] for place in places[id(level[0])] if place is not None]
        yield Column(under, WORST, title, norm, eps, ordered, level[0].ids, found["error"],
                     {key: value for key, value in found.items() if key != "error"})  # fmt: skip


def _rows(column: Column, places: list[int | None], counts: Counts) -> Rows:
    picks = np.array(places, dtype=int)
    return {"error": column.error[picks]} | {key: value[picks] for key, value in counts.items()}


def _chosen(metric: Metric, parts: list[Rows], weaker: Rows | None) -> Rows:
    """The worst case's rows, [E, N, ...]; with the weaker points too, so that it never rises with eps."""
    pool = [*parts, *([weaker] if weaker is not None else [])]
    keys = [key for key in pool[0] if all(key in part for part in pool)]
    pool = [{key: part[key] for key in keys} for part in pool]
    each = len(pool[0]["error"])
    if metric.figures:
        ids = np.arange(pool[0]["error"].shape[1])
        single = [worst(metric, [{"id": ids} | {k: v[e] for k, v in part.items()} for part in pool], metric.headline)
                  for e in range(each)]  # fmt: skip
        return _stacked([{key: one[key] for key in keys} for one in single])
    numbers = (len(pool) + 1) * sum(value[0].size for value in pool[0].values())
    step = max(1, ROOM // max(1, numbers))
    found = [
        worst_each(
            metric, [{key: value[start : start + step] for key, value in part.items()} for part in pool], metric.headline
        )
        for start in range(0, each, step)
    ]
    return {key: np.concatenate([one[key] for one in found]) for key in keys}


def _ranking(metric: Metric, setup: Settings, column: Column) -> Ranking:
    count, n = column.error.shape
    key = metric.headline
    each = [{name: value[place] for name, value in column.counts.items()} for place in range(count)]
    values = np.array([metric.summary(one)[key] for one in each])
    right = errors = None
    if metric.shares:
        right = np.stack([metric.totals(one)[key] > 0.5 for one in each])
        low, high = np.array([wilson(hits, n) for hits in right.sum(1).tolist()]).T
        p = share_tests(right)
    else:
        draws = _draws(metric, column.counts, each)
        low, high = np.array([_interval(metric, one, sample, key) for one, sample in zip(each, draws, strict=True)]).T
        errors = errors_of(draws)
        p = bootstrap_tests(values, errors)
    differ = differing(p)
    return Ranking(
        setup, column.under, column.kind, column.title, column.norm, column.eps, metric, column.entries, column.ids,
        values, low, high, _tail(metric, each, column.error, right), column.error, right, errors, differ,
        standing(values, differ, metric.better),
    )  # fmt: skip


def _draws(metric: Metric, counts: Counts, each: list[Counts]) -> np.ndarray:
    """[E, D]: the figure of every encoder over bootstrap draws of the images; where counts can be summed, of many at once."""
    if metric.drawn:
        return np.stack([drawn(metric, one, metric.headline) for one in each])
    step = max(1, ROOM // max(1, sum(value[0].size for value in counts.values())))
    found = []
    for start in range(0, len(each), step):
        images_first = {name: value[start : start + step].swapaxes(0, 1) for name, value in counts.items()}
        found.append(resampled(images_first, lambda sums: metric.totals(sums)[metric.headline]).T)
    return np.concatenate(found)


def _interval(metric: Metric, counts: Counts, sample: np.ndarray, key: str) -> tuple[float, float]:
    if metric.spread:
        return metric.spread(counts)[key]
    finite = sample[np.isfinite(sample)]
    low, high = np.quantile(finite, LEVELS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def _tail(metric: Metric, each: list[Counts], error: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """[E]: the figure on the tenth of the images where the error is largest.

    Of each encoder its own; for a share of images, where an image is only right or wrong, the tenth that most of the
    ranking's encoders get wrong, the same for all.
    """
    tenth = max(1, round(error.shape[1] / 10))
    if right is not None:
        hardest = np.argsort(right.sum(0), kind="stable")[:tenth]
        return right[:, hardest].mean(1)
    worst_first = np.argsort(-np.nan_to_num(error, nan=np.inf), axis=1, kind="stable")[:, :tenth]
    pairs = zip(each, worst_first, strict=True)
    return np.array(
        [metric.summary({key: value[picks] for key, value in one.items()})[metric.headline] for one, picks in pairs]
    )
