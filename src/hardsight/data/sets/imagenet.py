"""ImageNet-1k (ILSVRC 2012) in its common layouts; a label is always the index of its WordNet id among the sorted 1,000.

    train/<wnid>/*.JPEG  val/<wnid>/*.JPEG     class folders
    val/ILSVRC2012_val_*.JPEG                  a flat val/, with LOC_val_solution.csv or ILSVRC2012_devkit_t12/ next to it
    ILSVRC/Data/CLS-LOC/{train,val}            Kaggle's layout, with its LOC_val_solution.csv in a parent folder
    data/train-*.parquet data/validation-*     Hugging Face's layout

A folder with only some of the classes keeps the labels of the full set, so that a model's own classifier works; for a set
with its own labels, such as ImageNet-100, use `folder`.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

from hardsight.core.errors import DataError, MissingDependency
from hardsight.data.base import Data, DataCard, Images
from hardsight.data.get import Published
from hardsight.data.images import check_size, contents, first_few, folder_at, list_by_folder, list_images, shared_size
from hardsight.data.labelled import Item, labelled
from hardsight.data.lazy import Lazy
from hardsight.data.lists import lines_of, table_of
from hardsight.data.parquet import Shards, by_split, row_size, rows
from hardsight.data.preprocess import Preprocess
from hardsight.specs.catalog import register

SPLITS = ("train", "val")
EXPECTED = (
    "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or a flat val/ with its labels, or Kaggle's ILSVRC/, or data/*.parquet"
)
SOLUTION, DEVKIT = "LOC_val_solution.csv", "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
FLAT = "ILSVRC2012_val_{:08d}"
PUBLISHED = {
    "imagenet": Published(
        "https://image-net.org/challenges/LSVRC/2012/",
        {"train": 1281167, "val": 50000},
        by_hand="with an account there, download ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz, or accept the terms of ILSVRC/imagenet-1k on the Hugging Face hub and download it",
    )
}


@register
def imagenet(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """ImageNet-1k, 1,000 classes: class folders, a flat val/ with its labels, or the layouts of Kaggle and Hugging Face.

    size: (h, w), or an int: resize the shorter side to it, then centre crop, or a preprocessing, evaluation(224, 256). The
    images differ in size: a benchmark prepares them as each encoder's authors do, training draws crops from them as they
    are stored, and all else needs a size. Splits train and val, if they exist; each is listed when it is first used. Class names are timm's. Source: Russakovsky
    et al., 2015. Raises `DataError`, `MissingDependency` (pyarrow, or scipy to read the devkit).
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    wnids, names = classes()
    base = next((inner for inner in (place / "ILSVRC/Data/CLS-LOC", place / "Data/CLS-LOC") if inner.is_dir()), place)
    found = [name for name in SPLITS if (base / name).is_dir()]
    listing = {name: functools.cache(functools.partial(_items, place, base / name, wnids)) for name in found}
    shards = {} if listing else _shards(place)
    if not listing and not shards:
        raise DataError(f"{place} contains no ImageNet; expected {EXPECTED}, found {contents(place)}")
    if listing:
        real = shared_size(size, lambda: [path for items in listing.values() for path, _ in items()])
    else:
        real = row_size(size, shards[min(shards)](), "image")
    card = DataCard(
        name="ImageNet",
        targets=("label",),
        size=real,
        classes=names,
        source="Russakovsky et al., 2015",
        licence="non-commercial research, ImageNet's terms of access",
    )
    splits: dict[str, Images] = {}
    for name, items in listing.items():
        splits[name] = Lazy(lambda items=items: labelled(base, items(), size))
    for name, opened in shards.items():
        splits[name] = Lazy(lambda name=name, opened=opened: rows(opened(), name, "image", {"label": "label"}, card, size))
    return Data(card, splits)


def classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1,000 WordNet ids in the order of their labels, and the first name of each."""
    return tuple(names[0] for names in all_names()), tuple(names[1] for names in all_names())


@functools.cache
def all_names() -> tuple[tuple[str, ...], ...]:
    """For each of the 1,000 classes its WordNet id and then all its names, from the lists included in timm."""
    located = importlib.util.find_spec("timm")  # not imported: only its lists are read, and importing timm imports torch
    folder = Path(located.origin).parent / "data" / "_info" if located and located.origin else Path("timm")
    if not (folder / "imagenet_synsets.txt").is_file():
        raise MissingDependency("imagenet needs the class lists included in timm: pip install 'timm>=1.0.15'")
    wnids = lines_of(folder / "imagenet_synsets.txt")
    names = dict(line.split("\t", 1) for line in lines_of(folder / "imagenet_synset_to_lemma.txt"))
    return tuple((wnid, *(name.strip() for name in names[wnid].split(","))) for wnid in wnids)


def _shards(place: Path) -> dict[str, Callable[[], Shards]]:
    """For each split with labels, a function that opens its parquet files."""
    names = [path.relative_to(place).as_posix() for path in place.rglob("*.parquet")]
    listed = by_split(names, str(place)) if names else {}
    opened = {split: [place / name for name in listed[split]] for split in SPLITS if split in listed}
    return {split: functools.cache(functools.partial(Shards, paths, "imagenet")) for split, paths in opened.items()}


def _items(place: Path, folder: Path, wnids: tuple[str, ...]) -> list[Item]:
    """Every image of a split and its label, class by class, or in file order if the folder is flat."""
    index = {wnid: number for number, wnid in enumerate(wnids)}
    below = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not below:
        return _flat(place, folder, index)
    if strangers := [name for name in below if name not in index]:
        raise DataError(
            f"{folder} has folders that are not ImageNet classes: {first_few(strangers)}; use the spec folder:PATH for them"
        )
    return [(path, index[wnid]) for path, wnid in list_by_folder(folder, below)]


def _flat(place: Path, folder: Path, index: dict[str, int]) -> list[Item]:
    """The images of a flat folder, with labels from the solution table or the devkit."""
    paths = list_images(folder)
    if solution := _next_to(place, folder, SOLUTION):
        truth = _from_solution(solution)
    elif devkit := _next_to(place, folder, f"{DEVKIT}/data/{TRUTH}", f"data/{TRUTH}", TRUTH):
        truth = _from_devkit(devkit)
    else:
        raise DataError(
            f"{folder} has no class folders, so it needs a label file next to it: {SOLUTION}, "
            f"or {DEVKIT}/data/ with {TRUTH} and meta.mat"
        )
    for path in paths:
        if truth.get(path.stem) not in index:
            raise DataError(f"{path} has no ImageNet class in {solution or devkit}")
    return [(path, index[truth[path.stem]]) for path in paths]


def _next_to(place: Path, folder: Path, *names: str) -> Path | None:
    """The first of these files that exists in the root, the folder, or the parent of either."""
    where = dict.fromkeys((place, folder, folder.parent, place.parent))
    return next((file for inner in where for name in names if (file := inner / name).is_file()), None)


def _from_solution(file: Path) -> dict[str, str]:
    """WordNet id by image, from Kaggle's table with ImageId and a PredictionString that starts with the id."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(text)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise DataError(f"{file} is not Kaggle's table with ImageId and PredictionString: {reason}") from None


def _from_devkit(file: Path) -> dict[str, str]:
    """WordNet id by image: the file has one line per image with ILSVRC's own class number, which meta.mat maps to the id."""
    synsets = table_of(file.with_name("meta.mat"), "synsets", "imagenet's devkit")
    wnid = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets}
    numbers = lines_of(file)
    if strange := [line for line in numbers if not line.isdigit() or int(line) not in wnid]:
        raise DataError(f"{file} has the class '{strange[0]}', which meta.mat does not list")
    return {FLAT.format(place): wnid[int(line)] for place, line in enumerate(numbers, 1)}
