"""Where the parts of a set in COCO's format lie: its annotation files, whatever they are called, and their image folders.

    annotations/instances_train2017.json  train2017/      COCO's own layout
    train/_annotations.coco.json          train/          Roboflow's: images beside the file, and valid/, test/
    annotations/instances_default.json    images/default/ CVAT's
    trainval.json                         images/         one file for all images, which is not of one part

A file belongs to the part that a word of its name, or of its folder's name, says: train, val, valid, validation or test.
"""

from __future__ import annotations

import re
from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.globs import SPLITS
from hardsight.data.images import contents, first_few, passed_over
from hardsight.data.lists import inside

NAMED = re.compile(r"instances_(train|val|test)(\d*)\.json")
KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"bbox"')
EXPECTED = (
    "annotations/instances_train2017.json or instances_val2017.json, with train2017/ or val2017/, "
    "or one JSON file in COCO's format beside a folder of images"
)
ORDER = ("train", "val", "test")


def annotation_files(place: Path, year: int | None, chosen: str | None) -> dict[str, Path]:
    """The file of each part, or of "" if one file is for all images, as is a `chosen` one.

    Raises `DataError` if there is none, or if a part has several.
    """
    if chosen is not None:
        if not (file := place / inside(chosen, "annotations=")).is_file():
            raise DataError(f"annotations={chosen!r}: {place} has no such file; it contains {contents(place)}")
        return {"": file}
    folder = place / "annotations"
    listed = [path for path in sorted(folder.iterdir() if folder.is_dir() else ()) if NAMED.fullmatch(path.name)]
    named = [(str(NAMED.fullmatch(path.name)[1]), path) for path in listed if year is None or _year(path) == str(year)]  # type: ignore[index]
    if not named and year is None:
        named = [(_part(path, place), path) for path in _candidates(place)]
    if not named:
        raise DataError(
            f"{place} contains no COCO{f' of {year}' if year else ''}; expected {EXPECTED}, found {contents(place)}"
        )
    found: dict[str, Path] = {}
    for part, path in named:
        if part in found:
            hint = "give year=" if NAMED.fullmatch(path.name) else "give annotations='the one to use'"
            raise DataError(f"{place} has both {_below(found[part], place)} and {_below(path, place)}; {hint}")
        found[part] = path
    if "" in found and len(found) > 1:
        passed_over(place, [_below(found.pop(""), place)])
    return {part: found[part] for part in ("", *ORDER) if part in found}


def image_folder(place: Path, part: str, file: Path, chosen: str | None, first: str) -> Path:
    """The folder of a file's images: the chosen one, a usual one that contains the `first` image, or the only one that does."""
    if chosen is not None:
        return place / chosen
    year, beside, stem = _year(file), _below(file.parent, place), re.split(r"[^a-z]+", file.stem.lower())[-1]
    usual = [f"{part}{year}", f"images/{part}{year}", f"images/{part}", part] if part else []
    usual += [beside, "images", f"images/{stem}", "."]
    for folder in usual:
        if (place / folder / first).is_file():
            return place / folder
    inner = [one for one in sorted(place.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    inner += [two for one in inner for two in sorted(one.iterdir()) if two.is_dir()]
    holding = [folder for folder in inner if (folder / first).is_file()]
    if len(holding) == 1:
        return holding[0]
    if holding:
        raise DataError(f"{place} has {first} in {first_few(_below(one, place) for one in holding)}; give images='folder'")
    raise DataError(f"{place} has no {first} in {', '.join(dict.fromkeys(usual))}; give images='folder'")


def _candidates(place: Path) -> list[Path]:
    """JSON files that hold boxes in COCO's format: in the folder itself, in annotations/, and in the folders of parts."""
    folders = [
        place,
        *(one for one in sorted(place.iterdir()) if one.is_dir() and (one.name == "annotations" or _word(one.name))),
    ]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() == ".json"]
    return [path for path in files if path.is_file() and all(key in path.read_bytes() for key in KEYS)]


def _part(path: Path, place: Path) -> str:
    return _word(path.stem) or (_word(path.parent.name) if path.parent != place else "")


def _word(name: str) -> str:
    """The part that a word in a name says, or ""."""
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), "")


def _year(file: Path) -> str:
    named = NAMED.fullmatch(file.name)
    return named[2] if named else ""


def _below(path: Path, place: Path) -> str:
    return path.relative_to(place).as_posix()
