"""Convolutions in a search, whose weights do not change: forms that give the same numbers up to rounding, but faster.

A batch norm directly after a convolution is folded into it. On a CPU, the convolution that reads the pixels is a matrix
product if it cuts patches; the pixels' gradient of one of stride 2 is computed for blocks of pixels at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hardsight.core import tree
from hardsight.losses.objective import still
from hardsight.tasks.base import System


@contextmanager
def reading_pixels(*modules: nn.Module) -> Iterator[None]:
    """Inside, convolutions of images [B, 3, H, W] run in the form that is fastest; the pixels' gradient is contiguous."""
    hooks, changed = [], []
    try:
        for part in (part for module in modules for part in module.modules()):
            if isinstance(part, nn.Conv2d) and part.in_channels == 3:
                hooks.append(part.register_forward_pre_hook(_keep_contiguous))
                form = _patches if _is_patch_embedding(part) else _in_blocks if _halves(part) else None
                if form is not None:
                    changed.append(part)
                    part.forward = partial(form, part)  # type: ignore[method-assign]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in changed:
            vars(part).pop("forward", None)


def _halves(conv: nn.Conv2d) -> bool:
    """Whether it is a convolution on a CPU of stride 2, equal in both directions, padded with zeros."""
    return (
        type(conv) is nn.Conv2d
        and conv.weight.device.type == "cpu"
        and "forward" not in vars(conv)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and set(conv.dilation) == {1}
        and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
        and conv.stride[0] == 2
        and conv.padding[0] < conv.kernel_size[0]
    )


def _is_patch_embedding(conv: nn.Conv2d) -> bool:
    """Whether it is a plain convolution on a CPU that cuts pixels into patches without overlap."""
    return (
        type(conv) is nn.Conv2d
        and conv.weight.device.type == "cpu"
        and "forward" not in vars(conv)
        and conv.kernel_size == conv.stride
        and conv.groups == 1
        and not any(conv.padding)
        and set(conv.dilation) == {1}
    )


def _keep_contiguous(conv: nn.Module, given: tuple[Any, ...]) -> None:
    """Keeps the pixels' gradient contiguous instead of channels-last, since later operations read the pixels in order."""
    if given and isinstance(given[0], Tensor) and given[0].requires_grad and given[0].is_contiguous():
        given[0].register_hook(torch.Tensor.contiguous)


def _patches(conv: nn.Conv2d, input: Tensor) -> Tensor:  # named as in nn.Conv2d, since callers may pass it by keyword
    """That convolution of images [B, 3, H, W] as a product, with gradient in a quarter of the time; channels-last output."""
    x = input
    if x.dim() != 4 or not len(x):
        return nn.Conv2d.forward(conv, x)
    (high, wide), (rows, columns) = conv.kernel_size, (x.shape[2] // conv.kernel_size[0], x.shape[3] // conv.kernel_size[1])
    x = x[..., : rows * high, : columns * wide].to(conv.weight.dtype)
    cut = x.reshape(len(x), 3, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5).reshape(len(x), rows, columns, -1)
    return F.linear(cut, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def _in_blocks(conv: nn.Conv2d, input: Tensor) -> Tensor:
    """That convolution, whose gradient to x is `Blocks`."""
    x = input
    if not (x.requires_grad and torch.is_grad_enabled()) or conv.weight.requires_grad or x.dim() != 4 or not len(x):
        return nn.Conv2d.forward(conv, x)
    return Blocks.apply(x.to(conv.weight.dtype), conv.weight, conv.bias, conv.padding[0])  # type: ignore[no-any-return]


class Blocks(torch.autograd.Function):
    """A convolution of stride 2 with frozen weights, whose gradient to x is found for 2 x 2 pixels at once.

    Three channels leave most of a CPU's vector empty. The 12 values of a block are the channels of one convolution of the
    gradient: the value of pixel 2 q + r is the sum over d of gradient[q + d] times the kernel's tap r + padding - 2 d.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.padding = x.shape, padding
        return F.conv2d(x, weight, bias, 2, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        (count, channels, *sides), padding, width = ctx.shape, ctx.padding, weight.shape[-1]
        first, end = -((width - 1 - padding) // 2), (1 + padding) // 2
        taps = torch.arange(2)[:, None] + padding - 2 * torch.arange(first, end + 1)[None]
        taps = torch.where((taps >= 0) & (taps < width), taps, width)  # there the padded kernel is 0
        kernel = F.pad(weight, (0, 1, 0, 1))[:, :, taps][..., taps].permute(2, 4, 1, 0, 3, 5).flatten(0, 2)
        blocks = [-(-side // 2) for side in sides]
        more = [block + end - have for block, have in zip(blocks, grad.shape[2:], strict=True)]
        with torch.autocast("cpu", enabled=False):
            around = F.pad(grad.to(weight.dtype), (-first, more[1], -first, more[0]))
            last = torch.channels_last
            rows = F.conv2d(around.contiguous(memory_format=last), kernel.contiguous(memory_format=last))
        found = rows.new_empty(count, channels, 2 * blocks[0], 2 * blocks[1])
        for r, part in enumerate(rows.split(channels, 1)):
            found[..., r // 2 :: 2, r % 2 :: 2] = part
        return found[..., : sides[0], : sides[1]].contiguous(), None, None, None


@contextmanager
def folded(system: System, x: Tensor) -> Iterator[bool]:
    """Inside, batch norms that only read a convolution are folded into it; none if that changes the system's output."""
    with torch.no_grad(), still(system.encoder, system.head):
        pairs = _pairs(system, x)
        if pairs:
            expected = outputs(system, x)
            with _fused(pairs):
                same = all(alike(one, other) for one, other in zip(outputs(system, x), expected, strict=True))
            pairs = pairs if same else []
    with _fused(pairs):
        yield bool(pairs)


def _pairs(system: System, x: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the batch norms directly after them, each called exactly once for images x."""
    parts = [part for module in (system.encoder, system.head) for part in module.modules()]
    norms = [
        part
        for part in parts
        if type(part) is nn.BatchNorm2d and part.running_mean is not None and "forward" not in vars(part)
    ]
    if not norms:
        return []
    outputs: list[tuple[Any, Any]] = []
    inputs: list[tuple[Any, Any]] = []
    hooks = [norm.register_forward_pre_hook(lambda part, given: inputs.append((part, given[0]))) for norm in norms]
    for part in parts:
        if isinstance(part, nn.Conv2d) and part._parameters.get("weight") is not None:
            hooks.append(part.register_forward_hook(lambda part, given, found: outputs.append((part, found))))
    try:
        system.output(x)
    finally:
        for hook in hooks:
            hook.remove()
    calls = Counter([part for part, _ in outputs] + [part for part, _ in inputs])
    pairs = [(conv, norm) for norm, given in inputs for conv, found in outputs if found is given]
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]


@contextmanager
def _fused(pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> Iterator[None]:
    before: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor, Any]] = []
    try:
        for conv, norm in pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            statistics = norm.running_mean, norm.running_var, norm.eps
            weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)
            before.append((conv, norm, conv.weight.data, conv.bias))
            conv.weight.data, conv.bias = weight.data, nn.Parameter(bias.data, requires_grad=False)
            norm.forward = lambda x: x  # type: ignore[method-assign]
        yield
    finally:
        for conv, norm, kernel, shift in reversed(before):
            conv.weight.data, conv.bias = kernel, shift
            vars(norm).pop("forward", None)


def outputs(system: System, x: Tensor) -> list[Tensor]:
    """Every tensor that the system computes for images x."""
    found: list[Tensor] = []
    tree.each((system.pooled(x), system.output(x)), lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point() or not one.numel():
        return one.shape == other.shape and torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
