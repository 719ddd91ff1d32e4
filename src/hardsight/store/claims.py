"""Claims: which process works on what, for many processes and machines on one shared folder.

    STORE/claims/<what>.json    who works on it, and since when; its date is renewed every `BEAT` seconds

A claim is made by a hard link, which one of two processes gets on NFS too. It saves work and decides nothing: what is claimed has
one possible content and is written by a rename, so two processes that do the same work write the same bytes.

A claim is void if its process has ended, which is known at once on the same machine. Of another machine's process it is known when
its file hasn't changed for `STALE` seconds *while this process looked on*: no two clocks are compared, so none may be wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardsight.core.process import runs, token
from hardsight.store.files import ABANDONED, ASIDE, cannot_write, clock, sweep

BEAT, STALE = 10.0, 90.0
"""Seconds. NFS clients see a file's date up to 60 s late."""
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Busy(Exception):
    """Another process is at what is needed here; something else can be done meanwhile."""


class Claims:
    """The claims of this process on a store; use as a context manager, which gives all of them back."""

    def __init__(self, store: Path) -> None:
        self.folder = store / "claims"
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[Any, float]] = {}
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> Claims:
        self._over = threading.Event()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for path in list(self._held):
            self._release(path)
        sweep(self.folder)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def take(self, what: str, said: str = "") -> bool:
        """Whether this process has the claim now. said: what it does, for people. `StoreError` if the folder can't be written to."""
        path = self._path(what)
        for _ in range(2):
            if self._make(path, said):
                self._held.add(path)
                self._keep()
                return True
            if path in self._held or not self._void(path):
                return False
            self._remove(path)
        return False

    def clear(self) -> None:
        """Removes the claims that killed processes have left, also on what is done since, which nobody takes over."""
        for what, claim in held(self.folder.parent).items():
            known = runs(claim["who"])
            if known is False or (known is None and clock(self.folder) - claim["changed"] > ABANDONED):
                self._remove(self._path(what))
        sweep(self.folder)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def release(self, what: str) -> None:
        self._release(self._path(what))

    @contextlib.contextmanager
    def held(self, what: str, said: str = "") -> Iterator[bool]:
        """Whether this process has the claim within the block."""
        mine = self.take(what, said)
        try:
            yield mine
        finally:
            if mine:
                self.release(what)

    def taken(self, what: str) -> bool:
        """Whether another process has a claim that is not void."""
        path = self._path(what)
        return path not in self._held and path.exists() and not self._void(path)

    def _path(self, what: str) -> Path:
        return self.folder / f"{what}.json"

    def _make(self, path: Path, said: str) -> bool:
        aside = path.with_name(f".{path.name}.{token()}{ASIDE}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(aside, "w", encoding="utf-8") as file:
                since = os.fstat(file.fileno()).st_mtime  # by the file system's clock
                json.dump({"who": token(), "host": socket.gethostname(), "since": since, "what": said}, file)
            try:
                os.link(aside, path)
            except FileExistsError:
                return (
                    os.stat(aside).st_nlink == 2
                )  # NFS: the answer to a link that was made was lost, and it was asked again
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                with open(path, "x", encoding="utf-8") as file:
                    file.write(aside.read_text(encoding="utf-8"))
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            return False  # another process has just taken the empty folder away
        except OSError as error:
            raise cannot_write(path, error) from None
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def _void(self, path: Path) -> bool:
        try:
            state = (who := _holder(path), path.stat().st_mtime_ns)
        except FileNotFoundError:
            return True
        if (known := runs(who)) is not None:
            return not known
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if before != state:
            self._seen[path] = (state, now)
            return False
        return now - since > STALE

    def _remove(self, path: Path) -> None:
        """Removes a void claim; two processes that find it void remove it once, and not a claim that was made since."""
        who, aside = _holder(path, missing=""), path.with_name(f".{path.name}.{token()}{ASIDE}")
        with contextlib.suppress(OSError):
            os.rename(path, aside)
            if _holder(aside) != who:
                os.link(aside, path)
            aside.unlink()

    def _release(self, path: Path) -> None:
        self._held.discard(path)
        with contextlib.suppress(OSError):
            if _holder(path, missing="") == token():
                path.unlink()

    def _keep(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._beat, args=(self._over,), daemon=True)
            self._keeper.start()

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT):
            for path in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(path)  # without a time: that of the file system


def _holder(path: Path, missing: str | None = None) -> str:
    """The token in a claim; "" if it isn't readable (yet). missing: the answer if there is none, None: `FileNotFoundError`."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["who"])
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def held(store: Path) -> dict[str, dict[str, Any]]:
    """Every claim in a store by what it is on: "who", "host", "since" (by the file system's clock), "what", "changed"."""
    found = {}
    for path in sorted((store / "claims").glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError):
            found[path.stem] = {**json.loads(path.read_text(encoding="utf-8")), "changed": path.stat().st_mtime}
    return found
