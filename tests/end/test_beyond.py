"""Attacks that use more than their batch: a universal perturbation, and transfer from a surrogate encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardsight.core.errors import SpecError
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from tests.conftest import toy_images, toy_system, toy_target

SMALL = Recipe(
    audit=0,
    encoders=("zoo:made_supervised",),
    tasks=("classify",),
    data=("made",),
    eps=("8/255",),
    probe="probe(images=256, epochs=20)",
    count=32,
    chunk=16,
)


def accuracy(recipe: Recipe, folder: Path) -> dict[str, float]:
    cells = Bench(plan(recipe), Store(folder)).run()
    return {cell.what["column"]: cell.done["summary"]["accuracy"] for cell in cells}


@pytest.mark.slow
def test_universal_and_transfer_lie_between_clean_and_white_box(tmp_path: Path) -> None:
    attacks = ("clean", "task", "universal(images=192)", "transfer(classpgd, source='zoo:made_simclr')")
    found = accuracy(replace(SMALL, attacks=attacks), tmp_path)
    noise = accuracy(replace(SMALL, attacks=("clean", "pgd(0)")), tmp_path)["pgd(0)"]
    others = [value for key, value in found.items() if key not in ("clean", "task")]
    assert len(others) == 2
    image = 1 / SMALL.count  # a perturbation for another encoder may correct an image by chance
    assert all(found["task"] <= value <= found["clean"] + 1.01 * image for value in others)
    assert found["Universal(images=192)"] < noise - 0.1


def test_one_perturbation_for_all() -> None:
    from hardsight.attacks.attack import Lab, prepared

    system = toy_system(build("classify", "Task"))
    x = toy_images(24) * 0.5 + 0.25  # far from 0 and 1, so that nothing is clipped
    y, threat = system.output(x).argmax(1), build("linf(16/255)", "Threat")

    def train(count: int, batch: int, epoch: int):
        yield from ((x[i : i + batch], y[i : i + batch]) for i in range(0, count, batch))

    lab = Lab(system, threat, train, lambda spec: system, torch.Generator().manual_seed(0))
    attack = prepared(build("universal(images=24, epochs=10, batch=8)", "Attack"), lab)
    found = attack(system, x, y, threat)
    delta = found.x_adv - x
    assert torch.allclose(delta, delta[:1].expand_as(delta), atol=1e-6)
    assert delta.abs().max() <= 16 / 255 + 1e-6
    assert found.error.mean() > 0.2
    other = toy_system(build("classify", "Task"), seed=3)
    moved = prepared(build("transfer(classpgd, source='tiny')", "Attack"), replace(lab, other=lambda spec: other))
    transferred = moved(system, x, y, threat, torch.Generator().manual_seed(0))
    assert torch.equal(transferred.error, system.task.error(system.output(transferred.x_adv), y))


@pytest.mark.parametrize(
    ("spec", "message"), [("universal", "training images"), ("transfer(classpgd, source='tiny')", "tiny")]
)
def test_unprepared_attacks_say_so(spec: str, message: str) -> None:
    system, x = toy_system(build("classify", "Task")), toy_images(2)
    with pytest.raises(SpecError, match=message):
        build(spec, "Attack")(system, x, toy_target(system.task, 2), build("linf(0.1)", "Threat"))


@pytest.mark.parametrize("spec", ["patch(4, (0.5, 0.5))", "l0(8)"])
def test_one_perturbation_may_take_a_value_all_the_way(spec: str) -> None:
    """The perturbation of a pixel can be -1 or 1 (black to white), not only half of that range."""
    from hardsight.attacks.attack import Lab, prepared

    system, threat, x = toy_system(build("classify", "Task")), build(spec, "Threat"), toy_images(32)
    y = system.output(x).argmax(1)
    lab = Lab(system, threat, lambda *_: iter([(x, y)]), lambda spec: system, torch.Generator().manual_seed(0))
    attack = prepared(build("universal(images=32, epochs=20)", "Attack"), lab)
    assert attack.delta.min() < -0.9
    assert attack.delta.max() > 0.9
    found = attack(system, x, y, threat)
    assert (threat.size(found.x_adv - x) <= threat.eps).all()
