"""Float32 searches with faster passes: the same numbers up to rounding, the network as before, and a verdict on the network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.convolutions import Blocks
from hardsight.attacks.quick import exact, quick
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system, toy_target


class Normed(nn.Module):
    """A stem of stride 2 with a batch norm, and a second convolution. how: "views" needs channels-first maps; "random" draws."""

    depth, multiple = 1, 1

    def __init__(self, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3, 2, 1)
        self.norm.running_mean, self.norm.running_var = torch.rand(8), torch.rand(8) + 0.5
        self.how = how

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        found = self.two(torch.relu(self.norm(self.one(pixels))))
        if self.how == "random":
            found = found + torch.randn_like(found)
        pooled = found.view(len(found), -1).unflatten(1, (12, -1)).mean(2) if self.how == "views" else found.mean((2, 3))
        return BodyOutput(pooled, (found,) * len(layers), None)


def system_of(how: str = "") -> System:
    known = toy_system(build("classify", "Task"))
    encoder = Encoder(Normed(how), Card("toy", "toy", "test", dim=12, dense_dim=12, stride=4, size=16)).eval()
    return System(encoder, known.head, known.task)


def values(system: System) -> list[Tensor]:
    return [one.clone() for one in system.encoder.state_dict().values()]


def test_outputs_and_gradients_stay_the_same_and_so_does_the_network_after() -> None:
    system, x = system_of(), toy_images(3).requires_grad_()
    body: Any = system.encoder.body
    before, plain = values(system), system.output(x)
    slope = torch.autograd.grad(plain.square().sum(), x)[0]
    with quick(system, x.detach()) as changed:
        assert changed
        assert "forward" in vars(body.norm)
        assert "forward" in vars(body.one)
        assert body.two.weight.is_contiguous(memory_format=torch.channels_last)
        found = system.output(x)
        assert torch.allclose(found, plain, atol=1e-5)
        steep = torch.autograd.grad(found.square().sum(), x)[0]
        assert torch.allclose(steep, slope, rtol=1e-4, atol=1e-5)
        assert steep.is_contiguous()
    assert all(torch.equal(one, other) for one, other in zip(values(system), before, strict=True))
    assert "forward" not in vars(body.norm) | vars(body.one)
    assert torch.equal(system.output(x), plain)


@pytest.mark.parametrize("how", ["views", "random"])
def test_a_network_that_does_not_allow_it_keeps_its_passes(how: str) -> None:
    system, x = system_of(how), toy_images(2)
    with quick(system, x) as changed:
        assert changed == (how == "views")  # the batch norm is still folded
        assert system.encoder.body.two.weight.is_contiguous()
        system.output(x)


def test_it_is_off_inside_another_and_where_the_passes_should_stay() -> None:
    system, x = system_of(), toy_images(2)
    for around in (exact(system), quick(system, x), torch.autocast("cpu", torch.bfloat16)):
        with around, quick(system, x) as changed:
            assert not changed
    with quick(system, x.double()) as changed:
        assert not changed


@pytest.mark.parametrize(("side", "width", "padding"), [(16, 3, 1), (15, 3, 0), (20, 7, 3), (19, 4, 1), (17, 5, 2)])
def test_the_gradient_in_blocks_is_that_of_the_convolution(side: int, width: int, padding: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, side, side + 3, generator=rng, requires_grad=True)
    weight, bias = torch.randn(8, 3, width, width, generator=rng), torch.randn(8, generator=rng)
    plain, found = F.conv2d(x, weight, bias, 2, padding), Blocks.apply(x, weight, bias, padding)
    up = torch.randn(plain.shape, generator=rng)
    wanted, slope = (torch.autograd.grad(one, x, up)[0] for one in (plain, found))
    assert torch.equal(found, plain)
    assert torch.allclose(slope, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec", ["classpgd(steps=5)", "attack(square(30), loss=margin)", "autoattack(steps=5, queries=20, targets=2)"]
)
def test_an_attack_finds_the_same(spec: str) -> None:
    system, x = system_of(), toy_images(4)
    y, threat, attack = toy_target(system.task, 4), build("linf(0.05)", "Threat"), build(spec, "Attack")
    found = attack(system, x, y, threat, torch.Generator().manual_seed(0))
    with exact(system):
        plain = attack(system, x, y, threat, torch.Generator().manual_seed(0))
    assert torch.equal(found.error, plain.error)
    assert torch.equal(found.queries, plain.queries)
    assert torch.allclose(found.loss, plain.loss, atol=1e-4)
