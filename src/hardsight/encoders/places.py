"""Where the weights of an encoder are that a spec names by a path: whether they are there can be asked without torch."""

from __future__ import annotations

from pathlib import Path

from hardsight.core.errors import WeightsError


def file_there(place: Path) -> Path:
    """The path of a file of weights; `WeightsError` if there is none."""
    if not place.is_file():
        raise WeightsError(f"there is no file {place}" + ("; it is a folder" if place.is_dir() else ""))
    return place


def run_there(folder: Path) -> Path:
    """The folder of a training run; `WeightsError` if there is none."""
    if not folder.is_dir():
        raise WeightsError(f"there is no run {folder}")
    return folder
