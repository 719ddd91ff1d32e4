"""Attacks that relate the images of a batch: no image is left alone in the last chunk, and what cannot fit is told before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from hardsight.attacks.attack import Cascade, Single, misfit
from hardsight.attacks.search.compose import stay
from hardsight.core.errors import DataError, SpecError
from hardsight.data.feed import load
from hardsight.measure.bench import Bench
from hardsight.measure.cells import left_over
from hardsight.measure.plan import Plan, plan
from hardsight.measure.saving import attack_folder
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store, chunks
from tests.conftest import toy_system

PARTNER = "attack(pgd(1), loss=near_l2, where=pooled, aim=partner)"


def planned(attack: str = PARTNER, count: int = 5, chunk: int = 2, **more: Any) -> Plan:
    return plan(
        Recipe(
            encoders=("tiny",), tasks=("classify",), data=("made(size=16, train=16, test=9)",), attacks=(attack,),
            eps=("8/255",), probe="probe(epochs=1, images=16)", count=count, chunk=chunk, audit=0, gallery=0, **more,
        )
    )  # fmt: skip


def coupled() -> Single:
    def loss(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        return (output - output.mean(0)).square().sum(1)

    loss.coupled = True  # type: ignore[attr-defined]
    return Single(stay(), loss)


def test_the_last_image_joins_the_chunk_before(tmp_path: Path) -> None:
    """Before: SpecError "partner(shift=1) in a batch of 1 makes each image its own partner" after 4 of 5 images."""
    store, (cell,) = Store(tmp_path), planned().cells
    assert [list(span) for _, span in cell.chunks] == [[0, 1], [2, 3, 4]]
    (stored,) = Bench(planned(), store, "cpu").run()
    assert stored.done is not None
    assert len(stored.rows()["id"]) == 5


@pytest.mark.parametrize("count", range(1, 10))
def test_only_cells_that_would_have_died_have_other_chunks(count: int) -> None:
    """Chunk borders are part of the random numbers of a cell."""
    attack = build(PARTNER, "Attack")
    as_before = [list(range(start, min(start + 3, count))) for start in range(0, count, 3)]
    assert [list(span) for _, span in chunks(count, 3)] == as_before
    if count == 1:
        with pytest.raises(SpecError, match="its own partner; count is 1 and chunk 3: choose another"):
            left_over(attack, "label", count, 3)
        return
    assert left_over(attack, "label", count, 3) == (1 if count % 3 == 1 else 0)
    assert left_over(build("pgd(1)", "Attack"), "label", count, 3) == 0
    assert left_over(coupled(), "label", count, 3) == (1 if count % 3 == 1 else 0)


@pytest.mark.parametrize(
    ("shift", "count", "chunk", "sizes"),
    [(2, 8, 3, [3, 5]), (2, 9, 3, [3, 3, 3]), (3, 8, 5, [8]), (-1, 4, 3, [4]), (3, 9, 3, []), (4, 5, 1, [])],
)
def test_a_shift_that_a_chunk_divides(shift: int, count: int, chunk: int, sizes: list[int]) -> None:
    attack = build(PARTNER.replace("partner", f"partner({shift})"), "Attack")
    if sizes:
        joined = left_over(attack, "label", count, chunk)
        assert [len(span) for _, span in chunks(count, chunk, joined)] == sizes
    else:
        with pytest.raises(SpecError, match="its own partner"):
            left_over(attack, "label", count, chunk)


def test_what_cannot_fit_is_told_at_planning() -> None:
    with pytest.raises(SpecError, match=r"nothing to measure.*batch of 1 makes each image its own partner; count is 1"):
        planned(count=1)
    both = Recipe(
        encoders=("tiny",), tasks=("classify",), data=("made(size=16, train=16, test=9)",), attacks=(PARTNER, "pgd(1)"),
        count=4, chunk=1,
    )  # fmt: skip
    found = plan(both)
    assert [one.cell.attack for one in found.resolved] == ["attack(pgd(1))"]
    assert "count is 4 and chunk 1: choose another" in found.left_out[0]


def test_wrappers_are_looked_into() -> None:
    texts = (
        "universal(loss=near_l2, where=pooled, aim=partner)",
        f"warm(pgd(1), {PARTNER})",
        f"transfer({PARTNER}, 'tiny')",
    )
    for text in texts:
        assert "its own partner" in misfit(build(text, "Attack"), "label", 1), text
        assert not misfit(build(text, "Attack"), "label", 2)
    with pytest.raises(SpecError, match="partner couples the images"):
        Cascade((build(PARTNER, "Attack"),))
    with pytest.raises(SpecError, match="shift is 0"):
        build("partner(0)", "Aim")


def test_an_image_whose_partners_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hardsight.measure.bench as bench

    def broken(images: Any, places: Any, on_error: str, skipped: list[str]) -> Any:
        if len(places) != 2 or skipped:
            return load(images, places, "skip", skipped)
        skipped.append(str(DataError("one.png cannot be read")))
        return load(images, places[1:], "skip", skipped)

    monkeypatch.setattr(bench, "load", broken)
    (stored,) = Bench(planned(count=4), Store(tmp_path), "cpu", "skip").run()
    assert len(stored.rows()["id"]) == 2
    assert stored.done is not None
    assert "its own partner" in stored.done["skipped"][1]


@pytest.mark.parametrize(("images", "batches"), [(5, [2, 3]), (4, [2, 2]), (1, [])])
def test_a_folder_leaves_no_image_alone(images: int, batches: list[int], tmp_path: Path, monkeypatch) -> None:
    rng, seen = np.random.default_rng(0), []
    (tmp_path / "in").mkdir()
    for place in range(images):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{place}.png")
    attack, run = build(PARTNER, "Attack"), Single.__call__
    monkeypatch.setattr(
        Single, "__call__", lambda self, system, x, *rest: seen.append(len(x)) or run(self, system, x, *rest)
    )
    system, threat = toy_system(build("classify", "Task")), build("linf(4/255)", "Threat")
    report = attack_folder(system, attack, threat, tmp_path / "in", tmp_path / "out", batch=2)
    assert seen == batches
    assert len(report["images"]) == sum(batches)
    assert len(report["skipped"]) == images - sum(batches)
