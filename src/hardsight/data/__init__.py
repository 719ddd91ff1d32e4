"""Images and their targets: made scenes, folders, CIFAR-10, CamVid, RGB-D frames; one reader a file."""

from __future__ import annotations

from hardsight.catalog import build
from hardsight.data.base import Data, DataCard, Images, Sample
from hardsight.spec import Call

__all__ = ["Data", "DataCard", "Images", "Sample", "open_data"]


def open_data(spec: str | Call) -> Data:
    """The data that a spec names: `made(size=32)`, `cifar10:~/data`, `camvid:PATH(size=[180, 240])`.

    Raises `SpecError` for a spec that names none, `DataError` for a place that doesn't hold what its format says.
    """
    return build(spec, "Data")
