"""ImageNet-1k (ILSVRC 2012) however it lies on a disk; a label is always the place of its WordNet id among the sorted 1,000.

    train/<wnid>/*.JPEG  val/<wnid>/*.JPEG     folders of classes
    val/ILSVRC2012_val_*.JPEG                  a flat val/, with LOC_val_solution.csv or ILSVRC2012_devkit_t12/ beside it
    ILSVRC/Data/CLS-LOC/{train,val}            as Kaggle packs it, with its LOC_val_solution.csv above
    data/train-*.parquet data/validation-*     as Hugging Face packs it

A disk with some of the classes keeps the labels of the whole, so that a model's own classifier fits; for a set of its own,
such as ImageNet-100, take `folder`.
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
from hardsight.data.images import check_size, contents, first_few, folder_at, list_images, shared_size
from hardsight.data.labelled import Item, labelled
from hardsight.data.lazy import Lazy
from hardsight.data.lists import lines_of, table_of
from hardsight.data.parquet import Shards, by_split, row_size, rows
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
        by_hand="with an account there take ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, "
        "or, once its terms are accepted, download ILSVRC/imagenet-1k from the Hugging Face hub",
    )
}


@register
def imagenet(root: str, size: int | tuple[int, int] | None = None) -> Data:
    """ImageNet-1k, 1,000 classes, as folders of classes, with a flat val/, as Kaggle or as Hugging Face packs it.

    size: (h, w), or a number: the shorter side is resized to it and the centre cut out; its images differ in size, so one is
    needed. Splits train and val, as far as they are there; each is listed when it is first used. Class names are timm's.
    Source: Russakovsky et al., 2015. Raises `DataError`, `MissingDependency` (pyarrow, or scipy to read the devkit).
    """
    check_size(size)
    place = folder_at(root, EXPECTED)
    wnids, names = classes()
    base = next((inner for inner in (place / "ILSVRC/Data/CLS-LOC", place / "Data/CLS-LOC") if inner.is_dir()), place)
    found = [name for name in SPLITS if (base / name).is_dir()]
    listing = {name: functools.cache(functools.partial(_items, place, base / name, wnids)) for name in found}
    shards = {} if listing else _shards(place)
    if not listing and not shards:
        raise DataError(f"{place} holds no ImageNet; expected {EXPECTED}, found {contents(place)}")
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


@functools.cache
def classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1,000 WordNet ids in the order of their labels, and each one's first name, from the lists that timm carries."""
    located = importlib.util.find_spec("timm")  # not imported: only its lists are read, and timm brings torch
    folder = Path(located.origin).parent / "data" / "_info" if located and located.origin else Path("timm")
    if not (folder / "imagenet_synsets.txt").is_file():
        raise MissingDependency("imagenet needs the lists of classes that timm carries: pip install 'timm>=1.0.15'")
    wnids = lines_of(folder / "imagenet_synsets.txt")
    names = dict(line.split("\t", 1) for line in lines_of(folder / "imagenet_synset_to_lemma.txt"))
    return tuple(wnids), tuple(names[wnid].split(",")[0] for wnid in wnids)


def _shards(place: Path) -> dict[str, Callable[[], Shards]]:
    """What opens the parquet files of each split that has labels."""
    names = [path.relative_to(place).as_posix() for path in place.rglob("*.parquet")]
    listed = by_split(names, str(place)) if names else {}
    opened = {split: [place / name for name in listed[split]] for split in SPLITS if split in listed}
    return {split: functools.cache(functools.partial(Shards, paths, "imagenet")) for split, paths in opened.items()}


def _items(place: Path, folder: Path, wnids: tuple[str, ...]) -> list[Item]:
    """Every image of a split and its label, class by class, or in the files' order where the folder is flat."""
    index = {wnid: number for number, wnid in enumerate(wnids)}
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not below:
        return _flat(place, folder, index)
    if strangers := [path.name for path in below if path.name not in index]:
        raise DataError(
            f"{folder} has folders that are none of ImageNet's classes: {first_few(strangers)}; take folder: for them"
        )
    return [(path, index[inner.name]) for inner in below for path in list_images(inner)]


def _flat(place: Path, folder: Path, index: dict[str, int]) -> list[Item]:
    """The images of a folder without classes, by what says which is which."""
    paths = list_images(folder)
    if solution := _beside(place, folder, SOLUTION):
        truth = _from_solution(solution)
    elif devkit := _beside(place, folder, f"{DEVKIT}/data/{TRUTH}", f"data/{TRUTH}", TRUTH):
        truth = _from_devkit(devkit)
    else:
        raise DataError(
            f"{folder} is flat, so its labels are wanted beside it: {SOLUTION}, or {DEVKIT}/data/ with {TRUTH} and meta.mat"
        )
    for path in paths:
        if truth.get(path.stem) not in index:
            raise DataError(f"{path} has no class of ImageNet in {solution or devkit}")
    return [(path, index[truth[path.stem]]) for path in paths]


def _beside(place: Path, folder: Path, *names: str) -> Path | None:
    """The first of these files in the folder, in one that holds it, or in the root or the folder that holds that."""
    where = dict.fromkeys((place, folder, folder.parent, place.parent))
    return next((file for inner in where for name in names if (file := inner / name).is_file()), None)


def _from_solution(file: Path) -> dict[str, str]:
    """WordNet id by image, from Kaggle's table: ImageId, and PredictionString that starts with the id."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(text)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, IndexError, AttributeError, TypeError) as error:
        told = f"{type(error).__name__} {error}"
        raise DataError(f"{file} is not Kaggle's table with ImageId and PredictionString: {told}") from None


def _from_devkit(file: Path) -> dict[str, str]:
    """WordNet id by image: a line an image with ILSVRC's own number of the class, which meta.mat translates."""
    synsets = table_of(file.with_name("meta.mat"), "synsets", "imagenet's devkit")
    wnid = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets}
    numbers = lines_of(file)
    if strange := [line for line in numbers if not line.isdigit() or int(line) not in wnid]:
        raise DataError(f"{file} has the class '{strange[0]}', which meta.mat does not know")
    return {FLAT.format(place): wnid[int(line)] for place, line in enumerate(numbers, 1)}
