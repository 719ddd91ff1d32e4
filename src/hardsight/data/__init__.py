"""Images and their targets: made scenes, folders, CIFAR-10, CamVid, RGB-D frames; one reader a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Images, Sample
from hardsight.specs.catalog import build
from hardsight.specs.syntax import Call

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Data", "DataCard", "Images", "Sample", "load_images", "open_data"]


def open_data(spec: str | Call) -> Data:
    """The data that a spec names: `made(size=32)`, `cifar10:~/data`, `camvid:PATH(size=[180, 240])`.

    Raises `SpecError` for a spec that names none, `DataError` for a place that doesn't hold what its format says.
    """
    return build(spec, "Data")


def load_images(data: Data | str | Call, target: str, count: int, split: str = "test") -> tuple[Tensor, Tensor]:
    """`count` images of a split, float32 [B, 3, H, W] in [0, 1], and their targets of that name ("label", "mask", "depth").

    They are the ones that a benchmark of that count sees, in its order.
    """
    from hardsight.data.feed import choose, load, pixels

    opened = open_data(data) if isinstance(data, str | Call) else data
    if target not in opened.card.targets:
        raise DataError(f"{opened.card.name} has no {target}; it has: {', '.join(opened.card.targets) or 'no targets'}")
    part = opened.split(split)
    batch = load(part, choose(part, count))
    return pixels(batch.images, "cpu"), batch.target[target]
