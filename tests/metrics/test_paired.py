"""Paired tests against scipy, by hand and by their properties; ranks and ties of constructed encoders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hardsight.core.errors import DataError
from hardsight.metrics import of, paired
from hardsight.metrics.intervals import bootstrap, drawn
from hardsight.metrics.worst import set_wise, set_wise_each
from tests.report.test_report import counts_of

COUNTS = st.integers(0, 40)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert paired.mcnemar(first, second) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_by_hand_and_with_many_images() -> None:
    assert paired.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert paired.mcnemar([1, 3], [3, 1]) == pytest.approx([10 / 16, 10 / 16])
    assert paired.mcnemar(400, 520) == pytest.approx(stats.binomtest(400, 920, 0.5).pvalue, rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_monotone_bounded_and_between_raw_and_bonferroni(values: list[float]) -> None:
    p, adjusted = np.array(values), paired.holm(values)
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all() and (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, p * len(p)) + 1e-12).all()


def test_holm_by_hand() -> None:
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert len(paired.holm([])) == 0


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["classify", "segment", "depth"]), st.integers(0, 10**6))
def test_a_difference_turns_its_sign_with_the_order(task: str, seed: int) -> None:
    metric, rng = of(task), np.random.default_rng(seed)
    a, b = (counts_of(task, rng.uniform(0, 1, 30)) for _ in range(2))
    one, other = paired.difference(metric, a, b), paired.difference(metric, b, a)
    assert one.value == pytest.approx(-other.value) and one.p == pytest.approx(other.p)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.low <= one.value <= one.high
    assert one.value == pytest.approx(metric.summary(b)[metric.headline] - metric.summary(a)[metric.headline])


def test_the_same_answers_do_not_differ_and_unlike_images_are_refused() -> None:
    for task in ("classify", "segment", "depth"):
        counts = counts_of(task, np.linspace(0, 1, 20))
        assert paired.difference(of(task), counts, counts).p == 1.0
    with pytest.raises(DataError, match="the same images: 20 and 10"):
        paired.difference(of("depth"), counts, {key: value[:10] for key, value in counts.items()})


def test_newcombes_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Of 20 images, 40 correlated ones and 60 with a rare failure."""
    rng = np.random.default_rng(0)
    for n, cells in ((20, (0.5, 0.2, 0.1, 0.2)), (40, (0.7, 0.1, 0.05, 0.15)), (60, (0.9, 0.04, 0.01, 0.05))):
        drawn_cells = rng.multinomial(n, cells, 2000)
        held = [low <= cells[2] - cells[1] <= high for low, high in (paired.newcombe(*one) for one in drawn_cells.tolist())]
        assert 0.935 <= np.mean(held) < 0.9975


def test_the_bootstrap_agrees_with_the_delta_method() -> None:
    """Depth of one pixel an image with squared errors: RMSE of both near each other, by the delta method."""
    rng, metric = np.random.default_rng(1), of("depth")
    error = rng.uniform(0.4, 0.6, 400)
    a, b = counts_of("depth", error), counts_of("depth", error + rng.normal(0.004, 0.04, 400))
    found = paired.difference(metric, a, b)
    squares = [counts["squared"] / 50 for counts in (a, b)]
    roots = [np.sqrt(one.mean()) for one in squares]
    linear = squares[1] / (2 * roots[1]) - squares[0] / (2 * roots[0])
    expected = 2 * stats.norm.sf(abs(roots[1] - roots[0]) / (linear.std(ddof=1) / 400**0.5))
    assert found.p == pytest.approx(expected, abs=0.02) and found.p < 0.5


def test_pairing_finds_what_overlapping_intervals_hide() -> None:
    """One encoder fails on 12 of 200 images more, and on no other: certain, though the intervals overlap."""
    right = np.arange(200) < 120
    worse = right & (np.arange(200) >= 12)
    assert stats.binomtest(12, 12, 0.5).pvalue == pytest.approx(paired.share_tests(np.stack([right, worse]))[0, 1])
    from hardsight.metrics.intervals import wilson

    assert wilson(108, 200)[1] > wilson(120, 200)[0] and paired.mcnemar(12, 0) < 0.001


def test_all_pairs_at_once_are_the_pairs_one_by_one() -> None:
    rng = np.random.default_rng(2)
    right = rng.random((7, 90)) < np.linspace(0.3, 0.9, 7)[:, None]
    p = paired.share_tests(right)
    metric = of("segment")
    counts = [counts_of("segment", np.clip(rng.uniform(0, 0.5, 30) + k / 10, 0, 1)) for k in range(5)]
    values = np.array([metric.summary(one)["miou"] for one in counts])
    q = paired.bootstrap_tests(values, paired.errors_of(np.stack([drawn(metric, one, "miou") for one in counts])))
    for i in range(5):
        for j in range(5):
            hits = [{"hits": right[k].astype(int), "images": np.ones(90, int)} for k in (i, j)]
            assert p[i, j] == pytest.approx(paired.difference(of("classify"), *hits).p)
            assert q[i, j] == pytest.approx(paired.difference(metric, counts[i], counts[j]).p, abs=1e-9)


def test_draws_give_the_interval_of_the_report() -> None:
    metric, counts = of("segment"), counts_of("segment", np.random.default_rng(3).uniform(0, 1, 25))
    expected = bootstrap(counts, lambda sums: metric.totals(sums)["miou"])
    assert tuple(np.quantile(drawn(metric, counts, "miou"), [0.025, 0.975])) == pytest.approx(expected)


def symmetric(draw: st.DrawFn) -> np.ndarray:
    size = draw(st.integers(1, 9))
    upper = np.triu(np.array(draw(st.lists(st.booleans(), min_size=size**2, max_size=size**2))).reshape(size, size), 1)
    return upper | upper.T


@given(st.composite(symmetric)(), st.data())
def test_ranks_and_ties(differ: np.ndarray, data: st.DataObject) -> None:
    """A group never splits two that do not differ; between groups all differ; the place lies within the rank's interval."""
    values = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(differ), max_size=len(differ))), dtype=float)
    differ = differ & (values[:, None] != values[None, :])
    found = paired.standing(values, differ, "higher")
    assert (found.low <= found.place).all() and (found.place <= found.high).all()
    split = found.group[:, None] != found.group[None, :]
    assert differ[split].all()
    assert set(found.group) == set(range(1, found.group.max() + 1))
    order = np.argsort(-values, kind="stable")
    assert (np.diff(found.group[order]) >= 0).all()
    for cut in range(1, len(values)):  # as many groups as there can be
        above, below = order[:cut], order[cut:]
        if differ[np.ix_(above, below)].all():
            assert found.group[above].max() < found.group[below].min()
    mirrored = paired.standing(-values, differ, "lower")
    assert all((getattr(found, name) == getattr(mirrored, name)).all() for name in ("place", "low", "high", "group"))


def test_ranks_by_hand() -> None:
    """0.9 differs from 0.5 only; 0.8 from none; 0.1 from all: the first three are one group, the last is fourth for sure."""
    values = np.array([0.5, 0.9, 0.1, 0.8])
    differ = np.zeros((4, 4), dtype=bool)
    for i, j in ((0, 1), (0, 2), (1, 2), (3, 2)):
        differ[i, j] = differ[j, i] = True
    found = paired.standing(values, differ, "higher")
    assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == [(2, 3), (1, 2), (4, 4), (1, 3)]
    assert found.group.tolist() == [1, 1, 2, 1] and found.place.tolist() == [3, 1, 4, 2]


def test_equal_encoders_are_rarely_called_different() -> None:
    """Twelve equal encoders, 66 pairs: any false difference at all in at most 5% of rankings (here far less, being exact)."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(60):
        hard = rng.random(80)
        right = rng.random((12, 80)) > hard
        wrong += paired.differing(paired.share_tests(right)).any()
    assert wrong <= 3


def test_worst_cases_of_many_sets_are_those_of_each() -> None:
    rng, metric = np.random.default_rng(5), of("segment")
    members = [{str(m): counts_of("segment", rng.uniform(0, 1, 15)) for m in range(3)} for _ in range(6)]
    for member in members:  # classes apart, so that the choices depend on each other
        for counts in member.values():
            counts["labelled"] = counts["predicted"] = np.full((15, 3), 100)
            counts["intersection"] = rng.integers(0, 100, (15, 3))
    stacked = {
        name: np.stack([np.stack([one[m][name] for m in one]) for one in members]).astype(float) for name in members[0]["0"]
    }
    assert (set_wise_each(stacked, metric) == np.stack([set_wise(one, metric) for one in members])).all()
