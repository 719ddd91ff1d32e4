"""What can go wrong, told to a person: each error is one line that says what was wrong, where, and what would be right.

Every error a user can cause is a `HardsightError`; the command line prints its line and exits with code 2. Those that a
library user may catch by a built-in name inherit from it too (`SpecError` is a `ValueError`, and so on).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HardsightError(Exception):
    """Base of everything a user can cause."""


class SpecError(HardsightError, ValueError):
    """A spec, an argument or an option that cannot mean what it says."""


class DataError(HardsightError, ValueError):
    """A folder, an image, a mask or a depth map that is not what its format says."""


class ShapeError(HardsightError, ValueError):
    """A model, a head or a loss that answers in another shape than what it reads calls for."""


class WeightsError(HardsightError, ValueError):
    """Weights that are missing, do not fit the architecture, or would run code when read."""


class StoreError(HardsightError, RuntimeError):
    """A store that cannot be read, written, or continued."""


class MissingDependency(HardsightError, ImportError):
    """An optional package that the asked-for thing needs."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'pgd'?` where one of `known` is near to `name`, and the empty string where none is."""
    found = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    if not found:
        return ""
    alike = [difflib.SequenceMatcher(None, name, one).ratio() for one in found]
    near = [one for one, ratio in zip(found, alike, strict=True) if ratio > alike[0] - 0.1]
    return f"; did you mean '{min(near, key=lambda one: abs(len(one) - len(name)))}'?"  # a letter changes more often than the length
