"""Suites: misclassified images stay so and are not attacked again, and no member is stronger than the whole suite."""

from __future__ import annotations

import pytest
import torch

from hardsight.core.errors import SpecError
from hardsight.measure.evaluate import evaluate
from hardsight.measure.plan import plan
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from tests.conftest import toy_images, toy_system, toy_target

COUNT = 8


def test_autoattack_is_no_weaker_than_its_parts_and_skips_misclassified_images() -> None:
    system = toy_system(build("classify", "Task"))
    x = toy_images(40)
    y = system.output(x).argmax(1)
    y[:4] = (y[:4] + 1) % 5  # wrong from the start
    threat, seen = build("linf(6/255)", "Threat"), []

    class Counted(type(system)):  # type: ignore[misc]
        def output(self, x):
            seen.append(len(x))
            return super().output(x)

    counted = Counted(system.encoder, system.head, system.task)
    rng = torch.Generator().manual_seed
    found = build("autoattack(steps=20, queries=100)", "Attack")(counted, x, y, threat, rng(0))
    assert torch.equal(found.error, system.task.error(system.output(found.x_adv), y))
    assert torch.equal(found.x_adv[:4], x[:4])  # images that are wrong when clean are not attacked
    for part in ("attack(apgd(20), loss=ce)", "attack(square(100), loss=margin)", "classpgd(steps=20)"):
        assert found.error.mean() >= build(part, "Attack")(system, x, y, threat, rng(0)).error.mean() - 1 / 40
    assert 0.1 < found.error.mean() < 1
    assert sum(seen) < 40 * build("autoattack(steps=20, queries=100)", "Attack").passes / 2


@pytest.mark.parametrize("version", ["plus", "rand"])
@pytest.mark.parametrize("norm", ["linf(6/255)", "l2(0.3)", "l1(5)"])
def test_versions_and_norms(version: str, norm: str) -> None:
    system = toy_system(build("classify", "Task"))
    x = toy_images(COUNT)
    y = system.output(x).argmax(1)
    attack, threat = build(f"autoattack({version}, steps=5, queries=10, targets=2)", "Attack"), build(norm, "Threat")
    found = attack(system, x, y, threat, torch.Generator().manual_seed(0))
    assert (threat.size(found.x_adv - x) <= threat.eps * (1 + 1e-5) + 1e-6).all()
    assert int(found.queries.max()) <= attack.passes


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_attacked_too(classes: int) -> None:
    """pyautoattack refuses models with fewer than 4 classes, but two-class models are common, for example in medicine."""
    whole = toy_system(build("classify", "Task"))

    class Cut(type(whole)):  # type: ignore[misc]
        def output(self, x):
            return super().output(x)[:, :classes]

    system = Cut(whole.encoder, whole.head, whole.task)
    x = toy_images(16)
    y = system.output(x).argmax(1)
    found = build("autoattack(steps=10, queries=20)", "Attack")(
        system, x, y, build("linf(16/255)", "Threat"), torch.Generator().manual_seed(0)
    )
    assert found.error.mean() > 0.2


@pytest.mark.parametrize(
    ("task", "suite"),
    [
        ("segment", "sea(steps=20)"),
        ("segment", "dense_autoattack(10, 10)"),
        ("depth", "dense_autoattack(10, 10)"),
        ("detect", "dense_autoattack(10, 10)"),
    ],
)
def test_dense_suites_are_as_strong_as_each_member_on_every_image(task: str, suite: str) -> None:
    system = toy_system(build(task, "Task"))
    x, y = toy_images(COUNT), toy_target(system.task, COUNT)
    threat, attack = build("linf(8/255)", "Threat"), build(suite, "Attack")
    rows, _ = evaluate(system, attack, threat, x, y, ["?"] * COUNT, torch.Generator().manual_seed(0))
    found = attack(system, x, y, threat, torch.Generator().manual_seed(0))
    assert len(found.members) >= 3
    assert len({name for name, _ in found.members}) == len(found.members)
    for _, points in found.members:
        assert (threat.size(points - x) <= threat.eps * (1 + 1e-5) + 1e-6).all()
        assert (found.error >= system.task.error(system.output(points), y) - 1e-6).all()
    kept = {key.rpartition(".")[0] for key in rows if key.startswith("members.")}
    assert kept == {f"members.{name}" for name, _ in found.members}


def test_autoattack_in_a_region_leaves_the_rest_alone_and_finds_what_square_finds() -> None:
    system, x = toy_system(build("classify", "Task")), toy_images(24)
    y, threat = system.output(x).argmax(1), build("masked(linf(48/255), [0, 0, 0.5, 1])", "Threat")
    error = {}
    for spec in ("autoattack(steps=10, queries=100)", "attack(square(100), loss=margin)"):
        found = build(spec, "Attack")(system, x, y, threat, torch.Generator().manual_seed(0))
        assert torch.equal(found.x_adv[..., 8:, :], x[..., 8:, :])
        assert (found.x_adv - x).abs().amax() <= 48 / 255 + 1e-6
        error[spec] = system.task.error(system.output(found.x_adv), y).mean()
    suite, square = error.values()
    assert suite >= square > 0


def test_threats_that_a_suite_does_not_support_are_left_out_before_anything_runs() -> None:
    def asked(*threats: str, attacks: tuple[str, ...] = ("autoattack",)) -> Recipe:
        return Recipe(encoders=("zoo:made_supervised",), tasks=("classify",), attacks=attacks, threat=threats, count=2)

    supported = ["l2(0.5)", "union([linf(1/255), l2(0.5)])", "masked(linf(8/255), [0, 0, 0.5, 1])"]
    planned = plan(asked(*supported, "masked(l2(0.5), [0, 0, 0.5, 1])", "patch(5)"))
    assert [cell.threat for cell in planned.cells if cell.column != "clean"] == [
        cell.threat for cell in plan(asked(*supported)).cells if cell.column != "clean"
    ]
    assert len(planned.left_out) == 2
    assert all("square knows linf" in why or "which FAB needs" in why for why in planned.left_out)
    with pytest.raises(SpecError, match="nothing to measure: .*square knows"):
        plan(asked("patch(5)", attacks=("attack(square(10))",)))
    assert len(plan(asked("patch(5)", "l0(5)", attacks=("task",))).left_out) == 0


def test_a_suite_says_what_it_cannot_attack() -> None:
    assert not build("sea", "Attack").fits(build("depth", "Task"))
    assert build("dense_autoattack", "Attack").fits(build("depth", "Task"))
    assert not build("autoattack", "Attack").fits(build("segment", "Task"))
    with pytest.raises(SpecError, match="steps are too few"):
        build("sea(steps=1)", "Attack")
