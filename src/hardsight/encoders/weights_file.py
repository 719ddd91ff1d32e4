"""Files of weights, read without running anything: safetensors, npz without pickles, torch's own with `weights_only`.

`read_weights` gives what is in the file, `state_in` finds the state dict under the keys that people wrap it in.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hardsight.errors import WeightsError

State = dict[str, Tensor]
# fmt: off
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "teacher", "student", "net", "network", "encoder",
    "backbone", "params", "weights", "module", "ema_state_dict", "model_ema",
)
# fmt: on
"""Keys that a state dict is found under, the first that is there: of DINO's two networks the teacher, the one evaluated."""


def read_weights(place: Path) -> object:
    """What is in the file, without running any code.

    Raises `WeightsError`, one line.
    """
    if not place.is_file():
        raise WeightsError(f"there is no file {place}" + ("; it is a folder" if place.is_dir() else ""))
    try:
        if place.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(place)
        if place.suffix == ".npz":
            import numpy

            with numpy.load(place, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # DINO's and MAE's files keep their arguments in a Namespace; the warning is of pickles' protocol 4
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or "Unsupported" in str(error):
            what = f" ({named[1]})" if named else ""
            raise WeightsError(
                f"{place} is refused: it would run code{what} when read; save its state dict as safetensors"
            ) from None
        raise WeightsError(f"{place} is not a checkpoint that torch can read: {_line(error)}") from None
    except Exception as error:
        raise WeightsError(f"{place} cannot be read as {place.suffix or 'a checkpoint'}: {_line(error)}") from None


def state_in(stored: object, place: Path, key: str = "") -> tuple[State, str]:
    """The state dict within what a file holds, and the key that it was under ('' for none).

    Raises `WeightsError`, which lists the keys that there are.
    """
    if key:
        for part in key.split("."):
            if not isinstance(stored, Mapping) or part not in stored:
                raise WeightsError(f"{place} has no '{key}'; there is {_listed(stored)}")
            stored = stored[part]
    path = [key] if key else []
    while isinstance(stored, Mapping):
        tensors = {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
        if len(tensors) > len(stored) / 2:
            return tensors, ".".join(path)
        inner = next((name for name in WRAPPERS if isinstance(stored.get(name), Mapping)), None)
        if inner is None:
            break
        stored = stored[inner]
        path.append(inner)
    raise WeightsError(f"{place} holds no state dict where they usually are; say key=..., there is {_listed(stored)}")


def _listed(stored: object) -> str:
    keys = [str(key) for key in stored] if isinstance(stored, Mapping) else []
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return f"{', '.join(keys[:8])}{more}" if keys else f"a {type(stored).__name__}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
