"""Files of weights, read without running anything: safetensors, npz without pickles, torch's own with `weights_only`.

`read_weights` gives what is in the file, `tensors_in` every tensor of it that may be a network's, under its path in the file.
What a training script stored besides (its settings, counters, optimizers) is read as nothing or left out.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardsight.core.errors import WeightsError
from hardsight.encoders.layouts import SKIPPED

State = dict[str, Tensor]
PICKLE = b"\x80"
"""How a pickle begins, from protocol 2 on."""

# fmt: off
SETTINGS = (
    "argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType", "numpy.dtypes.Int64DType",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "omegaconf.nodes.StringNode", "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode", "omegaconf.nodes.BooleanNode", "typing.Any", "builtins.dict", "builtins.list", "builtins.int",
    "collections.defaultdict", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)
# fmt: on
"""Classes that settings and counters are pickled as: solo-learn's omegaconf, DINO's and MAE's arguments, numpy's scalars. A
`Nothing` stands in for each, so that none of their code runs; nothing in them is used."""


class Nothing:
    """Takes whatever an unpickler gives it, and keeps none of it."""

    def __new__(cls, *args: object, **kwargs: object) -> Nothing:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(place: Path) -> object:
    """What is in the file, without running any code.

    Raises `WeightsError`, one line; of a file that would have to run code, it says what to do where that code is trusted.
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
        stand_ins: list[Any] = [(Nothing, name) for name in SETTINGS]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles' protocol 4
            mapped = zipfile.is_zipfile(place)  # of a checkpoint with an optimizer, only what is used is read
            return torch.load(place, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or ("Unsupported" in str(error) and _first(place) == PICKLE):
            what = f" of {named[1]}" if named else ""
            raise WeightsError(
                f"{place} is refused: it holds an object{what}, and would run code when read; where you trust it, "
                "torch.load it with weights_only=False and save its state_dict() as safetensors"
            ) from None
        raise WeightsError(f"{place} is not a checkpoint that torch can read; it is damaged, or of another kind") from None
    except Exception as error:
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{place} is refused: a TorchScript archive would run code when read; where you trust it, "
                "save torch.jit.load(..).state_dict() as safetensors"
            ) from None
        kind = place.suffix or "a checkpoint"
        raise WeightsError(f"{place} cannot be read as {kind}; it is damaged, or of another kind ({_line(error)})") from None


def tensors_in(stored: object, place: Path, key: str = "") -> State:
    """Every tensor within what a file holds, under its path (`state_dict.module.conv1.weight`); optimizers and such left out.

    key: where to look (`state_dict`, `a.b`), not part of the paths then. Raises `WeightsError`, which lists what is there.
    """
    for part in key.split(".") if key else ():
        if not isinstance(stored, Mapping) or part not in stored:
            raise WeightsError(f"{place} has no '{key}'; there is {_listed(stored)}")
        stored = stored[part]
    found = dict(_flat(stored, "")) if isinstance(stored, Mapping) else {}
    if not found:
        raise WeightsError(f"{place} holds no state dict; there is {_listed(stored)}; say key=...")
    return found


def _flat(stored: Mapping[Any, Any], before: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in stored.items():
        if not isinstance(name, str) or SKIPPED.fullmatch(name):
            continue
        if isinstance(value, Tensor):
            yield before + name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")


def _listed(stored: object) -> str:
    keys = [str(key) for key in stored] if isinstance(stored, Mapping) else []
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return f"{', '.join(keys[:8])}{more}" if keys else f"a {type(stored).__name__}"


def _first(place: Path) -> bytes:
    with open(place, "rb") as file:
        return file.read(1)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
