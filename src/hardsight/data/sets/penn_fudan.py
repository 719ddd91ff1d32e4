"""Penn-Fudan pedestrians: PNGImages/*.png, and in PedMasks/ a *_mask.png for each, in which every person has an id.

It is small (170 images, 345 people) and its ground truth is exact, so it is a good first set for a detector. Each id gives
one bounding box; the mask separates people from background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.boxes import around, boxed
from hardsight.data.get import Published
from hardsight.data.images import check_size, contents, fit, folder_at, list_images, open_image, open_mask, shared_size
from hardsight.data.masks import same_size
from hardsight.data.sets.folder import divide
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

FOLDER = "PennFudanPed"
PUBLISHED = {
    "penn_fudan": Published(
        "https://www.cis.upenn.edu/~jshi/ped_html/",
        {"train": 136, "test": 34},
        files=((f"https://www.cis.upenn.edu/~jshi/ped_html/{FOLDER}.zip", ""),),
    )
}


@register
def penn_fudan(root: str, size: int | tuple[int, int] | None = None, test: float = 0.2) -> Data:
    """Penn-Fudan, people in the street: boxes and masks, from the folder `PennFudanPed` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop; required, because the images differ in size.
    test: the share of images in the test split, selected by a hash of their names, because there is no published split.
    Source: Wang, Shi, Song and Shen, 2007. Raises `DataError`.
    """
    check_size(size)
    expected = f"the folder {FOLDER} or its parent, with PNGImages/ and PedMasks/"
    place = folder_at(root, expected)
    place = place / FOLDER if (place / FOLDER).is_dir() else place
    if not (place / "PNGImages").is_dir():
        raise DataError(f"{place} contains no Penn-Fudan; expected {expected}, found {contents(place)}")
    paths = list_images(place / "PNGImages")
    for path in paths:
        if not _mask(path).is_file():
            raise DataError(f"{path} has no mask: expected the file {_mask(path)}")

    def split(names: list[str]) -> Files:
        def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            path = place / names[number]
            image, people = open_image(path), open_mask(_mask(path))
            same_size(_mask(path), people, image)
            boxes = around(people)
            mask = fit((people > 0).astype(np.uint8), size, nearest=True)
            return fit(image, size), {"mask": mask, **boxed(boxes, [0] * len(boxes), image.shape, size, str(_mask(path)))}

        return Files(names, read)

    card = DataCard(
        name="Penn-Fudan",
        targets=("mask", "boxes"),
        size=shared_size(size, lambda: paths),
        classes=("person",),
        mask_classes=("background", "person"),
        source="Wang, Shi, Song and Shen, 2007",
    )
    parts = divide([(path.relative_to(place).as_posix(), 0) for path in paths], test)
    return Data(card, {name: split([path for path, _ in items]) for name, items in parts.items() if items})


def _mask(path: Path) -> Path:
    return path.parent.parent / "PedMasks" / f"{path.stem}_mask.png"
