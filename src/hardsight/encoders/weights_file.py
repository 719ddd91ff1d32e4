"""Reads weight files without executing code: safetensors, npz without pickles, torch's own format with `weights_only`.

`read_weights` returns the content of a file, `tensors_in` every tensor in it that may belong to a network, by its path in
the file. Other content of a training checkpoint (settings, counters, optimizers) is replaced by placeholders or left out.
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
"""The first byte of a pickle, from protocol 2 on."""

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
"""Classes of pickled settings and counters: solo-learn's omegaconf, DINO's and MAE's arguments, numpy's scalars. A
`Placeholder` replaces each of them, so that none of their code runs; their content is not used."""


class Placeholder:
    """Accepts any arguments and state from an unpickler, and discards them."""

    def __new__(cls, *args: object, **kwargs: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(place: Path) -> object:
    """The content of the file, loaded without running code.

    Raises `WeightsError`; for a file that cannot be loaded without running code, it says what to do if you trust that code.
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
        placeholders: list[Any] = [(Placeholder, name) for name in SETTINGS]
        with torch.serialization.safe_globals(placeholders), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocol 4
            mapped = zipfile.is_zipfile(place)  # so that only the used part of a checkpoint with an optimizer is read
            return torch.load(place, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or ("Unsupported" in str(error) and _first(place) == PICKLE):
            what = f" of {named[1]}" if named else ""
            raise WeightsError(
                f"{place} is refused: it holds an object{what}, and would run code when loaded; if you trust it, "
                "torch.load it with weights_only=False and save its state_dict() as safetensors"
            ) from None
        raise WeightsError(
            f"{place} is not a checkpoint that torch can read; it is damaged, or has another format"
        ) from None
    except Exception as error:
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{place} is refused: a TorchScript archive would run code when loaded; if you trust it, "
                "save torch.jit.load(..).state_dict() as safetensors"
            ) from None
        kind = place.suffix or "a checkpoint"
        raise WeightsError(
            f"{place} cannot be read as {kind}; it is damaged, or has another format ({_line(error)})"
        ) from None


def tensors_in(stored: object, place: Path, key: str = "") -> State:
    """Every tensor in a file's content, by its path (`state_dict.module.conv1.weight`), without optimizers and the like.

    key: the part to search (`state_dict`, `a.b`); it is left out of the paths. Raises `WeightsError`, which lists the keys.
    """
    for part in key.split(".") if key else ():
        if not isinstance(stored, Mapping) or part not in stored:
            raise WeightsError(f"{place} has no '{key}'; it has {_listed(stored)}")
        stored = stored[part]
    found = dict(_flat(stored, "")) if isinstance(stored, Mapping) else {}
    if not found:
        raise WeightsError(f"{place} holds no state dict; it has {_listed(stored)}; give key=...")
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
