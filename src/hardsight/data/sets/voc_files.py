"""XML files in VOC's format: what one says, and how those of a set of one's own find their images.

An image and its XML file have the same name without the ending, wherever they lie below the root; the name of a folder may
say the part (train, val, valid, validation, test), as in images/train/ with annotations/train/, or valid/ with both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from hardsight.core.errors import DataError, DataWarning
from hardsight.data.globs import SPLITS
from hardsight.data.images import file_names, folder_at, is_image, passed_over
from hardsight.data.lists import inside

Object = tuple[str, tuple[float, float, float, float]]
"""The name, and the box as stored in the file."""
Item = tuple[Path, Path, str]
"""An image, its XML file or mask, and its id."""
Key = tuple[str, str]
"""The part that a folder's name says, or "", and the name without its ending."""


def read_objects(path: Path, difficult: bool = True) -> tuple[list[Object], tuple[int, int]]:
    """The objects of an annotation, without the difficult ones if so asked, and the image size (h, w) it states, or (0, 0).

    Raises `DataError` for an invalid file or object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError(f"{path} is rejected: it declares entities, which no annotation needs")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is truncated or not XML: {error}") from None
    objects = []
    for node in tree.iter("object"):
        name, hard = (node.findtext("name") or "").strip(), node.findtext("difficult", "0").strip() == "1"
        if hard and not difficult:
            continue
        try:
            x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            x1 = x2 = y1 = y2 = math.nan
        if not name or math.isnan(x1 + y1 + x2 + y2):
            raise DataError(f"{path}: its object '{name}' has no bndbox with the numbers xmin, ymin, xmax and ymax")
        objects.append((name, (x1, y1, x2, y2)))
    sides = [node if (node := tree.findtext(f"size/{key}", "0").strip()).isdigit() else "0" for key in ("height", "width")]
    return objects, (int(sides[0]), int(sides[1]))


def own_files(place: Path, images: str | None, annotations: str | None) -> dict[str, list[Item]]:
    """The images with their XML files by part, "" if no folder says one; {} for a set with VOC's lists, or without XML files.

    images, annotations: the folders below `place` in which they are looked for. Raises `DataError` for an XML file without
    an image, and where two have one name.
    """
    devkit = [place, place / "VOCdevkit", *place.glob("VOC[0-9]*"), *place.glob("VOCdevkit/VOC*")]
    if any((folder / "ImageSets").is_dir() for folder in devkit):
        return {}
    xmls = _by_key(place, annotations, "annotations", lambda name: name.lower().endswith(".xml"))
    if not xmls:
        return {}
    pictures = _by_key(place, images, "images", is_image)
    found: dict[str, list[Item]] = {}
    for key, xml in xmls.items():
        if key not in pictures:
            where = f" in a folder of the part '{key[0]}'" * bool(key[0])
            raise DataError(f"{place / xml} has no image: expected one called {key[1]}.jpg or with another ending{where}")
        found.setdefault(key[0], []).append((place / pictures[key], place / xml, pictures[key]))
    if "" in found and len(found) > 1:
        raise DataError(f"{found[''][0][1]} lies in no folder of a part, but others do; give annotations='folder'")
    passed_over(place, [name for key, name in pictures.items() if key not in xmls])
    return {part: found[part] for part in ("", "train", "val", "test") if part in found}


def class_names(paths: list[Path], origin: int) -> tuple[str, ...]:
    """The names of all objects in these files, in alphabetical order; warns if a box starts at 0 although origin is 1."""
    names, zero = set(), None
    for path in paths:
        for name, (x1, y1, _, _) in read_objects(path)[0]:
            names.add(name)
            zero = path if zero is None and min(x1, y1) == 0 else zero
    if zero is not None and origin == 1:
        warnings.warn(
            f"{zero} has a box that starts at 0, so pixels are counted from 0: give origin=0", DataWarning, stacklevel=3
        )
    return tuple(sorted(names))


def _by_key(place: Path, folder: str | None, option: str, wanted: Callable[[str], bool]) -> dict[Key, str]:
    """The wanted files below a folder, as paths relative to `place`."""
    inner = place if folder is None else folder_at(place / inside(folder, f"{option}="), f"the folder {option}=")
    prefix = "" if folder is None else f"{PurePosixPath(folder).as_posix().rstrip('/')}/"
    found: dict[Key, str] = {}
    for name in (prefix + name for name in file_names(inner)[0] if wanted(name)):
        path = PurePosixPath(name)
        key = next((SPLITS[part] for part in map(str.lower, path.parts[:-1]) if part in SPLITS), ""), path.stem
        if key in found:
            raise DataError(f"{place} has both {found[key]} and {name}; give {option}='folder' to choose")
        found[key] = name
    return found
