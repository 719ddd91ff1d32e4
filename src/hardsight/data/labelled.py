"""Images with one class each: the code that all classification formats share, once they know the class of each file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardsight.data.images import Size, open_image
from hardsight.data.splits import Files

Item = tuple[Path, int]
"""The file of an image and its class; -1 if it has no label."""


def labelled(root: Path, items: Sequence[Item], size: Size) -> Files:
    """A split of image files, read on demand; the ids are their paths relative to root."""

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        path, label = items[place]
        return open_image(path), {} if label < 0 else {"label": np.array(label)}

    return Files([path.relative_to(root).as_posix() for path, _ in items], read, size=size)
