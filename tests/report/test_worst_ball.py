"""The worst case in a ball counts everything measured in it: the clean images and every smaller ball of the same norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardsight.metrics import of
from hardsight.metrics.detect import row
from hardsight.report import page
from hardsight.report.results import CLEAN, WORST, Number, grid
from hardsight.report.table import csv
from hardsight.store.cells import Store
from tests.report.test_report import add

CLASSES, IMAGES = 4, 12


def hits(right: np.ndarray) -> dict[str, np.ndarray]:
    return {"counts.hits": right.astype(np.int64), "counts.images": np.ones(len(right), np.int64)}


def counts(task: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random outcomes on the same images: no order between clean and attacked, or between small and large eps."""
    if task == "classify":
        right = rng.random(IMAGES) < 0.5
        return hits(right) | {"counts.hits5": (right | (rng.random(IMAGES) < 0.5)).astype(np.int64)}
    if task == "segment":
        label = np.random.default_rng(7).integers(0, CLASSES, (IMAGES, 32))
        seen = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, CLASSES, label.shape))
        ids = {"intersection": np.where(seen == label, label, CLASSES), "predicted": seen, "labelled": label}
        return {f"counts.{k}": np.stack([np.bincount(one, minlength=5)[:4] for one in v]) for k, v in ids.items()}
    if task == "depth":
        sums = ("squared", "relative", "log10", "delta1", "delta2", "delta3", "image_rmse", "image_silog")
        found = {f"counts.{key}": rng.random(IMAGES) for key in sums}
        return found | {"counts.pixels": np.full(IMAGES, 9.0), "counts.images": np.ones(IMAGES)}
    truth = np.array([[0, 0, 8, 8], [10, 10, 20, 20]], float)
    rows = [
        row(truth + rng.normal(0, 1.5, (2, 4)), rng.random(2), rng.integers(0, 2, 2), truth, np.array([0, 1]))
        for _ in range(IMAGES)
    ]
    return {f"counts.{key}": np.stack([one[key] for one in rows]) for key in rows[0]}


def worst_of(store: Store) -> tuple[Number, list[Number]]:
    """(clean, the worst case at rising eps)."""
    numbers = grid(store.cells()).rows[0].numbers
    rising = sorted((column for column in numbers if column.attack == WORST), key=lambda column: column.eps)
    return next(numbers[column] for column in numbers if column.attack == CLEAN), [numbers[column] for column in rising]


def test_noise_that_helps_is_no_worst_case(tmp_path: Path) -> None:
    """Of 60 images 15 are right when clean and 16 with noise, one of them wrong when clean: 15 withstand both."""
    store, clean = Store(tmp_path), np.arange(60) < 15
    for column, eps, right in (("clean", 0, clean), ("noise", 8, np.arange(60) < 16)):
        rows = hits(right)
        add(store, "a", "classify", column, eps, 1.0 - right, gallery=False, counts=rows)
    numbers = {column.attack: number for column, number in grid(store.cells()).rows[0].numbers.items()}
    assert numbers["clean"].value == 0.25
    assert numbers["noise"].value == pytest.approx(0.2667, abs=1e-4), "the cell's own number stays"
    assert numbers["worst"].value == 0.25
    assert "worst,Linf," in csv(grid(store.cells()))
    shown = page.html(grid(store.cells()))
    assert "Accuracy changes from 25.0 % on clean images to 26.7 % under noise" in shown
    overview = shown[: shown.index("Accuracy changes")]
    assert "25.0" in overview, "clean and worst case"
    assert "26.7" not in overview


@pytest.mark.parametrize("task", ["classify", "segment", "depth", "detect"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_the_worst_case_is_no_better_than_clean_and_falls_with_eps(task: str, seed: int, tmp_path: Path) -> None:
    if task == "detect":
        pytest.importorskip("faster_coco_eval")
    store, rng, metric = Store(tmp_path), np.random.default_rng(seed), of(task)
    raw = {}
    for column, eps in [("clean", 0), *((name, eps) for eps in (2, 4, 8) for name in ("apgd", "embed"))]:
        found = counts(task, rng)
        raw[column, eps] = metric.summary({key.removeprefix("counts."): value for key, value in found.items()})
        add(store, "a", task, column, eps, rng.random(IMAGES), gallery=False, counts=found)
    clean, rising = worst_of(store)
    assert len(rising) == 3
    for key, (_, _, better) in metric.labels.items():
        sign = 1 if better == "higher" else -1
        values = [sign * one.metrics[key][0] for one in (clean, *rising)]
        assert values == sorted(values, reverse=True), key
        assert all(low - 1e-9 <= value <= high + 1e-9 for value, low, high in (one.metrics[key] for one in rising)), key
        for one, eps in zip(rising, (2, 4, 8), strict=True):
            assert sign * one.metrics[key][0] <= min(sign * raw[name, eps][key] for name in ("apgd", "embed")) + 1e-12, key
    for column, number in grid(store.cells()).rows[0].numbers.items():
        if column.attack != WORST:
            own = raw[column.attack, round(255 * column.eps)]
            assert {key: value for key, (value, _, _) in number.metrics.items()} == pytest.approx(own), "raw numbers stay"


def test_an_image_counts_where_it_was_measured(tmp_path: Path) -> None:
    """Clean has 4 of 6 images; at 2/255 only one attack of two was run: both count for the images that they have."""
    store = Store(tmp_path)
    for column, eps, right in (
        ("clean", 0, [1, 1, 1, 0]),
        ("apgd", 2, [1, 1, 0, 1, 1, 1]),
        ("apgd", 8, [1, 0, 1, 1, 1, 1]),
        ("embed", 8, [1, 1, 1, 1, 1, 1]),
    ):
        values = np.array(right, dtype=bool)
        add(store, "a", "classify", column, eps, 1.0 - values, gallery=False, counts=hits(values), count=6)
    clean, rising = worst_of(store)
    assert (clean.n, clean.value) == (4, 0.75)
    assert [(one.n, one.value) for one in rising] == [(6, 0.5)]  # lost: the second, the third and the fourth image


def test_an_image_that_an_attack_leaves_out_stays_clean(tmp_path: Path) -> None:
    """A targeted attack counts 4 of 6 images, as two have the target's label; the worst case is over all 6."""
    store = Store(tmp_path)
    for column, right in (("clean", [1, 1, 1, 0, 1, 0]), ("pgd", [1, 1, 0, 0, 1, 0]), ("towards", [0, 1, 1, 0])):
        values = np.array(right, dtype=bool)
        add(store, "a", "classify", column, 8 * (column != "clean"), 1.0 - values, gallery=False, counts=hits(values))
    clean, (worst,) = worst_of(store)
    assert (clean.n, worst.n) == (6, 6)
    assert (clean.value, worst.value) == (pytest.approx(4 / 6), pytest.approx(2 / 6))


def test_another_norm_is_another_ball(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for column, norm, right in (("clean", "", [1, 1]), ("apgd", "Linf", [0, 1]), ("apgd", "L2", [1, 0])):
        values = np.array(right, dtype=bool)
        add(store, "a", "classify", column, 8 * bool(norm), 1.0 - values, gallery=False, counts=hits(values), norm=norm)
    numbers = grid(store.cells()).rows[0].numbers
    assert [number.value for column, number in numbers.items() if column.attack == WORST] == [0.5, 0.5]


def test_lists_of_other_lengths_are_compared(tmp_path: Path) -> None:
    """A crowded image makes the lists of its chunk longer; a cell without it, not finished yet, has shorter ones."""
    pytest.importorskip("faster_coco_eval")
    store, rng = Store(tmp_path), np.random.default_rng(0)
    for column, images in (("clean", 12), ("apgd", 12), ("embed", 6)):
        found = {key: value[:images] for key, value in counts("detect", rng).items()}
        for key in [key for key in found if images == 12 and "truth" in key]:
            more = [(0, 0), (0, 50), (0, 0)][: found[key].ndim]
            found[key] = np.pad(found[key], more, constant_values=-1 if "labels" in key else 0)
        eps, errors = 8 * (column != "clean"), rng.random(images)
        add(store, "a", "detect", column, eps, errors, finished=images == 12, gallery=False, counts=found)
    clean, (worst,) = worst_of(store)
    assert (clean.n, worst.n) == (12, 6)
