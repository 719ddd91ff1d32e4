"""Images and their targets: synthetic scenes, image folders, CIFAR-10, CamVid, RGB-D frames; one reader per file."""

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
    """Opens the data set that a spec names: `made(size=32)`, `cifar10:~/data`, `camvid:PATH(size=[180, 240])`.

    Raises `SpecError` if the spec names no data set, `DataError` if the path does not contain what the format requires.
    """
    return build(spec, "Data")


def load_images(data: Data | str | Call, target: str, count: int, split: str = "") -> tuple[Tensor, Tensor]:
    """`count` images of a split, float32 [B, 3, H, W] in [0, 1], and their targets of that name ("label", "mask", "depth").

    They are the same images, in the same order, that a benchmark with this count uses. split: "" is test, or val where the
    labels of test are not published.
    """
    from hardsight.data.feed import choose, load, pixels

    opened = open_data(data) if isinstance(data, str | Call) else data
    if target not in opened.card.targets:
        raise DataError(f"{opened.card.name} has no {target}; its targets are: {', '.join(opened.card.targets) or 'none'}")
    part = opened.split(opened.measured_on(split))
    batch = load(part, choose(part, count))
    return pixels(batch.images, "cpu"), batch.target[target]
