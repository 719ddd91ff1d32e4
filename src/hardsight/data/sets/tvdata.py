"""The transfer suite (Kornblith et al., 2019; Ericsson et al., 2021) in torchvision's layout: nine sets to probe encoders.

torchvision is used only to list the files and their classes; the images are decoded here, like all others. CIFAR-10 and
CIFAR-100 have their own reader, and VOC 2007, which has several classes per image, is `voc:PATH(what=boxes, years=[2007])`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.images import Size, check_size, contents, folder_at, shared_size
from hardsight.data.labelled import Item, labelled
from hardsight.data.lazy import Lazy, need
from hardsight.data.lists import lines_of
from hardsight.data.preprocess import Preprocess
from hardsight.data.sets.folder import divide
from hardsight.specs.catalog import register


class Set(NamedTuple):
    """A torchvision class; a folder that its root must contain; our splits -> torchvision's; title and source of the set."""

    kind: str
    marker: str
    splits: dict[str, str]
    title: str
    source: str


THREE, TWO = {"train": "train", "val": "val", "test": "test"}, {"train": "train", "test": "test"}
SETS = {
    "aircraft": Set("FGVCAircraft", "fgvc-aircraft-2013b", THREE, "FGVC Aircraft", "Maji et al., 2013"),
    "caltech101": Set("Caltech101", "caltech101/101_ObjectCategories", {}, "Caltech-101", "Fei-Fei et al., 2004"),
    "cars": Set("StanfordCars", "stanford_cars/devkit", TWO, "Stanford Cars", "Krause et al., 2013"),
    "dtd": Set("DTD", "dtd/dtd", THREE, "DTD", "Cimpoi et al., 2014"),
    "eurosat": Set("EuroSAT", "eurosat/2750", {}, "EuroSAT", "Helber et al., 2019"),
    "flowers102": Set("Flowers102", "flowers-102/jpg", THREE, "Flowers-102", "Nilsback and Zisserman, 2008"),
    "food101": Set("Food101", "food-101/images", TWO, "Food-101", "Bossard et al., 2014"),
    "pets": Set(
        "OxfordIIITPet",
        "oxford-iiit-pet/annotations",
        {"train": "trainval", "test": "test"},
        "Oxford-IIIT Pet",
        "Parkhi et al., 2012",
    ),
    "sun397": Set("SUN397", "SUN397", {}, "SUN397", "Xiao et al., 2010"),
}
NEED_SCIPY = ("cars", "flowers102")
"""The sets whose file lists are MATLAB files."""
CALTECH_TRAIN = 30
"""The number of training images per class, as in most published tables."""
PUBLISHED = {
    "aircraft": Published(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        {"train": 3334, "val": 3333, "test": 3333},
        torchvision=(("FGVCAircraft", {}),),
    ),
    "caltech101": Published("https://data.caltech.edu/records/mzrjq-6wc02", torchvision=(("Caltech101", {}),)),
    "cars": Published(
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        {"train": 8144, "test": 8041},
        by_hand="the original download is offline; from a mirror, put cars_train/, cars_test/, devkit/ and "
        "cars_test_annos_withlabels.mat into stanford_cars/ in the root",
    ),
    "dtd": Published(
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        {"train": 1880, "val": 1880, "test": 1880},
        torchvision=(("DTD", {}),),
    ),
    "eurosat": Published("https://github.com/phelber/eurosat", torchvision=(("EuroSAT", {}),)),
    "flowers102": Published(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        {"train": 1020, "val": 1020, "test": 6149},
        torchvision=(("Flowers102", {}),),
    ),
    "food101": Published(
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        {"train": 75750, "test": 25250},
        torchvision=(("Food101", {}),),
    ),
    "pets": Published(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/", {"train": 3680, "test": 3669}, torchvision=(("OxfordIIITPet", {}),)
    ),
    "sun397": Published("https://vision.princeton.edu/projects/2010/SUN/", torchvision=(("SUN397", {}),)),
}


@register
def aircraft(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """FGVC Aircraft, 100 variants of aircraft: splits train, val and test; the folder `fgvc-aircraft-2013b` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Source: Maji et al., 2013. Raises
    `DataError`.
    """
    return _opened("aircraft", root, size)


@register
def caltech101(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Caltech-101, 101 classes of objects (the background class is left out), from the folder `caltech101` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. There is no published split: here 30 images of
    each class, selected by a hash of their names, are for training, the others for testing. Source: Fei-Fei, Fergus and
    Perona, 2004. Raises `DataError`.
    """
    return _opened("caltech101", root, size)


@register
def cars(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Stanford Cars, 196 models of cars: splits train and test; the folder `stanford_cars` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Source: Krause et al., 2013. Raises
    `DataError`, `MissingDependency` (scipy).
    """
    return _opened("cars", root, size)


@register
def dtd(root: str, size: int | tuple[int, int] | Preprocess | None = None, partition: int = 1) -> Data:
    """Describable Textures, 47 classes: splits train, val and test; the folder `dtd` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. partition: which of the ten published
    splits. Source: Cimpoi et al., 2014. Raises `DataError`.
    """
    if not 1 <= partition <= 10:
        raise DataError(f"dtd: partition={partition}; it must be 1 to 10")
    return _opened("dtd", root, size, partition=partition)


@register
def eurosat(root: str, size: int | tuple[int, int] | Preprocess | None = None, test: float = 0.2) -> Data:
    """EuroSAT, 10 classes of land use in satellite images, 64x64, from the folder `eurosat` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. test: the share of each class in the test
    split, selected by a hash of the names; there is no published split. Source: Helber et al., 2019. Raises `DataError`.
    """
    return _opened("eurosat", root, size, test)


@register
def flowers102(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Flowers-102, 102 kinds of flowers: splits train, val and test; the folder `flowers-102` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Source: Nilsback and Zisserman, 2008.
    Raises `DataError`, `MissingDependency` (scipy).
    """
    return _opened("flowers102", root, size)


@register
def food101(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Food-101, 101 dishes: splits train and test; the folder `food-101` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Source: Bossard et al., 2014. Raises
    `DataError`.
    """
    return _opened("food101", root, size)


@register
def pets(root: str, size: int | tuple[int, int] | Preprocess | None = None) -> Data:
    """Oxford-IIIT Pet, 37 breeds of cats and dogs: splits train (their trainval) and test; `oxford-iiit-pet` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. Source: Parkhi et al., 2012. Raises
    `DataError`.
    """
    return _opened("pets", root, size)


@register
def sun397(root: str, size: int | tuple[int, int] | Preprocess | None = None, partition: int = 1, test: float = 0.5) -> Data:
    """SUN397, 397 kinds of scenes, from the folder `SUN397` or its parent.

    size: (h, w), or an int: resize the shorter side to it, then centre crop. partition: which of the ten published splits,
    if Training_01.txt and Testing_01.txt are next to the images; without them, test is the share of each class in the test
    split, selected by a hash of the names. Source: Xiao et al., 2010. Raises `DataError`.
    """
    return _opened("sun397", root, size, test, partition)


def _opened(name: str, root: str, size: Size, test: float = 0.0, partition: int = 1) -> Data:
    check_size(size)
    known, home = SETS[name], _home(name, root)
    listed = functools.cache(functools.partial(_listed, name, home, partition))
    listing: dict[str, Callable[[], list[Item]]]
    if known.splits:
        classes = listed(next(iter(known.splits.values())))[1]
        listing = {ours: lambda theirs=theirs: listed(theirs)[0] for ours, theirs in known.splits.items()}
    else:
        items, classes = listed("")
        parts = _divided(name, home / known.marker, items, test, partition)
        listing = {part: lambda found=found: found for part, found in parts.items() if found}
    card = DataCard(
        name=known.title,
        targets=("label",),
        size=shared_size(size, lambda: [path for items in listing.values() for path, _ in items()]),
        classes=classes,
        source=known.source,
    )
    return Data(card, {part: Lazy(lambda items=items: labelled(home, items(), size)) for part, items in listing.items()})


def _home(name: str, root: str) -> Path:
    """The root as torchvision defines it: the parent of the set's own folder."""
    known = SETS[name]
    own = known.marker.partition("/")[0]
    place = folder_at(root, f"the folder {own} or its parent")
    for home in (place, *([place.parent] if place.name == own else [])):
        if (home / known.marker).is_dir():
            return home
    raise DataError(f"{place} contains no {known.title}; expected the folder {known.marker}, found {contents(place)}")


def _listed(name: str, home: Path, partition: int, split: str) -> tuple[list[Item], tuple[str, ...]]:
    """Files and classes of a split ("" if the set has none), as listed by torchvision; nothing is decoded or downloaded."""
    if name in NEED_SCIPY:
        need("scipy.io", name)
    from torchvision import datasets

    options: dict[str, Any] = {"split": split} if split else {}
    if name == "dtd":
        options["partition"] = partition
    if name not in ("pets", "caltech101"):
        options["loader"] = lambda path: path  # returns the path instead of the decoded image
    try:
        found = getattr(datasets, SETS[name].kind)(str(home), **options)
        if name == "caltech101":
            folder, names = home / SETS[name].marker, found.categories
            counted = zip(found.index, found.y, strict=True)
            pairs = [(folder / names[label] / f"image_{number:04d}.jpg", label) for number, label in counted]
        elif name == "pets":
            pairs, names = zip(found._images, found._labels, strict=True), found.classes
        else:
            pairs, names = (found[place] for place in range(len(found))), found.classes
        items = [(Path(path), int(label)) for path, label in pairs]
    except (AttributeError, KeyError, IndexError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        raise DataError(f"{home / SETS[name].marker} can't be read by torchvision's {SETS[name].kind}: {reason}") from None
    if not items:
        raise DataError(f"{home / SETS[name].marker} lists no image{f' of {split}' if split else ''}")
    return (items if split else sorted(items)), tuple(str(one) for one in names)


def _divided(name: str, place: Path, items: list[Item], test: float, partition: int) -> dict[str, list[Item]]:
    """Train and test of a set published without a split, or with its split as separate list files."""
    label = {path.relative_to(place).as_posix(): number for path, number in items}
    if name == "sun397":
        lists = {"train": f"Training_{partition:02d}.txt", "test": f"Testing_{partition:02d}.txt"}
        where = next((w for w in (place, place.parent) if all((w / file).is_file() for file in lists.values())), None)
        if where:
            return {part: _of_list(place, where / file, label) for part, file in lists.items()}
    if name == "caltech101":
        parts: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        for number in sorted(set(label.values())):
            mine = [(path, other) for path, other in label.items() if other == number]
            split = divide(mine, max(0.0, 1 - CALTECH_TRAIN / len(mine)))
            parts = {part: parts[part] + split[part] for part in parts}
    else:
        parts = divide(list(label.items()), test)
    return {part: [(place / path, number) for path, number in found] for part, found in parts.items()}


def _of_list(place: Path, file: Path, label: dict[str, int]) -> list[Item]:
    names = [line.lstrip("/") for line in lines_of(file)]
    if strange := [name for name in names if name not in label]:
        raise DataError(f"{file} lists {strange[0]}, which is not in {place}")
    return [(place / name, label[name]) for name in names]
