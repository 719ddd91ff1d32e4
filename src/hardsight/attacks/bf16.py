"""A search in bf16: autocast, with the weights stored in their fastest form during the search.

Autocast caches the casts of trainable weights but casts frozen ones again in every pass, so here they are cast once. On a
CPU, convolutions are faster in channels-last format, above all in bf16, and a channels-last weight gives a channels-last
output; a patch embedding is faster as a matrix product. A batch norm directly after a convolution is folded into it, since
its statistics do not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from hardsight.core import tree
from hardsight.losses.objective import recordable, still
from hardsight.tasks.base import System

CAST = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers that autocast runs in bf16, so that storing their weights in bf16 changes no number."""
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


SHORT = 1024
"""Number of tokens up to which the whole attention matrix is stored; above, the kernel that never stores it is faster."""


class Attention(TorchFunctionMode):
    """Attention in bf16 on a CPU, without PyTorch's bf16 kernel, the slowest option: with gradient almost 3 times slower.

    Up to `SHORT` tokens it is two bf16 products and a softmax; with more tokens, or anything other than a plain softmax, the
    float32 kernel. It intercepts `F.scaled_dot_product_attention`, as timm and transformers call it, but not the inside of
    nn.MultiheadAttention. seen: whether attention was called; intercepting all calls costs a small network 5%, so networks
    without attention run without it.
    """

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip(NAMES, args, strict=False)) | (kwargs or {})
        if func is not F.scaled_dot_product_attention or given["query"].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        self.seen = True
        plain = given.get("attn_mask") is None and not any(
            given.get(name) for name in ("dropout_p", "is_causal", "enable_gqa")
        )
        with torch.autocast("cpu", enabled=False):
            if plain and given["query"].shape[-2] * given["key"].shape[-2] <= SHORT**2:
                query, key, value = (given[name] for name in NAMES[:3])
                scale = given.get("scale")
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                return (query * scale @ key.mT).softmax(-1) @ value
            for name in NAMES[:4]:
                if isinstance(given.get(name), Tensor) and given[name].is_floating_point():
                    given[name] = given[name].float()
            return func(**given).bfloat16()


@contextmanager
def in_bf16(system: System, x: Tensor) -> Iterator[None]:
    """bf16 inside the context for images x [B, 3, H, W]; afterwards every weight is restored bit by bit.

    One image tests whether the network works with such weights. If not (it uses them directly, or views its feature maps as
    if they were channels-first), it runs under autocast alone.
    """
    attention = Attention()
    with folded(system, x[:1]), torch.autocast(x.device.type, torch.bfloat16):
        if _supports(system, x[:1], attention):
            with cheap(system.encoder, system.head), attention if attention.seen else nullcontext():
                yield
        else:
            yield


def _supports(system: System, x: Tensor, attention: Attention) -> bool:
    """Whether a forward and backward pass of these images works; on a CPU, it also records whether attention is called."""
    watch = attention if x.device.type == "cpu" else nullcontext()
    try:
        with cheap(system.encoder, system.head), watch, still(system.encoder, system.head), torch.enable_grad():
            given = recordable(x).detach().requires_grad_()
            pooled = system.pooled(given)
            system.output(given)
            if pooled.requires_grad:
                torch.autograd.grad(pooled.float().sum(), given)
    except RuntimeError:
        return False
    return True


@contextmanager
def cheap(*modules: nn.Module) -> Iterator[None]:
    """Inside, weights that autocast would cast are bf16; on a CPU, convolutions are channels-last, patches are products."""
    before: dict[nn.Parameter, Tensor] = {}
    embeddings: list[nn.Conv2d] = []
    hooks = []
    try:
        for part in (part for module in modules for part in module.modules()):
            if isinstance(part, CAST):
                for weight in part.parameters(recurse=False):
                    if weight.dtype == torch.float32 and weight not in before:
                        before[weight] = weight.data
                        conv = weight.dim() == 4 and weight.device.type == "cpu"
                        form = torch.channels_last if conv else torch.preserve_format
                        weight.data = weight.data.to(torch.bfloat16, memory_format=form)
            if isinstance(part, nn.Conv2d) and part.in_channels == 3:
                hooks.append(part.register_forward_pre_hook(_keep_contiguous))
                if _is_patch_embedding(part):
                    embeddings.append(part)
                    part.forward = partial(_patches, part)  # type: ignore[method-assign]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in embeddings:
            vars(part).pop("forward", None)
        for weight, values in before.items():
            weight.data = values


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


@contextmanager
def folded(system: System, x: Tensor) -> Iterator[None]:
    """Inside, batch norms that only read a convolution are folded into it; none if that changes the system's output."""
    with torch.no_grad(), still(system.encoder, system.head):
        pairs = _pairs(system, x)
        if pairs:
            expected = _outputs(system, x)
            with _fused(pairs):
                same = all(_close(one, other) for one, other in zip(_outputs(system, x), expected, strict=True))
            pairs = pairs if same else []
    with _fused(pairs):
        yield


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


def _outputs(system: System, x: Tensor) -> list[Tensor]:
    """Every tensor that the system computes for images x."""
    found: list[Tensor] = []
    tree.each((system.pooled(x), system.output(x)), lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point() or not one.numel():
        return one.shape == other.shape and torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
