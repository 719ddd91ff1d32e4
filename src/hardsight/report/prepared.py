"""Which pictures the encoders of a table saw: images of unlike sizes are prepared as each encoder's authors evaluate it.

The preprocessing stands in the data's spec, as its `size`; such specs are one data set in a table, and a sentence says where
its rows are of unlike pictures.
"""

from __future__ import annotations

from collections.abc import Iterable

from hardsight.core.errors import SpecError
from hardsight.specs.syntax import Call, read, show


def bare(spec: str) -> str:
    """A data set's spec without the preprocessing in it; any other text as it is."""
    try:
        call = read(spec)
    except SpecError:
        return spec
    kept = tuple((key, value) for key, value in call.arguments if key != "size" or not isinstance(value, Call))
    return spec if kept == call.arguments else show(Call(call.name, kept))


def sentence(cells: Iterable[tuple[str, str]]) -> list[str]:
    """At most one sentence on the pictures of some cells, each as the title of its encoder and the preprocessing, or ""."""
    found: dict[str, dict[str, None]] = {}
    for encoder, preprocess in cells:
        found.setdefault(preprocess, {})[encoder] = None
    if set(found) <= {""}:
        return []
    if len(found) == 1:
        return [f"images prepared by {next(iter(found))}"]
    parts = [f"{spec or 'as stored'} for {', '.join(encoders)}" for spec, encoders in sorted(found.items())]
    return [f"encoders saw unlike pictures of the same images: {'; '.join(parts)}"]
