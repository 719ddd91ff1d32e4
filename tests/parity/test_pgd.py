"""PGD compared with torchattacks and foolbox: from the same start, the same images to rounding."""

from __future__ import annotations

import eagerpy
import foolbox
import pytest
import torch
import torchattacks
from torch import nn

from hardsight.losses.objective import against
from hardsight.specs.catalog import build
from tests.conftest import toy_images

STEPS, COUNT = 10, 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def net() -> Net:
    return Net().eval().requires_grad_(False)


@pytest.fixture
def x() -> torch.Tensor:
    return toy_images(COUNT)


def ours(net: Net, x: torch.Tensor, y: torch.Tensor, spec: str, threat: str, start: torch.Tensor | None) -> torch.Tensor:
    ce = build("ce", "Loss")
    return build(spec, "Search")(against(net, ce, None, y), x, build(threat, "Threat"), None, start).x_adv


def test_linf_equals_torchattacks(net: Net, x: torch.Tensor) -> None:
    y = net(x).argmax(1)
    theirs = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=STEPS, random_start=False)(x, y)
    mine = ours(net, x, y, f"pgd({STEPS}, start='clean', keep='last')", "linf(8/255)", None)
    assert (mine - theirs).abs().max() < 1e-6
    assert (mine - x).abs().max() > 7.9 / 255


def test_ni_fgsm_equals_torchattacks_where_its_look_ahead_stays_allowed(net: Net, x: torch.Tensor) -> None:
    x, y = 0.3 + 0.4 * x, net(x).argmax(1)
    theirs = torchattacks.NIFGSM(net, eps=32 / 255, alpha=0.32 / 255, steps=6, decay=1.0)(x, y)
    mine = ours(net, x, y, "pgd(6, 0.01, start='clean', momentum=1, nesterov=True, keep='last')", "linf(32/255)", None)
    plain = ours(net, x, y, "pgd(6, 0.01, start='clean', momentum=1, keep='last')", "linf(32/255)", None)
    assert (mine - theirs).abs().max() < 1e-6
    assert (mine - plain).abs().max() > 1e-4


def test_l2_equals_torchattacks(net: Net, x: torch.Tensor) -> None:
    y = net(x).argmax(1)
    theirs = torchattacks.PGDL2(net, eps=0.5, alpha=0.1, steps=STEPS, random_start=False)(x, y)
    mine = ours(net, x, y, f"pgd({STEPS}, 0.2, start='clean', keep='last')", "l2(0.5)", None)
    assert (mine - theirs).abs().max() < 1e-5


def test_fgsm_equals_torchattacks(net: Net, x: torch.Tensor) -> None:
    y = net(x).argmax(1)
    theirs = torchattacks.FGSM(net, eps=8 / 255)(x, y)
    assert (ours(net, x, y, "pgd(1, 1.0, start='clean', keep='last')", "linf(8/255)", None) - theirs).abs().max() < 1e-6


def test_momentum_equals_torchattacks(net: Net, x: torch.Tensor) -> None:
    y = net(x).argmax(1)
    theirs = torchattacks.MIFGSM(net, eps=8 / 255, alpha=2 / 255, steps=STEPS, decay=1.0)(x, y)
    mine = ours(net, x, y, f"pgd({STEPS}, momentum=1, start='clean', keep='last')", "linf(8/255)", None)
    assert (mine - theirs).abs().max() < 1e-6


def test_random_start_equals_torchattacks(net: Net, x: torch.Tensor) -> None:
    y = net(x).argmax(1)
    torch.manual_seed(11)
    start = (x + torch.empty_like(x).uniform_(-8 / 255, 8 / 255)).clamp(0, 1)  # the random start of torchattacks
    torch.manual_seed(11)
    theirs = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=STEPS, random_start=True)(x, y)
    assert (ours(net, x, y, f"pgd({STEPS}, keep='last')", "linf(8/255)", start) - theirs).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "threat", "eps"), [("LinfPGD", "linf(8/255)", 8 / 255), ("L2PGD", "l2(0.5)", 0.5)])
@pytest.mark.parametrize("random", [False, True])
def test_equals_foolbox(net: Net, x: torch.Tensor, name: str, threat: str, eps: float, random: bool) -> None:
    y = net(x).argmax(1)
    start = build(threat, "Threat").inside(x, torch.Generator().manual_seed(3))
    attack = getattr(foolbox.attacks, name)(rel_stepsize=0.25, steps=STEPS, random_start=random)
    attack.get_random_start = lambda x0, epsilon: eagerpy.astensor(start)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs = attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=eps)
    mine = ours(net, x, y, f"pgd({STEPS}, start='clean', keep='last')", threat, start if random else None)
    assert (mine - theirs).abs().max() < 1e-5
