"""What the files behind a spec hold, as one hash: other content under the same name makes another cell.

The hash depends on names and contents only, not on dates: a chunk's random numbers derive from it, so that the same data give
the same numbers on another machine. Annotations are read whole. Pictures are too many for that: their length, beginning and
end are read, which takes about a second for 50,000, and where any change shows: the header, the palette and EXIF are at the
beginning, and at the end are PNG's checksum of all values, and what a JPEG's shifted bits have become.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from hardsight.data.globs import TOKEN, fixed
from hardsight.encoders.runs import exported
from hardsight.encoders.zoo import known
from hardsight.specs.catalog import complete, find
from hardsight.specs.syntax import Call, calls_in, show

COMPRESSED = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".xz", ".txz", ".gz",
    ".tgz", ".bz2", ".zip",
)  # fmt: skip
"""Files in which one other value changes many bytes; of all others every byte is read, up to these limits:"""
WHOLE, TOTAL, SMALL = 2**26, 2**29, 2**20
"""A file of at most `WHOLE` bytes is read whole; if such files have more than `TOTAL` bytes together, one of at most `SMALL`."""
EDGE, SAMPLES, SAMPLE = 2**11, 64, 2**16
"""Bytes read at both ends of a compressed file; number and length of the samples of another file that is too large."""
PATHS, SEPARATORS = ("root", "path", "folder", "images", "masks", "depths"), "/\\~$"
"""Arguments that name files or folders; so does any text with one of these letters, and the `name` of:"""
BY_NAME = ("hf", "hf_clips", "hfdata")
WEIGHTS = (".json", ".safetensors")
"""What transformers reads of a model's folder."""
BY_FILE, WITHIN, DRAWN = (
    ("file", "onnx", "robustbench", "run", "zoo", "hf", "hf_clips"),
    ("clips", "crops", "defended", "widened"),
    ("tiny",),
)
"""Encoders whose weights are those of the file or folder that they name, of the encoder within, or drawn from a seed."""

BLACK_BOX = ("onnx",)
"""Encoders through which no gradient passes."""


def stamp(spec: str, kind: str) -> str:
    """A hash of the files on this disk that a spec of that kind ("Encoder", "Data", ...) refers to; empty if there are none.

    Of a checkpoint, a run's encoder or a model's folder: every byte; of a zoo encoder: the listed hash; of data: all files
    below the folders that its arguments name, as this module says, without hidden ones. A wrapper's is that of what is
    within it.
    """
    call = complete(spec, kind)
    if call.name == "zoo":
        entry = next((one for one in known() if one["name"] == call["name"]), {})
        return stamp(entry["spec"], kind) if "spec" in entry else entry.get("sha256", "")[:16]
    inner = [one for _, value in call.arguments for one in calls_in(value) if find(one.name).kind == kind]
    found = [stamp(show(one), kind) for one in inner]
    found += [_of_place(place, call.name, kind) for place in dict.fromkeys(_places(call, kind))]
    if len(found) == 1 and not inner:
        return found[0]
    return hashlib.sha256("".join(found).encode()).hexdigest()[:16] if any(found) else ""


def fixes_weights(spec: str, known: str) -> bool:
    """Whether an encoder's stamp tells its weights; others (of a library's cache, a plug-in) are known once it is loaded."""
    sources = {one.name for one in calls_in(complete(spec, "Encoder")) if find(one.name).kind == "Encoder"}
    return sources <= {*BY_FILE, *WITHIN, *DRAWN} and (bool(known) or sources <= {*WITHIN, *DRAWN})


def black_box(spec: str) -> bool:
    """Whether no gradient passes through an encoder."""
    return any(one.name in BLACK_BOX for one in calls_in(complete(spec, "Encoder")))


def _places(call: Call, kind: str) -> Iterator[Path]:
    """The files and folders that the call's own texts name."""
    if call.name == "run":
        yield exported(call["folder"], call["best"], call["epoch"])
        return
    for key, value in call.arguments:
        for text in _texts(value, kind):
            if (
                key in PATHS
                or (key == "name" and call.name in BY_NAME)
                or any(mark in text for mark in SEPARATORS)
                or ".py:" in text
            ):
                for part in (text, text.rpartition(":")[0]):  # torch.hub: FOLDER:ENTRY, a module of one's own: FILE:FUNCTION
                    path = Path(os.path.expandvars(os.path.expanduser(part)))
                    if (
                        part
                        and path.exists()
                        and (part == text or part.endswith(".py") or any(mark in part for mark in SEPARATORS))
                    ):
                        yield path
                        break
                else:
                    if TOKEN.search(text) and (folder := fixed(text)).is_dir():
                        yield folder


def _texts(value: object, kind: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Call):
        if find(value.name).kind != kind:
            yield from (text for _, part in value.arguments for text in _texts(part, kind))
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, kind)


def _of_place(place: Path, source: str, kind: str) -> str:
    if place.is_file() and kind == "Encoder":
        with open(place, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if not place.exists():
        return ""
    digest = hashlib.sha256()
    files = [("", str(place), place.stat().st_size)] if place.is_file() else sorted(_files(str(place), "", set()))
    if source in ("hf", "hf_clips"):
        files, limit = [one for one in files if one[0].endswith(WEIGHTS) and "/" not in one[0]], 2**62
    else:
        whole = sum(size for _, name, size in files if size <= WHOLE and not name.lower().endswith(COMPRESSED))
        limit = WHOLE if whole <= TOTAL else SMALL
    for name, path, size in files:
        digest.update(f"{name}\0{size}\n".encode())
        _read(path, size, limit, digest)
    return digest.hexdigest()[:16]


def _files(folder: str, name: str, seen: set[str]) -> Iterator[tuple[str, str, int]]:
    """(name below the first folder, path, length) of every file that is not hidden; links to folders are followed once."""
    here = os.path.realpath(folder)
    if here in seen:
        return
    seen.add(here)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    yield from _files(entry.path, f"{name}{entry.name}/", seen)
                elif entry.is_file():
                    yield name + entry.name, entry.path, entry.stat().st_size
    except OSError:
        return  # the reader says what is wrong, if it needs this folder


def _read(path: str, size: int, limit: int, digest: hashlib._Hash) -> None:  # pyright: ignore[reportPrivateUsage]
    """Adds a file's content, or samples of it, to the digest."""
    packed = path.lower().endswith(COMPRESSED)
    if size <= 2 * EDGE or (not packed and size <= limit):
        spans = [(0, size)]
    elif packed:
        spans = [(0, EDGE), (size - EDGE, EDGE)]
    else:
        spans = [(place * (size - SAMPLE) // (SAMPLES - 1), SAMPLE) for place in range(SAMPLES)]
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return
    try:
        for start, length in spans:
            os.lseek(file, start, os.SEEK_SET)
            while length > 0 and (part := os.read(file, min(length, 2**24))):
                digest.update(part)
                length -= len(part)
    finally:
        os.close(file)
