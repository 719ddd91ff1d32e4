"""A search in bf16: autocast, with the weights stored in their fastest form during the search.

Autocast caches the casts of trainable weights but casts frozen ones again in every pass, so here they are cast once. On a
CPU, convolutions are faster in channels-last format, above all in bf16, and a channels-last weight gives a channels-last
output; a patch embedding is faster as a matrix product. A batch norm directly after a convolution is folded into it, since
its statistics do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hardsight.attacks.convolutions import folded, reading_pixels
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
    try:
        for part in (part for module in modules for part in module.modules()):
            if isinstance(part, CAST):
                for weight in part.parameters(recurse=False):
                    if weight.dtype == torch.float32 and weight not in before:
                        before[weight] = weight.data
                        conv = weight.dim() == 4 and weight.device.type == "cpu"
                        form = torch.channels_last if conv else torch.preserve_format
                        weight.data = weight.data.to(torch.bfloat16, memory_format=form)
        with reading_pixels(*modules):
            yield
    finally:
        for weight, values in before.items():
            weight.data = values
