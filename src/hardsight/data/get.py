"""Data sets as their publishers offer them: how many images there are, and how to come by them.

A reader's module may hold `PUBLISHED`, what is published under each factory's name, and `fetch(call)`, its own way to come by
it. `hardsight data get SPEC` fetches what a program may fetch, and says what to do by hand otherwise; `hardsight data check
SPEC` compares the counts. Checksums stand only where the publisher gives them, or several public readers give the same.
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
"""Told how much of a file is here, and how much there is, in MiB; 0 where its length is unknown."""


@dataclass(frozen=True)
class Published:
    """What is published of a data set.

    page: where. counts: images by split. files: (address, md5 or "") of archives and files that go into the root.
    torchvision: (class, arguments) of those that fetch it into the root. by_hand: what to do where no program may fetch it.
    """

    page: str
    counts: dict[str, int] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    torchvision: tuple[tuple[str, dict[str, Any]], ...] = ()
    by_hand: str = ""


def published(spec: str | Call) -> Published | None:
    """What is published of the data that a spec names, or None; counts only where they hold for these arguments."""
    call = complete(spec, "Data")
    entry = find(call.name)
    found = getattr(importlib.import_module(entry.module), "PUBLISHED", {}).get(call.name)
    shape = ("size", "frames", "stride")  # what an image looks like, not which there are
    plain = {p.name: p.default for p in entry.parameters if p.default is not REQUIRED and p.name not in shape}
    if found and any(call.get(name) != default for name, default in plain.items()):
        return Published(found.page, {}, found.files, found.torchvision, found.by_hand)
    return found


def get(spec: str | Call, tick: Tick | None = None) -> Path:
    """Fetches the data that a spec names into its root, and answers that; nothing is fetched where it is there already.

    Raises `DataError` where no program may fetch it (it says what to do by hand), where the net fails, and for a file that
    is not the one published.
    """
    call = complete(spec, "Data")
    offer, own = published(call), getattr(importlib.import_module(find(call.name).module), "fetch", None)
    if offer and _is_there(call, offer):
        return expand(str(call["root"]))
    if own is not None:
        return own(call)
    if offer is None:
        raise DataError(f"{call.name} is no data set that is published somewhere: it reads what you have")
    root = expand(str(call["root"]))
    if not offer.files and not offer.torchvision:
        raise DataError(f"{call.name} can't be fetched by a program: {offer.by_hand or 'see ' + offer.page} ({offer.page})")
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
    """The file at an address, whole and of that checksum, in the folder; one that is there already is kept."""
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
        raise DataError(f"{address} can't be fetched: {error}") from None
    if total and done != total:
        raise DataError(f"{address} came cut short: {done:,} of {total:,} bytes; try again")
    if md5 and digest.hexdigest() != md5:
        raise DataError(f"{address} is not the published file: md5 {digest.hexdigest()}, not {md5}; it is kept as {draft}")
    draft.replace(place)
    return place


def unpack(archive: Path, folder: Path) -> None:
    """The files of a zip or tar archive in a folder; links and devices are passed over.

    Raises `DataError` for an archive that is cut short or holds a name that would leave the folder.
    """
    try:
        for name, source in _members(archive):
            place = folder / inside(name, archive)
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
    except DataError:
        raise
    except Exception as error:  # zipfile, tarfile, lzma and zlib each raise their own on a broken archive
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
    """What torchvision's class of that name fetches into its root; `DataError` where it can't."""
    from torchvision import datasets

    try:
        getattr(datasets, name)(str(root), download=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"torchvision can't fetch {name} into {root}: {error}") from None


def _is_there(call: Call, offer: Published) -> bool:
    try:
        data = build(call, "Data")
    except DataError:
        return False
    return set(offer.counts) <= set(data.splits)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
