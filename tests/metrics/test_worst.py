"""The worst case over a suite's members: compared with brute force, and never weaker than a member."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from hardsight.core.errors import DataError
from hardsight.metrics import Counts, of
from hardsight.metrics.worst import SUITE, Members, chosen, counts_for, image_wise, members_of, set_wise, summary
from hardsight.report.results import grid
from hardsight.store.cells import Store
from tests.report.test_report import add

MIOU = of("segment")


def random_members(images: int, classes: int, members: int, seed: int = 0, pixels: int = 64) -> Members:
    """Counts of several attacks on the same images: the labels are the same, the predictions differ between members."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (images, pixels))
    label[:, pixels // 2 :] = label[:, :1]  # a few classes per image, as in photographs
    found = {}
    for member in range(members):
        sure = np.take_along_axis(rng.random((images, classes)), label, 1)  # members are good at different classes
        seen = np.where(rng.random((images, pixels)) < sure, label, rng.integers(0, classes, label.shape))
        found[f"{member} some_loss"] = {
            "intersection": tally(np.where(seen == label, label, classes), classes),
            "predicted": tally(seen, classes),
            "labelled": tally(label, classes),
        }
    return found


def tally(ids: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([np.bincount(one, minlength=classes + 1)[:classes] for one in ids]).astype(np.int32)


def miou(counts: Counts) -> float:
    """Computed directly, class by class: the mean over the classes that occur."""
    shares = []
    for hit, seen, label in zip(*(counts[key].sum(0) for key in ("intersection", "predicted", "labelled")), strict=True):
        if seen + label - hit > 0:
            shares.append(hit / (seen + label - hit))
    return float(np.mean(shares))


def every_assignment(members: Members) -> list[float]:
    images = len(next(iter(members.values()))["labelled"])
    return [miou(chosen(members, np.array(picks))) for picks in itertools.product(range(len(members)), repeat=images)]


@pytest.mark.parametrize("seed", range(12))
def test_greedy_lies_between_brute_force_and_the_best_start(seed: int) -> None:
    members = random_members(images=6, classes=4, members=3, seed=seed)
    found = miou(chosen(members, set_wise(members, MIOU)))
    assert found >= min(every_assignment(members)) - 1e-12
    starts = [miou(counts) for counts in members.values()]
    assert found <= min(*starts, miou(chosen(members, image_wise(members, MIOU)))) + 1e-12


def test_greedy_is_mostly_the_worst_of_all_assignments() -> None:
    gaps = []
    for seed in range(30):
        members = random_members(images=6, classes=4, members=3, seed=seed)
        gaps.append(miou(chosen(members, set_wise(members, MIOU))) - min(every_assignment(members)))
    assert np.median(gaps) < 1e-12
    assert max(gaps) < 0.02


def test_no_single_change_makes_it_worse() -> None:
    members = random_members(images=40, classes=8, members=4)
    picks = set_wise(members, MIOU)
    found = miou(chosen(members, picks))
    for image in range(40):
        for place in range(4):
            other = picks.copy()
            other[image] = place
            assert miou(chosen(members, other)) >= found - 1e-9


def test_the_set_is_worse_than_its_images_say() -> None:
    """An image-wise choice ignores the rest of the set: here the set-level choice is strictly worse for the model."""
    gains = []
    for seed in range(10):
        members = random_members(images=40, classes=8, members=4, seed=seed)
        gains.append(miou(chosen(members, image_wise(members, MIOU))) - miou(chosen(members, set_wise(members, MIOU))))
    assert min(gains) >= 0
    assert max(gains) > 0.01


def test_a_class_that_is_nowhere_does_not_count() -> None:
    members = random_members(images=10, classes=4, members=3)
    wider = {
        name: {key: np.pad(value, ((0, 0), (0, 3))) for key, value in counts.items()} for name, counts in members.items()
    }
    assert np.array_equal(set_wise(members, MIOU), set_wise(wider, MIOU))
    picks = set_wise(wider, MIOU)
    assert MIOU.summary(chosen(wider, picks))["miou"] == pytest.approx(miou(chosen(members, picks)))


def test_a_class_that_only_one_member_predicts_is_worth_predicting() -> None:
    """A predicted class without labels has IoU 0 and lowers the mean once: only the greedy search can find that."""
    label = np.array([[10, 0], [10, 0]])
    right = {"intersection": label, "predicted": label, "labelled": label}
    off_by_one = {"intersection": label - [1, 0], "predicted": np.array([[9, 1], [9, 1]]), "labelled": label}
    members = {"none": right, "one": {key: value.copy() for key, value in off_by_one.items()}}
    assert miou(chosen(members, set_wise(members, MIOU))) == pytest.approx(0.45)
    assert miou(right) == 1


def test_ties_go_to_the_first_and_the_choice_is_the_same_every_time() -> None:
    members = random_members(images=8, classes=4, members=1)
    counts = next(iter(members.values()))
    twice = {"a": counts, "b": {key: value.copy() for key, value in counts.items()}}
    assert not set_wise(twice, MIOU).any()
    assert not image_wise(twice, MIOU).any()
    several = random_members(images=30, classes=5, members=4)
    assert np.array_equal(set_wise(several, MIOU), set_wise(several, MIOU))


@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("classify", lambda rng, hits: {"hits": hits[0], "hits5": np.maximum(hits[0], hits[1]), "images": np.ones(20)}),
        (
            "depth",
            lambda rng, hits: {
                "pixels": np.full(20, 9.0),
                **{key: rng.random(20) for key in ("squared", "relative", "log10", "image_rmse", "image_silog")},
                "images": np.ones(20),
                **{key: rng.integers(0, 10, 20) for key in ("delta1", "delta2", "delta3")},
            },
        ),
    ],
)
def test_where_a_figure_is_a_mean_the_set_and_its_images_agree(task: str, counts) -> None:
    rng, metric = np.random.default_rng(0), of(task)
    members = {name: counts(rng, rng.integers(0, 2, (2, 20))) for name in "abc"}
    for key, (_, _, better) in metric.labels.items():
        values = [metric.summary(chosen(members, choose(members, metric, key)))[key] for choose in (image_wise, set_wise)]
        assert values[0] == pytest.approx(values[1], abs=1e-12), key
        alone = [metric.summary(one)[key] for one in members.values()]
        assert values[1] <= min(alone) if better == "higher" else values[1] >= max(alone), key


def rows_of(members: Members, picks: np.ndarray) -> dict[str, np.ndarray]:
    rows = {"id": np.arange(len(picks)).astype(str), "error": np.zeros(len(picks))}
    rows |= {f"counts.{key}": value for key, value in chosen(members, picks).items()}
    return rows | {f"members.{name}.{key}": value for name, counts in members.items() for key, value in counts.items()}


def test_the_summary_of_a_cells_rows() -> None:
    members = random_members(images=60, classes=8, members=3, seed=3)
    rows = rows_of(members, image_wise(members, MIOU, "pixel_accuracy"))
    found = summary(rows, "segment")
    stored = MIOU.summary(members_of(rows)[SUITE])
    assert set(found) == set(MIOU.labels)
    assert all(found[key] <= stored[key] + 1e-12 for key in found)
    assert found["miou"] < stored["miou"]
    assert found["pixel_accuracy"] == pytest.approx(stored["pixel_accuracy"])
    assert set(members_of(rows)) == {*members, SUITE}
    alone = {key: value for key, value in rows.items() if not key.startswith("members.")}
    assert members_of(alone) == {}
    assert summary(alone, "segment") == stored
    low, high = MIOU.interval(counts_for(rows, MIOU))
    assert low <= found["miou"] <= high


def test_a_non_finite_output_is_the_worst() -> None:
    metric = of("depth")
    one = {key: np.ones(3) for key in ("pixels", "squared", "relative", "log10", "delta1", "delta2", "delta3")}
    broken = {key: value.copy() for key, value in one.items()}
    broken["squared"][1] = np.nan
    assert list(image_wise({"one": one, "broken": broken}, metric)) == [0, 1, 0]
    assert not np.isfinite(
        metric.summary(chosen({"a": one, "b": broken}, set_wise({"a": one, "b": broken}, metric)))["rmse"]
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "the counts of at least one member"),
        ({"a": {"hits": np.ones(3)}, "b": {"hits": np.ones(2)}}, "not of the same images"),
        ({"a": {"hits": np.ones(3)}, "b": {"images": np.ones(3)}}, "not the same counts"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(members: Members, message: str) -> None:
    with pytest.raises(DataError, match=message):
        set_wise(members, of("classify"))


def test_a_thousand_images_of_150_classes_take_no_time() -> None:
    members, started = random_members(images=1000, classes=150, members=5, pixels=256), time.monotonic()
    set_wise(members, MIOU)
    assert time.monotonic() - started < 6  # measured 0.6 s; a shared machine may be slower


def test_figures_that_are_no_sums_are_left_as_they_are() -> None:
    members, ragged = random_members(images=6, classes=4, members=2), replace(MIOU, figures=lambda counts: {"miou": 0.5})
    with pytest.raises(DataError, match="not a function of sums"):
        set_wise(members, ragged)
    rows = rows_of(members, np.zeros(6, dtype=int))
    own = counts_for(rows, ragged)
    assert all(np.array_equal(own[key], rows[f"counts.{key}"]) for key in own)


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_over_attacks_is_no_weaker_than_a_suite_among_them(seed: int, tmp_path) -> None:
    store, suite = Store(tmp_path), random_members(12, 4, 3, seed)
    label = next(iter(suite.values()))["labelled"]
    other = next(iter(random_members(12, 4, 1, seed + 100).values())) | {"labelled": label}
    for column, rows in (
        ("clean", {f"counts.{key}": label for key in other}),
        ("task", rows_of(suite, image_wise(suite, MIOU))),
        ("embed", {f"counts.{key}": value for key, value in other.items()}),
    ):
        counts = {key: value for key, value in rows.items() if "." in key}
        add(store, "a", "segment", column, 8 * (column != "clean"), np.zeros(12), gallery=False, counts=counts)
    numbers = {column.attack: number for column, number in grid(store.cells()).rows[0].numbers.items()}
    for key in numbers["task"].metrics:
        assert numbers["worst"].metrics[key][0] <= min(numbers[name].metrics[key][0] for name in ("task", "embed")), key
