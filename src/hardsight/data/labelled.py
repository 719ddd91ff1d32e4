"""Images with a class each: the part that all classification formats share once they know which file has which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardsight.data.images import Size, fit, open_image
from hardsight.data.splits import Files

Item = tuple[Path, int]
"""An image's file and its class; -1 where nobody tells."""


def labelled(root: Path, items: Sequence[Item], size: Size) -> Files:
    """A split of files, its ids their paths below root, that are read when they are looked at."""

    def read(place: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        path, label = items[place]
        return fit(open_image(path), size), {} if label < 0 else {"label": np.array(label)}

    return Files([path.relative_to(root).as_posix() for path, _ in items], read)
