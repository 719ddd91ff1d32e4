"""Detectors of false negatives: none, one that is told the labels, and one that asks further views of the anchor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.training.criteria.base import told
from hardsight.training.criteria.negatives.base import Negatives, Pairs, Treated, pushed, without


@register
def all_negatives() -> Negatives:
    """SimCLR's own: every view of every other image pushes."""
    return Negatives(lambda images: _all)


def _all(pairs: Pairs) -> Treated:
    return Treated(pushed(pairs.logits, pairs.other))


@register
def oracle(share: float = 1.0, mode: Literal["eliminate", "attract"] = "eliminate") -> Negatives:
    """Told the labels: false negatives do not push, or (attract) are pulled in, which is SupCon.

    share: of all pairs of images of one class, that much is treated; which ones depends on their places in the training
    split alone, so they are the same in every epoch, and a larger share holds a smaller one. It is what paper 001's claim
    (robustness lost to false negatives) is measured with.
    """
    if not 0 <= share <= 1:
        raise SpecError(f"oracle: share is {share}; it is between 0 and 1")

    def treat(pairs: Pairs) -> Treated:
        false = told(pairs.same, "oracle")
        if share < 1:
            rows, columns = pairs.places
            false = false & (drawn(rows[:, None], columns) < share).repeat(2, 1)
        return without(pairs, false, mode)

    return Negatives(lambda images: treat, told=True)


def drawn(one: Tensor, two: Tensor) -> Tensor:
    """A number in [0, 1) for each pair of places, the same in both orders: a hash, uniform over pairs."""
    low, high = torch.minimum(one, two).long(), torch.maximum(one, two).long()
    bits = (low * 0x9E3779B1 + high * 0x85EBCA77 + 0x165667B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x68BC21EB), (16, 1)):
        bits = ((bits ^ (bits >> shift)) * factor) & 0xFFFFFFFF
    return bits.double() / 2**32


@register
def fnc(
    support: int = 8,
    top: int = 10,
    threshold: float = 0.7,
    score: Literal["max", "mean"] = "max",
    mode: Literal["eliminate", "attract"] = "eliminate",
) -> Negatives:
    """FNC: the negatives most alike to further views of the anchor are false.

    Of `support` further views, embedded without a gradient, the greatest (or mean) cosine to a negative is its score. Suspect is
    what is among the `top` scores and above the threshold. support=0: the anchor's own two views are asked.
    Source: Huynh et al., WACV 2022, sections 3.1-3.3. differs: google-research/fnc lets the support views be anchors and
    negatives themselves, and asks the anchor's own views along with them.
    """
    if support < 0 or top < 1 or not -1 <= threshold <= 1:
        raise SpecError(
            f"fnc: support {support}, top {top} and threshold {threshold}; they are at least 0, at least 1, a cosine"
        )
    return Negatives(lambda images: lambda pairs: without(pairs, _alike(pairs, top, threshold, score), mode), support)


@torch.no_grad()
def _alike(pairs: Pairs, top: int, threshold: float, score: Literal["max", "mean"]) -> Tensor:
    """[R, N], negatives whose score is among the row's `top` and above the threshold."""
    each = pairs.cosine.unflatten(0, (2, -1)) if pairs.support is None else pairs.support @ pairs.columns.T
    scores = (each.amax(0) if score == "max" else each.mean(0)).repeat(2, 1)
    scores = scores.masked_fill(~pairs.other, -torch.inf)
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return torch.zeros_like(pairs.other).scatter(1, best, True) & (scores > threshold)
