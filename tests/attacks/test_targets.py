"""Targeted attacks: an image whose label is the target is left out and counted apart; errors mean what they do elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardsight.attacks.aim import given
from hardsight.attacks.attack import Single
from hardsight.attacks.targets import judged
from hardsight.attacks.universal import Fixed
from hardsight.core.errors import DataError, ShapeError, SpecError
from hardsight.measure.bench import Bench
from hardsight.measure.evaluate import evaluate
from hardsight.measure.plan import plan
from hardsight.measure.saving import attack_folder
from hardsight.report import table
from hardsight.specs.catalog import build
from hardsight.store.cells import Store
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system
from tests.end.test_bench import SMALL, inside

TO_2 = "attack(pgd(10), loss=ce_to, aim=towards(2))"
BALL = build("linf(24/255)", "Threat")


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def toy() -> tuple[System, Tensor, Tensor]:
    """16 images; the model is right on all but the four that are labelled 2, of which it is wrong on each."""
    system, x = toy_system(build("classify", "Task")), toy_images(64)
    answer = system.output(x).argmax(1)
    x, answer = x[answer != 2][:16], answer[answer != 2][:16]
    answer[:4] = 2
    return system, x, answer


@pytest.mark.parametrize(
    "spec",
    [
        TO_2,
        "attack(apgd(10, early_exit=True), loss=dlr_to, aim=towards(2))",
        f"warm(embed(3), {TO_2})",
        f"cascade([{TO_2}, attack(pgd(5, momentum=1), loss=ce_to, aim=towards(2))])",
        f"transfer({TO_2}, source='tiny')",
        "universal(loss=ce_to, aim=towards(2))",
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_images_with_the_target_as_label_are_not_helped(toy: Any, spec: str, precision: str) -> None:
    """Before, the attack moved the four to class 2, and all four counted as robust."""
    system, x, y = toy
    attack = build(spec, "Attack")
    if spec.startswith("transfer"):
        attack = replace(attack, other=toy_system(system.task, seed=1))
    if spec.startswith("universal"):
        attack = Fixed(BALL.surface(torch.full_like(x[:1], 0.5), rng()) - 0.5, attack.single)
    found = attack(system, x, y, BALL, rng())
    assert found.left_out is not None
    assert found.error is not None
    same = y == 2
    assert torch.equal(found.left_out, same)
    assert torch.equal(found.x_adv[same], x[same])
    assert found.error[same].tolist() == [1, 1, 1, 1], "none of them was right when clean"
    assert torch.equal(found.error, system.task.error(system.output(found.x_adv), y))
    rows, _ = evaluate(system, attack, BALL, x, y, [str(n) for n in range(16)], rng(), precision)  # type: ignore[arg-type]
    assert rows["left_out"].tolist() == same.tolist()
    if precision == "float32":
        assert rows["error"].tolist() == found.error.tolist()
    reached = system.output(found.x_adv).argmax(1) == 2
    if found.reached is not None:
        assert torch.equal(found.reached, reached.float())
        assert reached[~same].any() or spec.startswith("universal")


def test_any_class_as_target_leaves_none_out_and_is_the_worst_of_all(toy: Any) -> None:
    system, x, y = toy
    members = [f"attack(pgd(10), loss=ce_to, aim=towards({k}))" for k in range(5)]
    found = build(f"cascade([{', '.join(members)}])", "Attack")(system, x, y, BALL, rng())
    assert found.error is not None
    assert found.left_out is not None
    assert not found.left_out.any()
    each: list[Any] = [build(one, "Attack")(system, x, y, BALL, rng()) for one in members]
    rest = [torch.where(one.left_out, 0, one.error) for one in each]
    assert (found.error >= torch.stack(rest).amax(0)).all()
    assert judged(build("classpgd", "Attack"), y) == (y, None)
    assert judged(build("cascade([classpgd, attack(pgd, loss=ce_to, aim=towards(2))])", "Attack"), y)[1] is None


def test_a_label_of_255_is_a_class_and_not_an_unlabelled_image() -> None:
    y = torch.tensor([255, 3])
    left_out = judged(Single(build("pgd", "Search"), build("ce_to", "Loss"), aim=given(255)), y)[1]
    assert left_out is not None
    assert left_out.tolist() == [True, False]


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_class_that_the_model_does_not_know_is_refused(task: str) -> None:
    system, x = toy_system(build(task, "Task")), toy_images(2)
    with pytest.raises(ShapeError, match="the model distinguishes [56] classes, but a target is class 7"):
        build(TO_2.replace("towards(2)", "towards(7)"), "Attack")(system, x, system.output(x).argmax(1), BALL)
    with pytest.raises(SpecError, match="numbered from 0"):
        build("towards(-1)", "Aim")
    with pytest.raises(SpecError, match="needs labels"):
        build(TO_2, "Attack")(system, x, None, BALL)


def test_pixels_that_have_the_target_count_as_unlabelled_ones() -> None:
    """Image 0 is of the target throughout, image 1 in its left half; an image without a labelled pixel is not left out."""
    system, x = toy_system(build("segment", "Task")), toy_images(4)
    y = system.output(x).argmax(1)
    wanted = 1
    y[0], y[1, :, :8], y[2], y[0, :2] = wanted, wanted, 255, 255
    attack = build(f"attack(pgd(10), loss=ce_to, aim=towards({wanted}))", "Attack")
    counted, left_out = judged(attack, y)
    assert left_out is not None
    assert left_out.tolist() == [True, False, False, False]
    assert (counted[y == wanted] == 255).all()
    assert torch.equal(counted[y != wanted], y[y != wanted])
    rows, _ = evaluate(system, attack, BALL, x, y, ["i"] * 4, rng())
    found = attack(system, x, y, BALL, rng())
    assert found.error is not None
    assert np.allclose(rows["error"], found.error)
    assert torch.equal(found.x_adv[0], x[0])
    shares = (system.output(found.x_adv).argmax(1) == y)[1] & (counted[1] != 255)
    assert float(found.error[1]) == pytest.approx(1 - float(shares.sum()) / int((counted[1] != 255).sum()))


def data(path: Path, test: tuple[int, ...]) -> str:
    """Class folders with 4 training images a class, and that many test images of each."""
    for label, count in enumerate(test):
        for part, number in (("train", 4), ("test", count)):
            (path / part / "abcde"[label]).mkdir(parents=True)
            for place in range(number):
                picture = np.full((16, 16, 3), 40 * place + 9 * label, np.uint8)
                Image.fromarray(picture).save(path / part / "abcde"[label] / f"{place}.png")
    return f"folder:{path}(size=16)"


def test_a_run_says_how_many_were_left_out_and_counts_the_others(tmp_path: Path) -> None:
    attacks = ("clean", TO_2.replace("pgd(10)", "pgd(2)"))
    recipe = replace(SMALL, data=(data(tmp_path, (3, 2, 4)),), tasks=("classify",), attacks=attacks, chunk=5)
    cells = Bench(plan(recipe), Store(tmp_path / "store")).run()
    clean, attacked = (cell.rows() for cell in cells)
    assert (len(clean["id"]), len(attacked["id"]), cells[1].left_out) == (9, 5, 4)
    assert cells[1].done is not None
    assert (cells[1].done["images"], cells[1].done["left_out"]) == (5, 4)
    assert set(attacked["id"]) < set(clean["id"])
    assert "left_out" not in attacked
    grid = table.grid(cells)
    assert {number.n for number in grid.rows[0].numbers.values()} == {9, 5}
    assert "without 4 images whose label is the attack's target" in table.caption(grid)


def test_a_run_whose_images_are_all_of_the_target_is_refused(tmp_path: Path) -> None:
    recipe = replace(SMALL, data=(data(tmp_path, (0, 0, 2)),), tasks=("classify",), attacks=(TO_2,))
    with pytest.raises(DataError, match="attacks none of the 2 images of .*: the label of all is its target"):
        Bench(plan(recipe), Store(tmp_path / "store")).run()


def test_a_folder_is_attacked_without_images_whose_prediction_is_the_target(tmp_path: Path) -> None:
    system, source = toy_system(build("classify", "Task")), tmp_path / "photos"
    source.mkdir()
    pictures = (toy_images(12) * 255).round().byte()
    for place, one in enumerate(pictures):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(source / f"{place:02d}.png")
    target = int(system.output(pictures / 255).argmax(1).mode().values)
    number = int((system.output(pictures / 255).argmax(1) == target).sum())
    attack = build(f"attack(pgd(3), loss=ce_to, aim=towards({target}))", "Attack")
    report = attack_folder(system, attack, BALL, source, tmp_path / "out")
    assert len(report["images"]) == len(list((tmp_path / "out").glob("*.png"))) == 12 - number
    assert report["skipped"][0].startswith(f"{number} of 12 images, whose prediction already is the attack's target: ")


def test_the_command_says_it_too(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for place in range(3):
        Image.fromarray(np.full((16, 16, 3), 90 * place, np.uint8)).save(source / f"{place}.png")
    words = ["attack", "--encoder", "tiny(classes=3)", "--task", "classify(head=own)", "--images", str(source)]
    said = []
    for k in range(3):
        found = inside(*words, "--attack", f"attack(pgd(1), loss=ce_to, aim=towards({k}))", "--out", str(tmp_path / f"{k}"))
        assert found.returncode == 0, found.stderr
        said += [line for line in found.stderr.splitlines() if "already is the attack's target" in line]
    assert sum(int(line.split("left out: ")[1].split(" of 3 images")[0]) for line in said) == 3
