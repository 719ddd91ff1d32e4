"""Data sets as published: the number of images in each split, and how to download them.

A reader's module may define `PUBLISHED`, a description of the published data for each factory, and `fetch(call)`, its own
download function. `hardsight data get SPEC` downloads a set if a program is allowed to, and otherwise says what to do by
hand; `hardsight data check SPEC` compares the counts. A checksum is given only if the publisher or several public readers
state it.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hardsight.core.errors import DataError
from hardsight.data.archive import is_archive
from hardsight.data.images import expand
from hardsight.data.lists import inside
from hardsight.specs.catalog import REQUIRED, build, complete, find
from hardsight.specs.syntax import Call

CHUNK = 2**20
Tick = Callable[[int, int], None]
"""A progress callback: MiB of the file downloaded so far, and its total size in MiB, 0 if unknown."""


@dataclass(frozen=True)
class Published:
    """The published form of a data set.

    page: its web page. counts: images per split. files: (address, md5 or "") of archives and files that go into the root.
    torchvision: (class, arguments) of the torchvision data sets that download it into the root. by_hand: instructions if it
    cannot be downloaded by a program.
    """

    page: str
    counts: dict[str, int] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    torchvision: tuple[tuple[str, dict[str, Any]], ...] = ()
    by_hand: str = ""


def published(spec: str | Call) -> Published | None:
    """The published form of the data set that a spec names, or None; without counts if these arguments change them."""
    call = complete(spec, "Data")
    entry = find(call.name)
    found = getattr(importlib.import_module(entry.module), "PUBLISHED", {}).get(call.name)
    shape = ("size", "frames", "stride", "max_depth", "unit")  # these change how images look, not how many there are
    plain = {p.name: p.default for p in entry.parameters if p.default is not REQUIRED and p.name not in shape}
    if found and any(call.get(name) != default for name, default in plain.items()):
        return Published(found.page, {}, found.files, found.torchvision, found.by_hand)
    return found


def get(spec: str | Call, tick: Tick | None = None) -> Path:
    """Downloads the data set that a spec names into its root, and returns the root; an existing one is not downloaded again.

    Raises `DataError` if a program cannot download it (the message says what to do by hand), if the network fails, and if a
    file is not the published one.
    """
    call = complete(spec, "Data")
    offer, own = published(call), getattr(importlib.import_module(find(call.name).module), "fetch", None)
    if offer and _exists(call, offer):
        return expand(str(call["root"]))
    if own is not None:
        return own(call)
    if offer is None:
        raise DataError(f"{call.name} is not a published data set, so it can't be downloaded: it reads your own files")
    root = expand(str(call["root"]))
    if not offer.files and not offer.torchvision:
        raise DataError(
            f"{call.name} can't be downloaded by a program: {offer.by_hand or 'see ' + offer.page} ({offer.page})"
        )
    root.mkdir(parents=True, exist_ok=True)
    for address, md5 in offer.files:
        file = download(address, root, md5, tick)
        if is_archive(file.name) or file.suffix == ".zip":
            unpack(file, root)
            file.unlink()
    for name, arguments in offer.torchvision:
        by_torchvision(name, root, arguments)
    return root


def download(address: str, folder: Path, md5: str = "", tick: Tick | None = None) -> Path:
    """Downloads a file completely into the folder and verifies its checksum; an existing valid file is kept."""
    place = folder / address.rsplit("/", 1)[1]
    if place.is_file() and (not md5 or _md5(place) == md5):
        return place
    draft, digest, done = place.with_name(place.name + ".part"), hashlib.md5(usedforsecurity=False), 0
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "hardsight"})
        with urllib.request.urlopen(request, timeout=60) as source, draft.open("wb") as file:
            total = int(source.headers.get("Content-Length") or 0)
            while part := source.read(CHUNK):
                file.write(part)
                digest.update(part)
                done += len(part)
                if tick:
                    tick(done // CHUNK, total // CHUNK)
    except OSError as error:
        raise DataError(f"{address} can't be downloaded: {error}") from None
    if total and done != total:
        raise DataError(f"{address} was downloaded incompletely: {done:,} of {total:,} bytes; try again")
    if md5 and digest.hexdigest() != md5:
        raise DataError(
            f"{address} is not the published file: md5 {digest.hexdigest()}, not {md5}; the download is kept as {draft}"
        )
    draft.replace(place)
    return place


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files of a zip or tar archive into a folder; links and devices are skipped.

    Raises `DataError` if the archive is truncated or contains a path that leads outside the folder.
    """
    try:
        for name, source in _members(archive):
            place = folder / inside(name, archive)
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
    except DataError:
        raise
    except Exception as error:  # zipfile, tarfile, lzma and zlib each raise their own errors for a broken archive
        raise DataError(f"{archive} can't be unpacked: {error}") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    with packed.open(info) as source:
                        yield info.filename, source
        return
    with tarfile.open(archive, "r:*") as packed:
        for member in packed:
            if member.isfile() and (source := packed.extractfile(member)):
                yield member.name, source


def by_torchvision(name: str, root: Path, arguments: dict[str, Any]) -> None:
    """Downloads a data set into its root with the torchvision class of that name; raises `DataError` if that fails."""
    from torchvision import datasets

    try:
        getattr(datasets, name)(str(root), download=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"torchvision can't download {name} into {root}: {error}") from None


def _exists(call: Call, offer: Published) -> bool:
    try:
        data = build(call, "Data")
    except DataError:
        return False
    return set(offer.counts) <= set(data.splits)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
