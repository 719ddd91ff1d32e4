"""A search in bf16: how it stores the weights, that it restores them, and networks that do not support it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.bf16 import Attention, cheap, folded, in_bf16
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from tests.conftest import ToyBody, toy_images, toy_system


def system_of(body: nn.Module) -> System:
    known = toy_system(build("classify", "Task"))
    encoder = Encoder(body, Card("toy", "toy", "test", dim=12, dense_dim=12, stride=4, size=16)).eval()
    return System(encoder, known.head, known.task)


class Stubborn(ToyBody):
    """Views its feature map as only a channels-first tensor allows, or multiplies with a weight directly."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        found = self.two(torch.tanh(self.one(pixels)))
        if self.how == "views":
            pooled = found.view(len(found), -1).unflatten(1, (12, -1)).mean(2)
        else:
            with torch.autocast("cpu", enabled=False):
                pooled = torch.einsum("bdhw,ed->be", found.float(), self.two.weight[:, :, 0, 0].new_ones(12, 12))
                pooled = pooled + F.conv2d(torch.ones(len(found), 8, 1, 1), self.two.weight).flatten(1)
        return BodyOutput(pooled, (found,) * len(layers), None)


def weights(system: System) -> list[Tensor]:
    return [*system.encoder.state_dict().values(), *system.head.state_dict().values()]


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_cheap_inside_and_restored_after(fails: bool) -> None:
    system, x = toy_system(build("segment", "Task")), toy_images(2)
    before, places = [one.clone() for one in weights(system)], [one.data_ptr() for one in weights(system)]
    grads = [p.requires_grad for p in system.encoder.parameters()]
    body: Any = system.encoder.body
    try:
        with in_bf16(system, x):
            assert body.one.weight.dtype == torch.bfloat16
            assert body.one.weight.is_contiguous(memory_format=torch.channels_last)
            assert body.one(x).is_contiguous(memory_format=torch.channels_last)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert all(torch.equal(one, two) for one, two in zip(weights(system), before, strict=True))
    assert [one.data_ptr() for one in weights(system)] == places
    assert [p.requires_grad for p in system.encoder.parameters()] == grads
    assert not torch.is_autocast_enabled("cpu")


def test_outputs_are_those_of_autocast() -> None:
    system, x = toy_system(build("segment", "Task")), toy_images(3)
    with torch.autocast("cpu", torch.bfloat16):
        plain = system.output(x)
    with in_bf16(system, x):
        cheap = system.output(x)
    assert cheap.dtype == plain.dtype
    assert torch.allclose(cheap.float(), plain.float(), rtol=2**-6, atol=2**-6)
    assert not torch.equal(cheap.float(), system.output(x))


@pytest.mark.parametrize(("kernel", "side"), [(4, 16), (5, 16), ((2, 4), 17)])
def test_patches_are_a_product_equal_to_the_convolution(kernel: Any, side: int) -> None:
    conv = nn.Conv2d(3, 6, kernel, kernel).requires_grad_(False)
    x = toy_images(2, side).requires_grad_()
    found = {}
    for name in ("convolution", "product"):
        with nullcontext() if name == "convolution" else cheap(conv), torch.autocast("cpu", torch.bfloat16):
            assert ("forward" in vars(conv)) == (name == "product")
            answer = conv(x)
            (grad,) = torch.autograd.grad(answer.float().square().sum(), x)
            found[name] = answer.float(), grad
        assert "forward" not in vars(conv)
    for one, two in zip(*found.values(), strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one, two, rtol=2**-5, atol=2**-6)
    assert found["product"][1].abs().max() > 0.1


@pytest.mark.parametrize("changes", [{"padding": 1}, {"stride": 3}, {"groups": 3}, {"dilation": 2}, {"stride": 1}])
def test_a_convolution_of_other_windows_stays_one(changes: dict[str, int]) -> None:
    conv = nn.Conv2d(3, 6, **{"kernel_size": 4, "stride": 4, **changes})  # type: ignore[arg-type]
    with cheap(conv):
        assert "forward" not in vars(conv)


class Same(nn.Conv2d):
    """A convolution that pads its input as needed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)))


def test_a_convolution_that_does_more_stays_as_it_is() -> None:
    conv = Same(3, 6, 4, 4)
    with cheap(conv), torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.rand(1, 3, 18, 18)).shape == (1, 6, 5, 5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8)])
def test_patches_of_one_image_or_none_and_by_name(shape: tuple[int, ...]) -> None:
    conv = nn.Conv2d(3, 6, 4, 4).requires_grad_(False)
    with cheap(conv), torch.autocast("cpu", torch.bfloat16):
        assert conv(input=torch.rand(shape)).shape == (*shape[:-3], 6, 2, 2)


def test_a_gradient_is_contiguous_like_the_pixels() -> None:
    conv, x = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False), toy_images(2).requires_grad_()
    with cheap(conv), torch.autocast("cpu", torch.bfloat16):
        (grad,) = torch.autograd.grad(conv(x / 2).float().sum(), x)
    conv.to(memory_format=torch.channels_last)
    (other,) = torch.autograd.grad(conv(x / 2).sum(), x)
    assert grad.is_contiguous()
    assert not other.is_contiguous()
    assert not conv._forward_pre_hooks


@pytest.mark.parametrize("how", ["views", "by hand"])
def test_a_network_that_does_not_support_it_runs_under_autocast_alone(how: str) -> None:
    system, x = system_of(Stubborn(how)), toy_images(2)
    with in_bf16(system, x):
        assert system.encoder.body.one.weight.dtype == torch.float32  # type: ignore[union-attr]
        assert system.output(x).isfinite().all()


@pytest.mark.parametrize("short", [8, 9])
def test_attention_equals_float32s_in_both_forms(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.attacks.bf16.SHORT", short)
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=rng).bfloat16().requires_grad_() for _ in range(3))
    for scale in (None, 0.3):
        with Attention() as attention:
            found = F.scaled_dot_product_attention(q, k, v, scale=scale)
        wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale)
        assert attention.seen
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, wanted.bfloat16()) == (short < 9)
        assert torch.allclose(found.float(), wanted, atol=0.02)
        for one in (q, k, v):
            grad, true = (torch.autograd.grad(out.float().sum(), one, retain_graph=True)[0] for out in (found, wanted))
            assert torch.allclose(grad, true, atol=0.05)


def test_attention_with_a_mask_is_float32s_and_gives_bf16() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=rng).bfloat16() for _ in range(3))
    mask = torch.randn(9, 9, generator=rng)
    with Attention():
        masked = F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask.bfloat16())
    wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask.bfloat16().float())
    assert torch.equal(masked, wanted.bfloat16())
    with Attention():
        whole = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=torch.zeros(9, 9))
    assert whole.dtype == torch.float32
    with Attention() as attention:
        whole = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert attention.seen
    assert torch.equal(whole, F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True).bfloat16())


@pytest.mark.parametrize("attends", [False, True])
def test_calls_are_watched_only_where_there_is_attention(attends: bool) -> None:
    class Body(ToyBody):
        def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
            seen = super().forward(pixels, layers)
            pooled = seen.pooled[:, None]
            return seen._replace(
                pooled=F.scaled_dot_product_attention(pooled, pooled, pooled)[:, 0] if attends else pooled[:, 0]
            )

    with in_bf16(system_of(Body()), toy_images(2)):
        assert bool(torch.overrides._get_current_function_mode_stack()) == attends


class Normed(ToyBody):
    """Convolutions followed by batch norms; `also`: the output of the first one is also used without its norm."""

    def __init__(self, also: bool = False, bias: bool = True) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.also, self.norms = also, nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12, affine=False)])
        for norm in self.norms:
            norm.running_mean = torch.randn(norm.num_features, generator=rng)  # type: ignore[arg-type]
            norm.running_var = torch.rand(norm.num_features, generator=rng) + 0.5  # type: ignore[arg-type]
        if not bias:
            self.one.bias = None

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        first = self.one(pixels)
        second = self.norms[1](self.two(torch.tanh(self.norms[0](first))))
        if self.also:
            second = second + first.mean((1, 2, 3), keepdim=True)
        return BodyOutput(second.mean((2, 3)), (second,) * len(layers), None)


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norms_are_folded_into_convolutions_and_restored_after(bias: bool) -> None:
    system, x = system_of(Normed(bias=bias)), toy_images(3)
    body: Any = system.encoder.body
    before, wanted = {name: one.clone() for name, one in system.encoder.state_dict().items()}, system.output(x)
    weight = body.one.weight.clone()
    for _ in range(2):
        with folded(system, x[:1]):
            assert not torch.allclose(body.one.weight, weight)
            assert body.norms[0](x) is x
            assert torch.allclose(system.output(x), wanted, atol=1e-5)
            assert not any(p.requires_grad for p in [body.one.bias])
    after = system.encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert torch.equal(system.output(x), wanted)


def test_a_convolution_that_is_also_used_without_its_norm_keeps_it() -> None:
    system, x = system_of(Normed(also=True)), toy_images(3)
    wanted = system.output(x)
    with folded(system, x[:1]):
        assert torch.equal(system.output(x), wanted)


def test_a_search_in_bf16_gets_the_outputs_of_the_normed_network() -> None:
    system, x = system_of(Normed()), toy_images(3)
    with in_bf16(system, x):
        cheap = system.output(x)
    assert torch.allclose(cheap.float(), system.output(x), rtol=0.05, atol=0.05)
