"""Parts drawn by a seed, for a set of one's own that comes without any: the same images for the same seed and number.

Here and in `splits`, torch is imported where it is used, so that a folder that is missing is noticed without it.
"""

from __future__ import annotations

from hardsight.core.errors import DataError


def drawn(count: int, test: float, seed: int) -> dict[str, list[int]]:
    """The places 0 to count - 1, as train and test: the share `test` is drawn, and both keep the order of the places.

    Of several images at least one is in each part, unless the share is 0 or 1; a part without images is left out. Raises
    `DataError` for another share.
    """
    import torch

    from hardsight.core import seeds

    if not 0 <= test <= 1:
        raise DataError(f"test={test}: the share of images to test on must be between 0 and 1")
    wanted = round(test * count)
    if 0 < test < 1 and count > 1:
        wanted = min(max(wanted, 1), count - 1)
    order = torch.randperm(count, generator=seeds.generator("parts", seed)).tolist()
    parts = {"train": sorted(order[wanted:]), "test": sorted(order[:wanted])}
    return {name: places for name, places in parts.items() if places}
