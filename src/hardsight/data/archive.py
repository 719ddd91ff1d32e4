"""A tar archive of images as one array: decoded once, never unpacked to files, and cached in the user's cache folder.

Members are read in memory under their own names. Links, devices, names that contain `..` and files that are not images are
skipped, so an archive cannot reach a file outside itself. The cache contains uint8 arrays and a list of names, and no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from hardsight.core.errors import DataError
from hardsight.data.images import Size, UnlikeSizes, expand, fit, is_image, natural, open_image, size_mismatch

ENDINGS = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.bz2")
MAX_MEMBER = 2**28
MAX_TOTAL = 2**33
"""The largest size in bytes of one member, and of all decoded images; larger sets should be unpacked to a folder."""
VERSION = 2


class Decoded(NamedTuple):
    """names [N], posix paths in natural order; images uint8 [N, 3, H, W], memory-mapped if the cache could be written.

    passed: the members that are not images, or hidden, or links.
    """

    names: list[str]
    images: np.ndarray
    passed: list[str]


def is_archive(root: str) -> bool:
    return str(root).lower().endswith(ENDINGS)


def cache_folder() -> Path:
    """The folder of decoded archives: $HARDSIGHT_CACHE, else $XDG_CACHE_HOME/hardsight, else ~/.cache/hardsight."""
    if own := os.environ.get("HARDSIGHT_CACHE"):
        return expand(own)
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hardsight"


def read_archive(path: Path, size: Size) -> Decoded:
    """All images of an archive at a size; read from the cache if path, modification time, file length and size are the same.

    Raises `DataError` if the archive is missing or truncated, contains no image, or contains an image that can't be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such archive")
    state = path.stat()
    key = repr((VERSION, str(path.resolve()), state.st_mtime_ns, state.st_size, size))
    stem = f"{path.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    place = cache_folder() / "data" / stem
    if (found := _from_cache(place)) is not None:
        return found
    decoded = _decode(path, size)
    try:
        _to_cache(place, decoded)
    except OSError as error:
        warnings.warn(f"decoded {path.name}, but can't cache it in {place.parent}: {error}", stacklevel=2)
        return decoded
    return _from_cache(place) or decoded


def _decode(path: Path, size: Size) -> Decoded:
    found: dict[str, np.ndarray] = {}
    first, total, passed = "", 0, []
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).as_posix().lstrip("/")
                if not member.isfile() or not is_image(name):
                    passed += [] if member.isdir() else [name]
                    continue
                label = f"{path.name}:{name}"
                file = archive.extractfile(member)
                if file is None or member.size > MAX_MEMBER:
                    raise DataError(
                        f"{label} has {member.size:,} bytes; an image in an archive may have at most {MAX_MEMBER:,}"
                    )
                image = fit(open_image(file.read(), label), size).transpose(2, 0, 1)
                first = first or name
                if found and image.shape != found[first].shape:
                    raise UnlikeSizes(size_mismatch(label, image.shape[1:], first, found[first].shape[1:]))
                total += image.nbytes
                if total > MAX_TOTAL:
                    raise DataError(
                        f"{path} decodes to more than {MAX_TOTAL >> 30} GiB; unpack it and give the folder instead"
                    )
                found[name] = image
    except DataError:
        raise
    except Exception as error:  # tarfile, lzma and zlib each raise their own errors for a broken archive
        raise DataError(f"{path} is truncated or not a tar archive: {error}") from None
    if not found:
        raise DataError(f"{path} contains no image")
    names = sorted(found, key=natural)
    return Decoded(names, np.stack([found[name] for name in names]), sorted(passed, key=natural))


def _from_cache(place: Path) -> Decoded | None:
    """The cached archive, or None if it is missing or its two files do not match."""
    try:
        names, passed = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        images = np.load(place.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError):
        return None
    fits = isinstance(names, list) and images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(names)
    return Decoded(names, images, passed) if fits else None


def _to_cache(place: Path, decoded: Decoded) -> None:
    """Writes each file completely or not at all; the names last, so that they exist only together with a complete array."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as draft:
        images, names = Path(draft) / "images.npy", Path(draft) / "names.json"
        np.save(images, decoded.images)
        names.write_text(json.dumps([decoded.names, decoded.passed]), encoding="utf-8")
        images.replace(place.with_suffix(".npy"))
        names.replace(place.with_suffix(".json"))
