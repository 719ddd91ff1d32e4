"""Progress within a batch: an attack on one may take minutes, so the passes of its encoder are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def counted(encoder: nn.Module, whole: int, advance: Callable[[int], None]) -> Iterator[None]:
    """Within it, calls `advance` with the number of images of each forward pass of the encoder, together at most `whole`.

    At the end, unless an error ended it, with the rest: an attack may need fewer passes than it has at most.
    """
    left = whole

    def count(_: nn.Module, given: tuple[Any, ...], __: Any) -> None:
        nonlocal left
        images = min(len(given[0]), left) if given else 0
        left -= images
        if images:
            advance(images)

    hook = encoder.register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()
    if left:
        advance(left)
