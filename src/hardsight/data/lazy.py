"""What waits until it is needed: packages that only some formats want, and splits whose list is long.

A list of a million files takes seconds, a package takes its import: neither is paid for by opening the data set next to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hardsight.core.errors import MissingDependency
from hardsight.data.base import Images, Sample


def need(module: str, reader: str, extra: str = "data") -> ModuleType:
    """The module, imported now; `MissingDependency` where it is not installed, with the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingDependency(f"{reader} needs {package}: pip install 'hardsight[{extra}]'") from None


class Lazy:
    """A split that is put together when it is first asked for anything."""

    def __init__(self, make: Callable[[], Images]) -> None:
        self._make = make
        self._made: Images | None = None

    @property
    def images(self) -> Images:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, place: int) -> Sample:
        return self.images.sample(place)

    def __getattr__(self, name: str) -> Any:
        """What else the split has, such as `batch`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.images, name)
