"""Data sets of the Hugging Face hub by name, or a folder of parquet files: `hfdata:uoft-cs/cifar100(label=fine_label)`.

They are read as parquet, which the hub stores or creates for every public data set; no code from a repository is executed.
Files are downloaded to the hub's own cache when a split is first used; HF_HUB_OFFLINE is respected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.images import check_size, expand
from hardsight.data.lazy import Lazy, need
from hardsight.data.parquet import Shards, by_split, row_size, rows
from hardsight.data.preprocess import Preprocess
from hardsight.data.splits import Files
from hardsight.specs.catalog import build, register
from hardsight.specs.syntax import Call

CONVERTED = "refs/convert/parquet"
"""The branch with the hub's own parquet conversion of a data set."""


@register
def hfdata(
    name: str,
    size: int | tuple[int, int] | Preprocess | None = None,
    image: str | None = None,
    label: str | None = None,
    mask: str | None = None,
    depth: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    mask_classes: int = 0,
    max_depth: float = 10.0,
    unit: float = 0.001,
) -> Data:
    """A data set of the Hugging Face hub, or a folder of its parquet files: label, mask or depth, by column name.

    name: a repository, or a folder. size: (h, w), or an int: resize the shorter side to it, then centre crop; required
    unless all images have the same size. image, label: columns; None takes the only one of that type. mask: a column of PNGs
    with ids, 0 to mask_classes - 1, and 255. depth: a column of 16-bit PNGs; unit: metres per stored value (1/256 for KITTI);
    values beyond max_depth, in metres, count as not measured. config, revision: as on the hub. Raises `DataError`, `MissingDependency` (pyarrow,
    huggingface_hub).
    """
    check_size(size)
    if mask is not None and not 1 <= mask_classes <= 255:
        raise DataError(f"hfdata:{name}: mask_classes={mask_classes}; give the number of classes in the masks, 1 to 255")
    listed, fetch = _source(name, config, revision)
    shards = functools.cache(lambda split: Shards([fetch(file) for file in listed[split]], "hfdata"))
    first = Shards([fetch(listed[min(listed, key=lambda split: len(listed[split]))][0])], "hfdata")
    features = first.features()
    image = _column(image, "Image", first.columns, features, name, mask, depth) or ""
    if not image:
        raise DataError(f"hfdata:{name} has no column of images; its columns are: {', '.join(first.columns)}; give image=")
    if label is not None or not (mask or depth):
        label = _column(label, "ClassLabel", first.columns, features, name)
    wanted = {"label": label, "mask": mask, "depth": depth}
    for column in filter(None, wanted.values()):
        if column not in first.columns:
            raise DataError(f"hfdata:{name} has no column '{column}'; its columns are: {', '.join(first.columns)}")
    card = DataCard(
        name=name.rstrip("/").rpartition("/")[2],
        targets=tuple(target for target, column in wanted.items() if column),
        size=row_size(size, first, image),
        classes=_classes(label, features, lambda: [v for split in listed for v in shards(split).values(label or "")]),
        mask_classes=tuple(str(number) for number in range(mask_classes)),
        max_depth=max_depth if depth else 0.0,
        unit=unit if depth else 0.0,
        source=f"hfdata:{name}",
    )

    def split(part: str) -> Files:
        return rows(shards(part), part, image, wanted, card, size)

    return Data(card, {part: Lazy(functools.partial(split, part)) for part in listed})


def fetch(call: Call) -> Path:
    """Downloads every split of a data set on the hub into the hub's cache."""
    data = build(call, "Data")
    for images in data.splits.values():
        len(images)
    return expand(str(call["name"]))


def _source(name: str, config: str | None, revision: str | None) -> tuple[dict[str, list[str]], Callable[[str], Path]]:
    """Parquet files by split, and a function that returns the local path of one, downloading it if needed."""
    if (place := expand(name)).is_dir():
        listed = by_split([path.relative_to(place).as_posix() for path in place.rglob("*.parquet")], name, config)
        return listed, lambda file: place / file
    if place.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(
            f"hfdata:{name} is not a folder; give one with parquet files, or a repository such as uoft-cs/cifar100"
        )
    hub = need("huggingface_hub", "hfdata", "hf")
    try:
        for branch in dict.fromkeys((revision, CONVERTED)):
            files = hub.HfApi().list_repo_files(name, repo_type="dataset", revision=branch)
            if any(file.endswith(".parquet") for file in files):
                break
    except Exception as error:  # the hub's client raises many kinds of errors, also those of its HTTP library
        raise DataError(f"hfdata:{name} can't be listed: {' '.join(str(error).split())[:200]}") from None

    def bring(file: str) -> Path:
        try:
            return Path(hub.hf_hub_download(name, file, repo_type="dataset", revision=branch))
        except Exception as error:  # as above
            raise DataError(f"hfdata:{name}: {file} can't be downloaded: {' '.join(str(error).split())[:200]}") from None

    return by_split(files, f"hfdata:{name}", config), bring


def _column(
    asked: str | None, kind: str, columns: list[str], features: dict[str, Any], name: str, *others: str | None
) -> str | None:
    """The requested column, or else the only one whose feature has that type; None if there is none."""
    if asked is not None:
        if asked not in columns:
            raise DataError(f"hfdata:{name} has no column '{asked}'; its columns are: {', '.join(columns)}")
        return asked
    fitting = [column for column, what in features.items() if isinstance(what, dict) and what.get("_type") == kind]
    fitting = [column for column in fitting if column not in others]
    if len(fitting) > 1:
        option = "image" if kind == "Image" else "label"
        raise DataError(f"hfdata:{name} has several such columns: {', '.join(fitting)}; give {option}=")
    plain = "image" if kind == "Image" else "label"
    return fitting[0] if fitting else plain if plain in columns else None


def _classes(label: str | None, features: dict[str, Any], values: Callable[[], list[Any]]) -> tuple[str, ...]:
    """The class names from the schema, or else numbers up to the largest existing label."""
    if label is None:
        return ()
    names = features.get(label, {}).get("names") if isinstance(features.get(label), dict) else None
    if names:
        return tuple(str(name) for name in names)
    found = [value for value in values() if isinstance(value, int)]
    return tuple(str(number) for number in range(max(found, default=-1) + 1))
