"""An attack that should reach a target searches by reaching it; the error of every attack is the task's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardsight.attacks.aim import given
from hardsight.attacks.attack import Single
from hardsight.losses.depth import depth_to
from hardsight.specs.catalog import build
from tests.conftest import toy_images, toy_system


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("search", ["pgd(40)", "apgd(40)"])
def test_towards_a_map_each_pixel_that_reaches_it_counts(search: str) -> None:
    """The target is the output for other images: the task error would stop at any wrong class, and more eps reach less."""
    system, x = toy_system(build("segment", "Task")), toy_images(8)
    y, wanted = system.output(x).argmax(1), system.output(toy_images(8, seed=77)).argmax(1)

    def reached(x: Tensor) -> Tensor:
        return (system.output(x).argmax(1) == wanted).flatten(1).float().mean(1)

    shares = [reached(x).mean()]
    for eps in (16, 48):
        attack = Single(build(search, "Search"), build("ce_to", "Loss"), aim=given(wanted))
        found = attack(system, x, y, build(f"linf({eps}/255)", "Threat"), rng())
        assert found.reached is not None
        assert torch.allclose(found.reached, reached(found.x_adv), atol=1e-6)
        assert (reached(found.x_adv) >= reached(found.x_best_loss) - 1e-6).all()
        shares.append(found.reached.mean())
    assert shares[0] + 0.2 < shares[1] < shares[2]


def test_towards_a_class_leaves_when_it_is_reached_and_not_before() -> None:
    system, x = toy_system(build("classify", "Task")), toy_images(32)
    y = system.output(x).argmax(1)
    attack = build("attack(pgd(40, early_exit=True), loss=ce_to, aim=towards(2))", "Attack")
    found = attack(system, x, y, build("linf(24/255)", "Threat"), rng())
    assert (system.output(found.x_adv).argmax(1)[y != 2] == 2).all()
    assert torch.equal(found.reached, (system.output(found.x_adv).argmax(1) == 2).float())
    assert found.queries.float().mean() < 20
    rival = build("attack(pgd(40, early_exit=True), loss=ce_to, aim=rival(1))", "Attack")
    away = rival(system, x, y, build("linf(24/255)", "Threat"), rng())
    assert torch.equal(away.error, system.task.error(system.output(away.x_adv), y))  # as for APGD-T: any wrong class counts


def test_a_loss_with_its_own_target_is_not_compared_with_the_truth() -> None:
    """Where the truth is farther than the prediction, moving farther decreases the error at first."""
    system, x = toy_system(build("depth", "Task")), toy_images(6)
    y, threat = system.output(x).detach() * 1.3, build("linf(24/255)", "Threat")
    alone = Single(build("apgd(40)", "Search"), depth_to("farther"))(system, x, y, threat, rng())
    member = Single(build("apgd(40)", "Search"), depth_to("farther"), by_error=True)(system, x, y, threat, rng())
    assert torch.equal(alone.x_adv, alone.x_best_loss)
    assert (system.output(alone.x_adv).mean((1, 2)) > system.output(member.x_adv).mean((1, 2))).all()
    assert (system.task.error(system.output(member.x_adv), y) >= system.task.error(system.output(alone.x_adv), y)).all()
