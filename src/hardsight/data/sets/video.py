"""Folders of clips for action recognition: videos, or folders of frames, recognized by their contents.

    <class>/*.mp4, or train/<class>/*.mp4 and test/<class>/*.mp4     as `folder` reads images
    <class>/<clip>/*.jpg                                             frames as separate image files
    trainlist01.txt, testlist01.txt, classInd.txt in any subfolder   UCF101's three splits
    <class>_test_split1.txt in any subfolder                         HMDB51's three splits
    *.mp4                                                            a split "test" without labels

A clip in a list is found by its last folder and its name without suffix, so folders of frames may replace the videos it
names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.base import Data, DataCard, Images
from hardsight.data.decode import VIDEOS, Pick, need_decoder, picker, read_frames, read_video
from hardsight.data.images import SUFFIXES, check_size, contents, file_names, first_few, folder_at, natural, passed_over
from hardsight.data.lists import numbered
from hardsight.data.sets.folder import Layout, arrange, in_order
from hardsight.data.splits import Files
from hardsight.specs.catalog import register

EXPECTED = "<class>/*.mp4, <class>/<clip>/*.jpg, or those with the split lists of UCF101 or HMDB51"
CLASSES = "classInd.txt"
"""UCF101's file that numbers its classes; without it they are numbered in alphabetical order."""
HMDB = {"1": "train", "2": "test", "0": ""}
"""The split for each number in HMDB51's lists; 0 is in neither split."""


@register
def video(
    root: str,
    frames: int = 16,
    stride: int | None = None,
    size: int | tuple[int, int] = 112,
    test: float = 0.2,
    fold: int = 1,
) -> Data:
    """Clips in folders, one folder per class, with or without split lists: videos through PyAV, or folders of frames.

    frames, stride: T frames, uniformly over the clip, or every stride-th, centred; if the clip is too short, its last frame
    is repeated. size: (h, w), or an int: resize the shorter side to it, then centre crop. test: the share of each class for
    the test split, if neither folders nor lists define one. fold: which of the published splits. A clip is the same each
    time it is read. Raises `DataError`, `MissingDependency`.
    """
    if not 0 <= test <= 1:
        raise DataError(f"test={test}: the share of clips to test on must be between 0 and 1")
    pick = _picker(frames, stride, size)
    place = folder_at(root, EXPECTED)
    clips, lists = find_clips(place)
    layout = read_lists(place, lists, fold, list(clips)) if lists else arrange(list(clips), test, str(place))
    sides = (size, size) if isinstance(size, int) else size
    targets = ("label",) if layout.classes else ()
    card = DataCard(place.resolve().name, targets, sides, layout.classes, source="a folder of clips", frames=frames)
    return _data(card, place, clips, layout, pick)


def by_lists(
    root: str, card: DataCard, lists: str, expected: str, stride: int | None, size: int | tuple[int, int], fold: int
) -> Data:
    """A published set of clips, using the split lists whose name matches `lists`; size and classes are added to the card.

    Raises `DataError` if there is no such list, or if a listed clip is missing; `MissingDependency`.
    """
    pick, place = _picker(card.frames, stride, size), folder_at(root, expected)
    clips, found = find_clips(place)
    found = [name for name in found if re.fullmatch(lists, PurePosixPath(name).name)]
    if not found:
        raise DataError(f"{place} has none of {card.name}'s split lists; expected {expected}; it contains {contents(place)}")
    layout = read_lists(place, found, fold, list(clips))
    card = replace(card, size=(size, size) if isinstance(size, int) else size, classes=layout.classes)
    return _data(card, place, clips, layout, pick)


def _picker(frames: int, stride: int | None, size: int | tuple[int, int]) -> tuple[Pick, int | tuple[int, int]]:
    check_size(size)
    return picker(frames, stride), size


def _data(
    card: DataCard, place: Path, clips: dict[str, list[str]], layout: Layout, pick: tuple[Pick, int | tuple[int, int]]
) -> Data:
    def split(items: list[tuple[str, int]]) -> Images:
        def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            name, label = items[number]
            return _clip(place, name, clips[name], *pick), {} if label < 0 else {"label": np.array(label)}

        return Files([name for name, _ in items], read)

    return Data(card, {name: split(items) for name, items in layout.splits.items()})


def find_clips(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Clips by posix path relative to root, each with its frames' names ([] for a video), and the existing split lists.

    Raises `DataError` if there are no clips, or both videos and frames.
    """
    names, hidden = file_names(root)
    videos = [name for name in names if name.lower().endswith(VIDEOS)]
    lists = [name for name in names if _is_list(name)]
    frames: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(SUFFIXES):
            folder, _, frame = name.rpartition("/")
            frames.setdefault(folder or ".", []).append(frame)
    read = {*videos, *lists}
    passed_over(root, [name for name in names if name not in read and not name.lower().endswith(SUFFIXES)], hidden)
    if videos and frames:
        raise DataError(
            f"{root} contains both videos ({videos[0]}) and folders of frames ({next(iter(frames))}); give only one kind"
        )
    if "." in frames:
        raise DataError(f"{root} contains frames directly; put the frames of each clip into its own folder")
    if not videos and not frames:
        raise DataError(f"{root} contains no clip; expected {EXPECTED}; it contains {contents(root)}")
    if videos:
        need_decoder()
    known = {name: [] for name in videos} or dict(sorted(frames.items(), key=lambda one: natural(one[0])))
    return known, sorted(lists)


def read_lists(root: Path, lists: list[str], fold: int, clips: list[str]) -> Layout:
    """The splits given by the lists of this fold; raises `DataError`, with the line, for a missing clip."""
    found = {_key(name): name for name in clips}
    if len(found) < len(clips):
        raise DataError(
            f"{root} contains two clips with the same class and name, so its lists are ambiguous; rename or remove one"
        )
    rows: list[tuple[str, str, str]] = []
    order: list[str] = []
    for name in lists:
        base = PurePosixPath(name).name
        if base == CLASSES:
            order = [label for _, _, label in _lines(root / name)]
        elif base in (f"trainlist{fold:02d}.txt", f"testlist{fold:02d}.txt"):
            split = "train" if base.startswith("train") else "test"
            rows += [
                (split, _resolved(root / name, n, clip, found), clip.split("/")[0]) for n, clip, _ in _lines(root / name)
            ]
        elif base.endswith(f"_test_split{fold}.txt"):
            label = base.removesuffix(f"_test_split{fold}.txt")
            for line, clip, mark in _lines(root / name):
                if mark not in HMDB:
                    raise DataError(
                        f"{root / name}, line {line}: '{mark}' is not a valid split number; it must be 0, 1 or 2"
                    )
                rows.append((HMDB[mark], _resolved(root / name, line, f"{label}/{clip}", found), label))
    if not rows:
        raise DataError(f"{root} has split lists ({', '.join(lists[:3])}), but none of fold {fold}")
    classes = tuple(order or in_order(label for _, _, label in rows))
    if strangers := sorted({label for _, _, label in rows} - set(classes)):
        raise DataError(f"{root}: {CLASSES} lacks classes that the lists name: {first_few(strangers)}")
    places = {label: place for place, label in enumerate(classes)}
    splits: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for split, clip, label in rows:
        if split:
            splits[split].append((clip, places[label]))
    return Layout({split: items for split, items in splits.items() if items}, classes)


def _clip(root: Path, name: str, frames: list[str], pick: Pick, size: int | tuple[int, int]) -> np.ndarray:
    if frames:
        return read_frames([root / name / frame for frame in frames], pick, size)
    return read_video(root / name, pick, size)


def _is_list(name: str) -> bool:
    path = PurePosixPath(name)
    base = path.stem if path.suffix == ".txt" else ""
    return base[:-2] in ("trainlist", "testlist") or "_test_split" in base or path.name == CLASSES


def _key(name: str) -> str:
    """The class folder and the name of a clip, without the suffix of a video."""
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in VIDEOS else path.name
    return f"{path.parent.name}/{stem}"


def _lines(file: Path) -> list[tuple[int, str, str]]:
    """Line number, clip and mark ('' if there is none) of each non-empty line."""
    rows = []
    for number, line in numbered(file):
        clip, _, mark = line.rpartition(" ")
        rows.append((number, clip.strip() or mark, mark if clip else ""))
    return rows


def _resolved(file: Path, line: int, clip: str, found: dict[str, str]) -> str:
    if _key(clip) not in found:
        raise DataError(f"{file}, line {line}: no such clip {clip}")
    return found[_key(clip)]
