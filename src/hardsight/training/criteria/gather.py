"""The whole batch's embeddings, where each of several processes holds a share of it.

With `gather` in a criterion, DDP's mean of the processes' gradients is the gradient of one process with the whole batch. An
inner attack runs within `alone()`: its negatives are this process's own, and its steps wait for no other process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Criteria evaluated in this context use only this process's share of the batch."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world() -> int:
    """How many processes' shares `gather` joins: 1 without a process group, or within `alone()`."""
    return 1 if _alone.get() or not dist.is_available() or not dist.is_initialized() else dist.get_world_size()


def gather(z: Tensor) -> Tensor:
    """[B, ...] -> [world B, ...], in the order of the processes' ranks; every process has the same number of rows.

    The gradient is the sum over processes of their gradients of these rows, so that a criterion over the whole batch may be
    the same number in every process, or each process's own part of a mean: both give the result of one process.
    """
    if world() == 1:
        return z
    return _Gather.apply(z) if z.requires_grad else _joined(z)  # type: ignore[return-value]


def own(z: Tensor) -> Tensor:
    """[B]: the indices of z's rows in `gather(z)`."""
    count = len(z)
    begin = dist.get_rank() * count if world() > 1 else 0
    return torch.arange(begin, begin + count, device=z.device)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.begin, ctx.count = dist.get_rank() * len(z), len(z)
        return _joined(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.begin : ctx.begin + ctx.count]


def _joined(z: Tensor) -> Tensor:
    shares = [torch.empty_like(z, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, z.detach().contiguous())
    return torch.cat(shares)
