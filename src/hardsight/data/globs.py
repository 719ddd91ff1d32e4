"""Files that belong together, found by patterns: an image and its mask have the same text in place of the wildcards.

    DRIVE/{split}/images/*_training.tif       DRIVE/training/images/21_training.tif
    DRIVE/{split}/1st_manual/*_manual1.gif    DRIVE/training/1st_manual/21_manual1.gif

`*` and `?` match within one folder, `**` any number of folders, and {split} the name of a part: train, val or test, also
written training, valid, validation and testing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from hardsight.core.errors import DataError
from hardsight.data.images import contents, expand, file_names, folder_at, passed_over

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
SPLIT = "{split}"
TOKEN = re.compile(r"\*\*/|\*|\?|\{split\}")
MEANING = {"**/": r"(?:(.*)/)?", "*": r"([^/]*)", "?": r"([^/])"}


class Key(NamedTuple):
    """What a file is known by: its part ("" without {split}), and the texts in place of the wildcards."""

    split: str
    texts: tuple[str, ...]


def fixed(pattern: str) -> Path:
    """The folder of a pattern: its path up to the first wildcard."""
    parts = expand(pattern).parts
    plain = next((n for n, part in enumerate(parts) if TOKEN.search(part)), len(parts) - 1)
    return Path(*parts[:plain])


def common_folder(patterns: list[str]) -> Path:
    """The folder in which all files of several patterns are."""
    return Path(os.path.commonpath([os.path.abspath(fixed(pattern)) for pattern in patterns]))


def matched(pattern: str, what: str) -> dict[Key, Path]:
    """The files that a pattern matches, in natural order, by what each is known by; hidden files do not count.

    Raises `DataError`, which calls them `what`, if there is none, or if two have one key.
    """
    folder = folder_at(fixed(pattern), f"the folder of {what}={pattern!r}")
    rest = expand(pattern).relative_to(folder).as_posix()
    found: dict[Key, Path] = {}
    rule = re.compile(_rule(rest))
    for name in file_names(folder)[0]:
        if (match := rule.fullmatch(name)) is None:
            continue
        groups = match.groupdict()
        split = groups.get("split")
        others = enumerate(match.groups(), 1)
        texts = tuple(text or "" for place, text in others if place != rule.groupindex.get("split"))
        key = Key(SPLITS[split] if split else "", texts)
        if key in found:
            raise DataError(f"{what}={pattern!r} matches both {found[key]} and {folder / name}, which it can't tell apart")
        found[key] = folder / name
    if not found:
        raise DataError(f"{what}={pattern!r} matches no file; {folder} contains {contents(folder)}")
    return found


def paired(patterns: dict[str, str]) -> dict[str, list[tuple[Path, ...]]]:
    """By part ("" without {split}): the files of each key, one a pattern, in the order of the first pattern's files.

    patterns: by the name of the argument that gives it. Raises `DataError` for a file of the first that lacks another, and
    for patterns that don't have the same wildcards.
    """
    (first, pattern), *others = patterns.items()
    for name, other in others:
        if _wildcards(other) != _wildcards(pattern):
            raise DataError(
                f"{first}={pattern!r} and {name}={other!r} must have the same wildcards in the same order, because files with "
                "the same text in place of them belong together"
            )
    found = matched(pattern, first)
    beside = {name: matched(other, name) for name, other in others}
    parts: dict[str, list[tuple[Path, ...]]] = {}
    for key, path in found.items():
        for name, files in beside.items():
            if key not in files:
                text = " and ".join(map(repr, [*key.texts, *filter(None, [key.split])]))
                raise DataError(
                    f"{path} has no file in {name}={patterns[name]!r}: none has {text} in place of the wildcards"
                )
        parts.setdefault(key.split, []).append((path, *(files[key] for files in beside.values())))
    for name, files in beside.items():
        passed_over(patterns[name], [path.as_posix() for key, path in files.items() if key not in found])
    return parts


def _wildcards(pattern: str) -> list[str]:
    return [token for token in TOKEN.findall(pattern) if token != SPLIT] + [SPLIT] * (SPLIT in pattern)


def _rule(pattern: str) -> str:
    """The regular expression of a pattern; the second {split} must have the text of the first."""
    meaning, seen, start = "", False, 0
    for token in TOKEN.finditer(pattern):
        meaning += re.escape(pattern[start : token.start()])
        if token[0] == SPLIT:
            meaning += "(?P=split)" if seen else f"(?P<split>{'|'.join(SPLITS)})"
            seen = True
        else:
            meaning += MEANING[token[0]]
        start = token.end()
    return meaning + re.escape(pattern[start:])
