"""Which pictures an encoder sees: images of unlike sizes are prepared as each encoder's own authors evaluate it.

The preprocessing on an encoder's card (data/preprocess) is written into the data's spec as its `size`, so that a cell's
identity says which pictures it is about, and cells of unlike pictures are never compared image by image. Images of one size,
data with a size of its own, and tasks with dense targets keep what the data says.
"""

from __future__ import annotations

import ast
import functools

from hardsight.core.errors import SpecError
from hardsight.data import Data, open_data
from hardsight.data.images import UnlikeSizes
from hardsight.specs.catalog import build, complete, find, minimal
from hardsight.specs.syntax import Call, override, read, show


class Pictures:
    """A recipe's data as each encoder gets them. how: "auto", "data" (as the data's spec says), or a preprocessing's spec."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.filled: dict[str, dict[str, dict[str, None]]] = {}
        self._open = functools.cache(open_data)
        self._unlike: dict[str, UnlikeSizes] = {}
        self._own = functools.cache(own)

    def of(self, data: str, encoder: str, target: str) -> tuple[str, Data]:
        """The spec of the data for this encoder, and the data themselves; `target` is the task's.

        Raises `SpecError` if the images have unlike sizes and the encoder doesn't say how to prepare them, `UnlikeSizes` if a
        dense target needs their own sizes, `DataError`.
        """
        call = complete(data, "Data")
        if self.how == "data" or not _takes(call.name) or call["size"] is not None:
            return data, self._open(data)
        if self.how == "auto":
            if (trouble := self._trouble(data)) is None:
                return data, self._open(data)
            if not (preprocess := self._own(encoder)):
                raise SpecError(
                    f"the images of {data} differ in size, and {encoder} doesn't say how its authors prepare pictures: give "
                    "--set preprocess='evaluation(224, 256)', or the data's size="
                )
        else:
            trouble, preprocess = None, show(minimal(self.how))
        text = show(minimal(override(call, "size", read(preprocess))))
        opened = self._open(text)
        if target != "label" and target in opened.card.targets:
            if trouble:
                raise trouble
            return data, self._open(data)
        self.filled.setdefault(opened.card.name, {}).setdefault(preprocess, {})[encoder] = None
        return text, opened

    def notes(self) -> list[str]:
        """What a run says of the pictures, one sentence a data set. `SpecError` if no data took the recipe's preprocessing."""
        if self.how not in ("auto", "data") and not self.filled:
            raise SpecError(
                f"preprocess='{self.how}' is for images with labels whose spec gives no size=, and there are none"
            )
        return [
            f"{name}: images are prepared by "
            + "; ".join(f"{spec} for {', '.join(encoders)}" for spec, encoders in specs.items())
            for name, specs in self.filled.items()
        ]

    def _trouble(self, data: str) -> UnlikeSizes | None:
        if data not in self._unlike:
            try:
                self._open(data)
            except UnlikeSizes as error:
                self._unlike[data] = error
        return self._unlike.get(data)


def own(encoder: str) -> str:
    """The preprocessing on an encoder's card, "" if it has none; the encoder is loaded for it."""
    return build(complete(encoder, "Encoder"), "Encoder").card.preprocess


def prepared_by(data: str) -> str:
    """The preprocessing in a data set's spec, "" if there is none."""
    size = complete(data, "Data").get("size")
    return show(minimal(size)) if isinstance(size, Call) else ""


def _takes(reader: str) -> bool:
    """Whether a reader's `size` may be a preprocessing."""
    known = {parameter.name: ast.unparse(parameter.annotation) for parameter in find(reader).parameters}
    return "Preprocess" in known.get("size", "")
