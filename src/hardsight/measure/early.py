"""Wrong arguments that can be noticed without torch, so that they are said at once: files, folders and names that are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hardsight.core.errors import DataError
from hardsight.data.globs import TOKEN, fixed
from hardsight.data.images import expand, list_images
from hardsight.encoders.places import file_there, run_there
from hardsight.encoders.zoo import entry
from hardsight.specs.catalog import build, complete, find
from hardsight.specs.recipe import Recipe
from hardsight.specs.syntax import Call, calls_in


def check_recipe(recipe: Recipe) -> None:
    """`HardsightError` if an encoder's file, a run's folder, an entry of the zoo or a data set's folder is not there."""
    check_encoders(recipe.encoders)
    check_data(recipe.data)


def check_encoders(specs: Iterable[str]) -> None:
    for call in (part for text in specs for part in calls_in(complete(text, "Encoder"))):
        if call.name == "zoo":
            entry(call["name"])
        elif call.name == "file":
            file_there(_expanded(call["path"]))
        elif call.name == "run":
            run_there(_expanded(call["folder"]))


def check_data(specs: Iterable[str]) -> None:
    """`DataError` if a data set's folder is missing or empty: its reader says what it should hold."""
    for call in (part for text in specs for part in calls_in(complete(text, "Data"))):
        if find(call.name).kind == "Data" and _lacks_its_folder(call):
            build(call, "Data")


def images_for(source: Path, target: Path) -> list[Path]:
    """The images of a folder; `DataError` if there are none, or if their adversarial versions would be written into it."""
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise DataError(
            f"{target} lies within {source}: adversarial images would be mixed with the clean ones; give another --out"
        )
    return list_images(source)


def _lacks_its_folder(call: Call) -> bool:
    root = call.get("root") or (call["images"] if call.name == "pairs" else None)
    if not isinstance(root, str):
        return False
    place = fixed(root) if TOKEN.search(root) else expand(root)
    return not place.exists() or (place.is_dir() and not os.listdir(place))


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
