"""Targets are trees: a tensor, or a list, tuple or dict of trees. Here are the functions that map over them and index them.

A list is a batch of ragged targets (one dict of boxes per image) and is indexed along the batch; tuples and dicts are
structure. An object with its own `each` and `[index]`, such as a detector's output, is a tree too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tree = Any


def each(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """The tree with `function` applied to every tensor in it; other leaves are unchanged."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: each(value, function) for key, value in tree.items()}
    if hasattr(tree, "each"):
        return tree.each(function)
    if isinstance(tree, tuple | list):
        parts = [each(value, function) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def take(tree: Tree, index: Tensor) -> Tree:
    """The images that `index` (a mask [B] or positions) selects, taken from every tensor and list of the tree."""
    if isinstance(tree, Tensor):
        return tree[index]
    if isinstance(tree, list):
        chosen = index.nonzero().flatten() if index.dtype == torch.bool else index
        return [tree[int(place)] for place in chosen]
    if isinstance(tree, dict):
        return {key: take(value, index) for key, value in tree.items()}
    if hasattr(tree, "each"):
        return tree[index]
    if isinstance(tree, tuple):
        return (
            type(tree)(*(take(v, index) for v in tree)) if hasattr(tree, "_fields") else tuple(take(v, index) for v in tree)
        )
    return tree


def where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per image: `yes` where `mask` [B] is true, else `no`; both [B, ...]. May return an input itself: don't write into it.

    On a CPU only the images that change are copied: broadcasting the mask over all values takes six times as long.
    """
    if yes.device.type != "cpu" or yes.dim() == 1 or yes.dtype != no.dtype:
        return torch.where(mask.view(-1, *[1] * (yes.dim() - 1)), yes, no)
    count = int(mask.sum())
    if 2 * count > len(mask):
        mask, yes, no, count = ~mask, no, yes, len(mask) - count
    if not count:
        return no
    places = mask.nonzero().flatten()
    return no.index_copy(0, places, yes.index_select(0, places))


def some(mask: Tensor) -> bool:
    """Whether any value of the mask is True; elsewhere than on a CPU, where the host would wait for the answer, True unasked."""
    return mask.device.type != "cpu" or bool(mask.any())


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; elsewhere than on a CPU, where the host would wait for the answer, False unasked."""
    return one.device.type == "cpu" and torch.equal(one, other)


def move(tree: Tree, device: torch.device | str) -> Tree:
    """The tree on the device; the host does not wait for what it sends there, but for what it fetches."""
    sent = torch.device(device).type != "cpu"
    return each(tree, lambda tensor: tensor.to(device, non_blocking=sent))
