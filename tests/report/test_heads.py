"""The page's table of heads: read from the records of measured cells."""

from __future__ import annotations

from pathlib import Path

from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.report.heads import heads
from hardsight.report.page import html
from hardsight.report.results import grid
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store


def measured(store: Path, probe: str) -> str:
    recipe = Recipe(
        name="heads", encoders=("zoo:made_supervised",), data=("made(size=32, train=400, test=8)",), tasks=("classify",),
        attacks=("clean", "pgd(1)"), count=4, chunk=4, audit=0, gallery=0, probe=probe,
    )  # fmt: skip
    cells = Bench(plan(recipe), Store(store)).run()
    lines = heads(grid(cells))
    assert len(lines) == 1  # of two cells with one head
    assert lines[0]["verdict"] in ("pass", "warn")
    page = html(grid(cells))
    assert "<h2>Heads</h2>" in page
    assert (lines[0]["verdict"] == "warn") == ('<ul class="problems">' in page)
    assert lines[0]["score"][0] in page
    return " ".join(str(lines[0][key]) for key in ("how", "images", "held_out", "steps", "seeds", "mark", "reason"))


def test_a_tuned_head_of_three_seeds_tells_its_decay_and_the_scores_by_seed(tmp_path: Path) -> None:
    said = measured(tmp_path, "probe(seeds=3)")
    assert said.startswith("tuned: weight decay ")
    assert " 400 80 " in said
    assert said.count(", ") >= 2


def test_a_head_of_one_step_has_a_warning_in_the_table(tmp_path: Path) -> None:
    said = measured(tmp_path, "probe(epochs=1, batch=200)")
    assert "fixed: lr 0.01" in said
    assert " ! " in said
    assert "under-fitted" in said


def test_cells_without_a_record_of_their_head_have_no_line(tmp_path: Path) -> None:
    recipe = Recipe(
        name="own", encoders=("tiny",), data=("made(size=32, train=40, test=4)",), tasks=("classify(head=knn)",),
        attacks=("clean",), count=4, chunk=4, audit=0, gallery=0,
    )  # fmt: skip
    cells = Bench(plan(recipe), Store(tmp_path)).run()
    assert heads(grid(cells)) == []
    assert "<h2>Heads</h2>" not in html(grid(cells))
