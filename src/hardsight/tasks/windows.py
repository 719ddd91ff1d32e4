"""Sliding-window inference: the output map of a large image from overlapping windows of the size that suits the model.

Where windows overlap, logits are averaged, not probabilities: a cross-entropy on mean probabilities is bounded, and its
gradient vanishes where the model is confident, so that an attack stalls (quirks A4 and D3). All steps are differentiable and
part of the attacked model. Each window takes one forward pass for all images of a batch (quirks D1 and D2).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def starts(side: int, window: int, stride: int) -> list[int]:
    """Start positions of the windows along a side, in pixels: every `stride`, and a last window that ends with the side."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def slide(x: Tensor, run: Callable[[Tensor], Tensor], window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """[B, K, H, W]: at each pixel the mean output of `run` over the windows of x [B, 3, H, W] that contain it.

    run: [B, 3, h, w] -> logits [B, K, h, w]. window, stride: (h, w) in pixels; a window is at most as large as the image.
    Source: Zhao et al., CVPR 2017 (PSPNet), sliding-window testing; the last window is shifted back to end with the image,
    so none is padded.
    """
    sides = x.shape[-2:]
    high, wide = (min(one, side) for one, side in zip(window, sides, strict=True))
    corners = list(product(*(starts(side, one, step) for side, one, step in zip(sides, window, stride, strict=True))))
    total, count = None, x.new_zeros(sides, dtype=torch.float32)
    for top, left in corners:
        place = (..., slice(top, top + high), slice(left, left + wide))
        logits = run(x[place])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *sides)
        total[place] += logits
        count[place] += 1
    assert total is not None
    return total / count
