"""Images where nothing is labelled: their gradient is zero by right, so the audit leaves them out, and says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hardsight as hs
from hardsight.data import open_data
from hardsight.data.base import IGNORE
from hardsight.data.feed import load, pixels
from hardsight.measure.audit import audit
from hardsight.measure.bench import Bench
from hardsight.measure.checks.base import Case, labelled
from hardsight.measure.plan import plan
from hardsight.report import write
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store

DATA = "made(size=32, train=8, test=4)"
EMPTY = {"mask": IGNORE, "depth": 0.0}


def case_of(task: str, empty: list[int]) -> Case:
    """A sound model on four images, of which those in `empty` have no label."""
    system = hs.fit_probe(hs.load_encoder("tiny"), task=task, data=DATA, probe="probe(epochs=1, images=8)")
    batch = load(open_data(DATA).split("test"), range(4))
    y: Any = batch.target[system.task.target]
    for place in empty:
        if system.task.target == "boxes":
            y[place] = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        else:
            y[place] = EMPTY[system.task.target]
    attack = "attack(pgd(2), loss=dag)" if task == "detect" else f"{system.task.attack}(steps=2)"
    return Case(system, build(attack, "Attack"), build("linf(4/255)", "Threat"), pixels(batch.images, "cpu"), y)


@pytest.mark.parametrize("task", ["segment", "depth", "detect"])
def test_a_sound_model_does_not_fail_where_images_have_no_label(task: str) -> None:
    """Before: "the gradient is zero in 2 of 8 forward passes", a failure of a model that has none."""
    case = case_of(task, [1])
    assert case.kept.tolist() == [0, 2, 3]
    found = build("gradients", "Check")(case)
    assert (found.verdict, case.unlabelled) == ("pass", 1), found.reason


@pytest.mark.parametrize("crop", ["", "(crop=eigen)"])
def test_what_the_task_does_not_count_is_no_label(crop: str) -> None:
    y = torch.zeros(3, 32, 32)
    y[0, 0, 0], y[1, 16, 16] = 2.0, 2.0  # the corner lies outside Eigen's crop
    assert labelled(build(f"depth{crop}", "Task"), y).tolist() == [not crop, True, False]


def test_without_any_label_no_check_applies() -> None:
    found = audit(case_of("segment", [0, 1, 2, 3]))
    assert (found["verdict"], found["images"], found["unlabelled"]) == ("none", 0, 4)
    assert {one["reason"] for one in found["checks"]} == {"no image of the audit has a label"}


def test_the_run_says_how_many_images_its_audit_leaves_out(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hardsight.measure.bench as bench

    def audited(images: Any, places: Any, *rest: Any) -> Any:
        batch = load(images, places, *rest)
        if len(places) == 2:  # the audit's images
            batch.target["mask"][0] = IGNORE
        return batch

    monkeypatch.setattr(bench, "load", audited)
    recipe = Recipe(
        encoders=("tiny",), tasks=("segment",), data=(DATA,), attacks=("fgsm",), eps=("4/255",), count=4, audit=4,
        probe="probe(epochs=1, images=8)",
    )  # fmt: skip
    store, said = Store(tmp_path), []
    runner = Bench(plan(recipe), store)
    monkeypatch.setattr(runner.watch, "note", said.append)
    runner.run()
    assert any("1 of 2 images left out: nothing of them is labelled" in text for text in said)
    found = next(cell.audit for cell in store.cells() if cell.audit)
    assert (found["images"], found["unlabelled"]) == (1, 1)
    page = write(store, tmp_path / "report")["html"].read_text(encoding="utf-8")
    assert "1 of 2 images left out: nothing of them is labelled" in page
