"""Optimizers as specs: the rule that turns gradients into steps; lr is the learning rate where the schedule is 1.

`spare`: biases and norms (parameters with fewer than two dimensions) are excluded from weight decay, and in LARS also from
its scaling, as in Goyal et al. (2017) and SimCLR.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register


class Optimizer(Protocol):
    def __call__(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A torch optimizer for the weights to train."""
        ...


@register
def sgd(
    lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 1e-4, spare: bool = False
) -> Optimizer:
    """SGD with momentum, plain or Nesterov."""
    _need(lr, weight_decay)
    if nesterov and not momentum:
        raise SpecError("sgd: nesterov needs a momentum above 0")
    return lambda weights: torch.optim.SGD(_groups(weights, weight_decay, spare), lr, momentum, nesterov=nesterov)


@register
def adamw(
    lr: float = 1e-3, weight_decay: float = 1e-4, betas: tuple[float, float] = (0.9, 0.999), spare: bool = False
) -> Optimizer:
    """AdamW (Loshchilov & Hutter, ICLR 2019)."""
    _need(lr, weight_decay)
    return lambda weights: torch.optim.AdamW(_groups(weights, weight_decay, spare), lr, betas)


@register
def lars(
    lr: float = 0.3, momentum: float = 0.9, weight_decay: float = 1e-6, trust: float = 1e-3, spare: bool = True
) -> Optimizer:
    """LARS (You et al., 2017): each layer's step scaled by trust * |w| / |g + weight_decay w|; timm's implementation.

    SimCLR's lr is 0.3 * batch / 256.
    """
    _need(lr, weight_decay)

    def make(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        from timm.optim.lars import Lars

        make_lars: Any = Lars  # its annotations ask for integers
        return make_lars(_groups(weights, weight_decay, spare), lr, momentum, trust_coeff=trust)

    return make


def _groups(weights: Iterable[nn.Parameter], weight_decay: float, spare: bool) -> list[dict[str, object]]:
    listed = list(weights)
    if not spare:
        return [{"params": listed, "weight_decay": weight_decay}]
    found = [
        {"params": [one for one in listed if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in listed if one.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in found if group["params"]]


def _need(lr: float, weight_decay: float) -> None:
    if lr <= 0 or weight_decay < 0:
        raise SpecError(
            f"an optimizer's lr must be above 0 and its weight_decay at least 0, not {lr:g} and {weight_decay:g}"
        )
