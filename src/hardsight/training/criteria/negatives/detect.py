"""Detectors of false negatives: none, an oracle that uses the labels, and one that uses further views of the anchor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import register
from hardsight.training.criteria.base import need_labels
from hardsight.training.criteria.negatives.base import Negatives, Pairs, Treated, pushed, without


@register
def all_negatives() -> Negatives:
    """Plain SimCLR: every view of every other image is a negative."""
    return Negatives(lambda images, dim: _all)


def _all(pairs: Pairs) -> Treated:
    return Treated(pushed(pairs.logits, pairs.other))


@register
def oracle(share: float = 1.0, mode: Literal["eliminate", "attract"] = "eliminate") -> Negatives:
    """Oracle with labels: false negatives are removed, or (attract) pulled in, which is SupCon.

    share: of all pairs of images of one class, the part that is treated; which pairs depends only on their indices in the
    training split, so they are the same in every epoch, and a larger share contains a smaller one. It is used to measure
    paper 001's claim (robustness lost to false negatives).
    """
    if not 0 <= share <= 1:
        raise SpecError(f"oracle: share is {share}; it must be between 0 and 1")

    def treat(pairs: Pairs) -> Treated:
        false = need_labels(pairs.same, "oracle")
        if share < 1:
            rows, columns = pairs.places
            false = false & (drawn(rows[:, None], columns) < share).repeat(2, 1)
        return without(pairs, false, mode)

    return Negatives(lambda images, dim: treat, needs_labels=True)


def drawn(one: Tensor, two: Tensor) -> Tensor:
    """A number in [0, 1) for each pair of indices, the same in both orders: a hash, uniform over pairs."""
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
    """FNC: the negatives most similar to further views of the anchor are false.

    A negative's score is its largest (or mean) cosine to `support` further views, embedded without a gradient. A suspect is
    among the `top` scores and above the threshold. support=0: the anchor's own two views are used.
    Source: Huynh et al., WACV 2022, sections 3.1-3.3. differs: google-research/fnc also uses the support views as anchors
    and negatives, and the anchor's own views along with them.
    """
    if support < 0 or top < 1 or not -1 <= threshold <= 1:
        raise SpecError(
            f"fnc: support {support}, top {top} and threshold {threshold}; they must be at least 0, at least 1, a cosine"
        )
    return Negatives(lambda images, dim: lambda pairs: without(pairs, _alike(pairs, top, threshold, score), mode), support)


@torch.no_grad()
def _alike(pairs: Pairs, top: int, threshold: float, score: Literal["max", "mean"]) -> Tensor:
    """[R, N]: negatives whose score is among the row's `top` and above the threshold."""
    each = pairs.cosine.unflatten(0, (2, -1)) if pairs.support is None else pairs.support @ pairs.columns.T
    scores = (each.amax(0) if score == "max" else each.mean(0)).repeat(2, 1)
    scores = scores.masked_fill(~pairs.other, -torch.inf)
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return torch.zeros_like(pairs.other).scatter(1, best, True) & (scores > threshold)
