"""The errors of this package: each message is one line that says what was wrong, where, and what would be right.

Every error that a user can cause is a `HardsightError`; the command line prints its message and exits with code 2. Most also
inherit from a built-in exception, so that library users can catch that one (`SpecError` is a `ValueError`, and so on).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HardsightError(Exception):
    """Base class of every error that a user can cause."""


class SpecError(HardsightError, ValueError):
    """A spec, an argument or an option with an invalid value or meaning."""


class DataError(HardsightError, ValueError):
    """A folder, an image, a mask or a depth map that does not follow its format."""


class ShapeError(HardsightError, ValueError):
    """A model, a head or a loss whose input or output has an unexpected shape."""


class WeightsError(HardsightError, ValueError):
    """Weights that are missing, do not fit the architecture, or would execute code when loaded."""


class StoreError(HardsightError, RuntimeError):
    """A store that cannot be read, written or resumed."""


class ProcessLost(HardsightError, RuntimeError):
    """One of the processes of a training run has ended, and the others cannot go on without it."""


class MissingDependency(HardsightError, ImportError):
    """An optional package that the requested feature needs is not installed."""


class DataWarning(UserWarning):
    """Data that look wrong but can be read: said once, in one line, which the command line prints without its place in the code."""


class PassedOver(DataWarning):
    """Files in a data folder that a reader does not read, such as hidden ones or those of another format."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'pgd'?` if one of `known` is similar to `name`, else the empty string."""
    found = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    if not found:
        return ""
    alike = [difflib.SequenceMatcher(None, name, one).ratio() for one in found]
    near = [one for one, ratio in zip(found, alike, strict=True) if ratio > alike[0] - 0.1]
    return f"; did you mean '{min(near, key=lambda one: abs(len(one) - len(name)))}'?"  # typos rarely change the length
