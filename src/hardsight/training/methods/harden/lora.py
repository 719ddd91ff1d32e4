"""LoRA around any method: only low-rank additions to chosen layers are trained, and the layers always hold the sum.

A layer's weight is W + scale B A. If G is the gradient of the loss to that sum, A's is scale B^T G and B's is scale G A^T:
so the networks need no new parts, the method's own code runs unchanged, and an ordinary encoder is exported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.base import WrappedLearner, name_of

HELD = nn.Linear | nn.Conv2d


class Adapter(nn.Module):
    """The addition to one layer's weight [out, ...]: scale B A, with B [out, rank] initialized to 0 and A [rank, in]."""

    base: Tensor

    def __init__(self, layer: HELD, rank: int, scale: float) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not registered as a submodule: its weight is the encoder's
        wide, deep = layer.weight.shape[0], layer.weight[0].numel()
        rank = min(rank, wide, deep)
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, deep, device=layer.weight.device))
        self.up = nn.Parameter(torch.zeros(wide, rank, device=layer.weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.register_buffer("base", layer.weight.detach().clone(), persistent=False)  # reloaded by the encoder's spec

    @property
    def weight(self) -> nn.Parameter:
        return self.__dict__["layer"].weight

    @property
    def added(self) -> Tensor:
        return (self.scale * self.up @ self.down).view_as(self.base)

    @torch.no_grad()
    def pass_gradient(self) -> None:
        """Passes the weight's gradient on to A and B; the weight keeps none, so no optimizer updates it."""
        weight = self.weight
        if weight.grad is None:
            return
        grad = self.scale * weight.grad.flatten(1)
        for part, its in ((self.down, self.up.T @ grad), (self.up, grad @ self.down.T)):
            part.grad = its if part.grad is None else part.grad + its
        weight.grad = None

    @torch.no_grad()
    def merge(self) -> None:
        self.weight.copy_(self.base + self.added)


class LoRALearner(WrappedLearner):
    """inner's encoder is frozen except for the weights that have an adapter; inner's heads are trained as usual."""

    def __init__(self, inner: Learner, adapters: list[Adapter]) -> None:
        super().__init__(inner)
        self.adapters = nn.ModuleList(adapters)
        self.replays = inner.replays
        held = {adapter.weight for adapter in adapters}
        for weight in inner.encoder.parameters():
            weight.requires_grad_(weight in held)

    def forward(self, samples: Samples, when: When) -> Step:
        return self.inner(samples, when)

    def after_backward(self, when: When) -> None:
        super().after_backward(when)
        for adapter in self.adapters:
            adapter.pass_gradient()  # type: ignore[operator]

    def after_step(self, keep: Any, when: When) -> None:
        for adapter in self.adapters:
            adapter.merge()  # type: ignore[operator]
        super().after_step(keep, when)


@dataclass(frozen=True)
class LoRA:
    method: Method
    rank: int
    alpha: float
    where: tuple[str, ...]

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        layers = holding(encoder, self.where)
        if not layers:
            known = sorted({name.split(".")[-1] for name in holding(encoder, ())})
            instead = f"its layers are called {', '.join(known)}" if known else "it has no linear layer and no convolution"
            chosen = f" called {' or '.join(self.where)}" if self.where else ""
            raise SpecError(f"lora: {encoder.card.name} has no layer{chosen} to adapt; {instead}")
        inner = self.method.begin(encoder, data, images)
        if isinstance(inner, LoRALearner):
            raise SpecError(f"lora cannot wrap {name_of(self.method)}, which itself chooses the weights to train")
        return LoRALearner(inner, [Adapter(layer, self.rank, self.alpha / self.rank) for layer in layers.values()])


def holding(encoder: Encoder, where: tuple[str, ...]) -> dict[str, HELD]:
    """Linear layers and ungrouped convolutions of the encoder's body, by name; where: only names with one of these in it."""
    return {
        name: part
        for name, part in encoder.body.named_modules()
        if isinstance(part, HELD) and getattr(part, "groups", 1) == 1 and (not where or any(one in name for one in where))
    }


@register
def lora(method: Method, rank: int = 8, alpha: float = 16.0, where: tuple[str, ...] = ()) -> Method:
    """LoRA (Hu et al., ICLR 2022) around a method: the encoder's weights are W + alpha / rank B A, only A and B are trained.

    rank: of each addition, at most the layer's own. where: parts of the names of the layers that are adapted, such as
    ("qkv", "fc1"); all of them by default. A convolution's weight is treated as a matrix [out, in * height * width]. Norms
    and biases are frozen; batch norm statistics are updated as in the method. The encoder that is saved has ordinary
    weights.
    """
    if rank < 1 or alpha <= 0:
        raise SpecError(f"lora: rank is {rank} and alpha {alpha:g}; rank must be at least 1 and alpha above 0")
    return LoRA(method, rank, alpha, where)
