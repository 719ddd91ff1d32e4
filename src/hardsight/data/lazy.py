"""Lazy loading: optional packages are imported, and long file lists are built, only when they are needed.

Listing a million files takes seconds, and so does importing a package; opening some other data set must not pay for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hardsight.core.errors import MissingDependency
from hardsight.data.base import Images, Sample


def need(module: str, reader: str, extra: str = "data") -> ModuleType:
    """Imports and returns a module; raises `MissingDependency`, which names the extra to install, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingDependency(f"{reader} needs {package}: pip install 'hardsight[{extra}]'") from None


class Lazy:
    """A split that is built on first use."""

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

    def forget(self) -> None:
        """Frees the images that the split has cached, if it was built."""
        if forget := getattr(self._made, "forget", None):
            forget()

    def __getattr__(self, name: str) -> Any:
        """Other attributes of the split, such as `batch`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.images, name)
