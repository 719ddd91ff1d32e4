"""A set of one's own: images, and beside each one a mask or a depth map, wherever they lie; patterns say which belong together.

pairs('SET/images/*.jpg', masks='SET/masks/*_mask.png', classes=['background', 'road', 'car'])
pairs('SET/{split}/*.tif', masks='SET/{split}_labels/*.gif', ids={'background': 0, 'vessel': 255})
pairs('SET/*/rgb.png', masks='SET/*/colours.png', ids={'car': [64, 0, 128], 'road': [128, 64, 128]}, ignore=[0, 0, 0])
pairs('SET/rgb/*.png', depths='SET/depth/*.png', unit=1/5000)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, Data, DataCard
from hardsight.data.depths import UNITS, Metres
from hardsight.data.drawn import drawn
from hardsight.data.globs import common_folder, paired
from hardsight.data.images import check_size, fit, open_depth, open_image, shared_size
from hardsight.data.masks import read_colours, read_mask, same_size, table_of_ids
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

ORDER = ("train", "val", "test")


class Classes:
    """Which class a mask's stored value is: ids of one channel, or colours (red, green, blue)."""

    def __init__(self, classes: tuple[str, ...], ids: dict[str, Any] | None, ignore: Any) -> None:
        if bool(classes) == bool(ids):
            raise DataError(
                "pairs with masks needs either classes=['background', 'road'], whose ids are 0, 1, ..., or "
                "ids={'background': 0, 'road': 255}, where ids may also be colours [red, green, blue]"
            )
        given: list[Any] = list(ids.values()) if ids else list(range(len(classes)))
        values = {_value(value): number for number, value in enumerate(given)}
        self.names = tuple(map(str, ids)) if ids else classes
        self.coloured = any(isinstance(value, tuple) for value in values)
        ignored = self._ignored(ignore, values)
        if len(values) < len(self.names) or any(isinstance(one, tuple) != self.coloured for one in (*values, *ignored)):
            raise DataError(
                f"ids={ids} and ignore={ignore} must be numbers, each once, or colours [red, green, blue], each once"
            )
        self.values: dict[Any, int] = {**values, **dict.fromkeys(ignored, IGNORE)}
        self.expected = (
            "the values in ids= are " + ", ".join(f"{_shown(one)} ({self.names[k]})" for one, k in list(values.items())[:8])
            + ", ..." * (len(values) > 8) + (f" and in ignore= {', '.join(map(_shown, ignored))}" if ignored else "")
        )  # fmt: skip
        if not self.coloured:
            self.table = table_of_ids(values, ignored)

    def _ignored(self, ignore: Any, values: dict[Any, int]) -> list[Any]:
        if ignore is None:
            return [] if self.coloured or IGNORE in values else [IGNORE]
        several: Any = (ignore,) if isinstance(ignore, int) else ignore
        if self.coloured and all(isinstance(part, int) for part in several):
            several = (ignore,)
        ignored = [_value(value) for value in several]
        if twice := [value for value in ignored if value in values]:
            raise DataError(f"{_shown(twice[0])} is in ids= and in ignore=; it must be in one of them")
        return ignored

    def __call__(self, path: Path) -> np.ndarray:
        """The class map of a mask, uint8 [H, W]."""
        if self.coloured:
            return read_colours(path, self.values, self.expected)
        return read_mask(path, self.table, self.expected, three=True)


@register
def pairs(
    images: str,
    masks: str | None = None,
    depths: str | None = None,
    classes: tuple[str, ...] = (),
    ids: dict[str, Any] | None = None,
    ignore: Any = None,
    unit: float | None = None,
    max_depth: float = 10.0,
    size: int | tuple[int, int] | None = None,
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """Images with a mask or a depth map each, found by patterns: pairs('SET/img/*.jpg', masks='SET/gt/*.png', classes=...).

    Files whose text in place of the wildcards (`*`, `?`, `**/`) is the same belong together; {split} in a pattern stands for
    train, val or test. classes: names of the ids 0, 1, ... of masks. ids: instead, the stored value of each class, a number
    or a colour [red, green, blue]. ignore: values without a class; None is 255, unless 255 is a class. unit: metres per
    stored depth value, required with depths. max_depth, metres: values beyond it count as not measured, as do zeros. size:
    (h, w), or an int: resize the shorter side to it, then centre crop; masks and depth use nearest neighbour. test, seed:
    the share of images that is drawn for testing, if the patterns have no {split}. Raises `DataError`: for files that lack
    their pair at once, for invalid ones when they are read.
    """
    check_size(size)
    if masks is None and depths is None:
        raise DataError("pairs needs masks= or depths=, the pattern of the files that belong to the images")
    what = Classes(classes, ids, ignore) if masks is not None else None
    if depths is not None and unit is None:
        raise DataError(f"pairs with depths needs unit=, the metres that one stored value stands for: {UNITS}")
    metres = Metres(max_depth, unit, None) if unit is not None else None
    patterns = {name: text for name, text in (("images", images), ("masks", masks), ("depths", depths)) if text is not None}
    parts = paired(patterns)
    if "" in parts:
        parts = {name: [parts[""][n] for n in places] for name, places in drawn(len(parts[""]), test, seed).items()}
    place = common_folder(list(patterns.values()))

    def split(items: list[tuple[Path, ...]]) -> Files:
        def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            path, *others = items[number]
            image, target = open_image(path), {}
            if what is not None:
                mask = what(others[0])
                same_size(others[0], mask, image)
                target["mask"] = fit(mask, size, nearest=True)
            if metres is not None and depths is not None:
                target["depth"] = fit(metres(open_depth(others[-1]), image, str(others[-1])), size, nearest=True)
            return fit(image, size), target

        return Files([path.absolute().relative_to(place).as_posix() for path, *_ in items], read)

    card = DataCard(
        name=place.name,
        targets=("mask",) * (masks is not None) + ("depth",) * (depths is not None),
        size=shared_size(size, lambda: [path for items in parts.values() for path, *_ in items]),
        mask_classes=what.names if what else (),
        max_depth=float(max_depth) if depths is not None else 0.0,
        unit=unit or 0.0,
        source="pairs of files",
    )
    return Data(card, {name: split(parts[name]) for name in ORDER if name in parts})


def _value(value: Any) -> Any:
    """A stored value: 0 to 255, or a colour of three such; `DataError` for anything else."""
    colour = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(colour) not in (1, 3) or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v <= 255 for v in colour):
        raise DataError(
            f"{value!r} is not what a mask stores: a number from 0 to 255, or a colour [red, green, blue] of these"
        )
    return colour if len(colour) == 3 else colour[0]


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
