"""Sliding windows: a map of a large image, put together from overlapping windows of the size that a model is good at.

What is averaged where windows overlap are logits. The mean of probabilities is no logit: a cross-entropy on it is bounded, and
its gradient vanishes wherever the model is sure, so that an attack stalls (quirks A4 and D3). All of it is differentiable and is
part of what is attacked. Each window is read once, and all images of a batch with it (quirks D1 and D2).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, in pixels: every `stride`, and the last one so that it ends with the side."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def slide(x: Tensor, run: Callable[[Tensor], Tensor], window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """[B, K, H, W]: at each pixel the mean of what `run` makes of the windows of x [B, 3, H, W] that it lies in.

    run: [B, 3, h, w] -> logits [B, K, h, w]. window, stride: (h, w) in pixels; a window reaches no farther than the image.
    Source: Zhao et al., CVPR 2017 (PSPNet), testing by sliding; the last window is moved back to end with the image, so none
    is padded.
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
