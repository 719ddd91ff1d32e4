"""Corrections of the negatives' push as a whole, for its share of false ones and towards hard ones; they detect none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.training.criteria.negatives.base import Negatives, Pairs, Treated, pushed


@register
def debiased(tau_plus: float = 0.1) -> Negatives:
    """Debiased: the push minus the expected contribution of false negatives, estimated from the partner.

    tau_plus: the share of pairs that are of one class. Source: Chuang et al., NeurIPS 2020, equations 7-8, with one
    positive.
    """
    return hard(0.0, tau_plus)


@register
def hard(beta: float = 1.0, tau_plus: float = 0.1) -> Negatives:
    """Hard negatives: the most similar negatives push most, debiased.

    A negative's weight is exp(beta cosine / temperature), over its mean. beta=0 is `debiased`, and with tau_plus=0 too it is
    NT-Xent. Source: Robinson et al., ICLR 2021, equations 3-5.
    """
    if not 0 <= tau_plus < 1 or beta < 0:
        raise SpecError(
            f"hard, debiased: beta is {beta} and tau_plus {tau_plus}; beta must be at least 0, tau_plus in [0, 1)"
        )

    def treat(pairs: Pairs) -> Treated:
        count = pairs.other.sum(1).clamp_min(1).to(pairs.cosine)
        push = pushed((1 + beta) * pairs.logits, pairs.other)
        if beta:
            push = push - pushed(beta * pairs.logits, pairs.other) + count.log()
        if tau_plus:
            least = count.log() - 1 / pairs.temperature
            push = _less(push, pairs.partner, tau_plus * count) - math.log(1 - tau_plus)
            push = torch.maximum(push, least)
        return Treated(push)

    return Negatives(lambda images, dim: treat)


def _less(push: Tensor, partner: Tensor, count: Tensor) -> Tensor:
    """log(exp(push) - count exp(partner)); -inf where that is not positive."""
    share = (partner - push + count.log()).clamp_max(0).exp()
    return torch.where(share < 1, push + torch.log1p(-share.clamp_max(1 - 1e-6)), -torch.inf)
