"""Tasks that differ in their evaluation only share a head; what its training loss depends on, has a head of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.tasks.official import trained_as


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("segment(window=64, stride=32)", "segment"),
        ("segment(official=[D5, F2, A1])", "segment(official=['F2'])"),
        ("segment(head=linear4, window=8)", "segment('linear4')"),
        ("depth(crop=eigen, official=B1)", "depth(crop='eigen')"),
        ("depth(official=all)", "depth(official=['B5', 'C'])"),
        ("classify(official=all)", "classify"),
        ("detect", "detect"),
    ],
)
def test_a_heads_task_is_without_windows_and_quirks_of_the_evaluation(task: str, head: str) -> None:
    assert trained_as(task) == head


def heads(store: Path, probe: str, *tasks: str) -> int:
    recipe = Recipe(
        name="heads", encoders=("tiny",), data=("made(size=32, train=16, test=4)",), tasks=tasks, attacks=("clean",),
        count=2, chunk=2, audit=0, gallery=0, probe=probe,
    )  # fmt: skip
    Bench(plan(recipe), Store(store)).run()
    return len(list(store.glob("heads/*.safetensors")))


def test_a_store_has_one_head_for_tasks_that_share_it(tmp_path: Path) -> None:
    run = "probe(epochs=1, batch=8)"
    tasks = ("segment", "segment(window=16, stride=16)", "segment(official=D5)")
    assert heads(tmp_path / "one", run, *tasks) == 1
    assert heads(tmp_path / "two", run, *tasks, "segment(official=F2)") == 2
    assert heads(tmp_path / "tuned", "finetune(epochs=1, batch=8)", "segment", "segment(window=16, stride=16)") == 2
