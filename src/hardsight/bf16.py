"""A search in bf16: autocast, with the weights in their cheapest form while it lasts.

Autocast keeps the casts of weights that are trained, and casts frozen ones anew in every pass; so they are cast once. Convolutions
on a CPU are faster with channels last, bf16 ones above all, and one whose weight lies so answers so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hardsight.objective import still
from hardsight.tasks.base import System

CAST = (nn.Linear, nn.modules.conv._ConvNd)
"""What autocast runs in bf16, so that a weight in bf16 changes no number."""
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


SHORT = 1024
"""Tokens up to which attention's matrix may be held whole; beyond, the kernel that never holds it is worth its time."""


class Attention(TorchFunctionMode):
    """Attention inside of bf16 on a CPU, whose own bf16 kernel is the slowest way, with its gradient almost three times.

    Up to `SHORT` tokens it is two bf16 products and a softmax; with more, or anything but a plain softmax, the float32 kernel.
    It sees `F.scaled_dot_product_attention`, as timm and transformers call it, and not what is inside of nn.MultiheadAttention.
    seen: whether there was any; it sees every call, which costs a small network a twentieth, so others go without.
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
                scale = given.get("scale") or query.shape[-1] ** -0.5
                return (query * scale @ key.mT).softmax(-1) @ value
            for name in NAMES[:4]:
                if isinstance(given.get(name), Tensor) and given[name].is_floating_point():
                    given[name] = given[name].float()
            return func(**given).bfloat16()


@contextmanager
def in_bf16(system: System, x: Tensor) -> Iterator[None]:
    """bf16 within for images x [B, 3, H, W]; afterwards every weight is what it was, to the bit.

    A network that cannot have its weights so (it reads them itself, or views its maps as if they lay channels first) is told by
    one image, and runs under autocast alone.
    """
    attention = Attention()
    with torch.autocast(x.device.type, torch.bfloat16):
        if _bears(system, x[:1], attention):
            with cheap(system.encoder, system.head), attention if attention.seen else nullcontext():
                yield
        else:
            yield


def _bears(system: System, x: Tensor, attention: Attention) -> bool:
    """Whether these images pass, and their gradient too; a CPU's attention is watched for."""
    watch = attention if x.device.type == "cpu" else nullcontext()
    try:
        with cheap(system.encoder, system.head), watch, still(system.encoder, system.head), torch.enable_grad():
            given = x.detach().requires_grad_()
            pooled = system.pooled(given)
            system.output(given)
            if pooled.requires_grad:
                torch.autograd.grad(pooled.float().sum(), given)
    except RuntimeError:
        return False
    return True


@contextmanager
def cheap(*modules: nn.Module) -> Iterator[None]:
    """Weights that autocast would cast are bf16 within, convolutions' channels last on a CPU."""
    before: dict[nn.Parameter, Tensor] = {}
    try:
        for part in (part for module in modules for part in module.modules()):
            if isinstance(part, CAST):
                for weight in part.parameters(recurse=False):
                    if weight.dtype == torch.float32 and weight not in before:
                        before[weight] = weight.data
                        lies = weight.dim() == 4 and weight.device.type == "cpu"
                        form = torch.channels_last if lies else torch.preserve_format
                        weight.data = weight.data.to(torch.bfloat16, memory_format=form)
        yield
    finally:
        for weight, values in before.items():
            weight.data = values
