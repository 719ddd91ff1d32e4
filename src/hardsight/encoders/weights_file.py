"""Reads weight files without executing code: safetensors, npz without pickles, torch's own format with `weights_only`.

What a file is, is told by its content and not by its suffix; what is no weights at all (a web page, a pointer of Git LFS, a
packed folder) is refused by what it is. `read_weights` returns the content of a file, `tensors_in` every tensor in it that may belong to a network, by its path in
the file. Other content of a training checkpoint (settings, counters, optimizers) is replaced by placeholders or left out.
"""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.core.errors import WeightsError
from hardsight.encoders.layouts import COUNTERS, SKIPPED
from hardsight.encoders.places import file_there

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


HEAD = 4096
"""How many bytes of a file are read to see what it is."""
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
}
OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras saves weights", b"\x93NUMPY": "one array (.npy), without the names of weights",
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"%PDF": "a PDF", b"GGUF": "a GGUF file, of llama.cpp",
}  # fmt: skip
"""How files begin that are compressed, or that hold something else."""


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

    Raises `WeightsError`; for a file that cannot be loaded without running code, it says what to do if you trust that code,
    and for one that holds no weights what it is.
    """
    form = form_of(file_there(place))
    try:
        if form == "safetensors":
            from safetensors.torch import load_file

            return load_file(place)
        if form == "npz":
            import numpy

            with numpy.load(place, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        placeholders: list[Any] = [(Placeholder, name) for name in SETTINGS]
        with torch.serialization.safe_globals(placeholders), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocol 4
            if place.suffix == ".safetensors":  # torch.load goes by this suffix, whatever the file is
                with open(place, "rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
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
        kind = (place.suffix or "a checkpoint") if form == "torch" else f".{form}"
        raise WeightsError(
            f"{place} cannot be read as {kind}; it is damaged, or has another format ({_line(error)})"
        ) from None


def form_of(place: Path) -> Literal["safetensors", "npz", "torch"]:
    """The format of a file of weights, by its content; `WeightsError` if it is something else, or cut off, which it says."""
    size = place.stat().st_size
    with open(place, "rb") as file:
        head = file.read(HEAD)
    if what := _instead(head, size):
        raise WeightsError(f"{place} is {what}")
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(place):
            raise WeightsError(f"{place} is cut off: the end of the archive is missing; download it again")
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") and name.count("/") <= 1 for name in names):
            return "torch"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        raise WeightsError(f"{place} is {_folder('zip', names)}")
    if head[257:262] == b"ustar":
        with tarfile.open(place, "r:") as archive:
            names = [member.name for member in archive if member.isfile()]
        if not {"storages", "tensors", "pickle"} <= {name.removeprefix("./") for name in names}:  # torch before 0.1.10
            raise WeightsError(f"{place} is {_folder('tar', names)}")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 10**8:
        with open(place, "rb") as file:
            header = file.read(8 + length)[8:]
        ends = re.findall(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d+)', header)
        whole = 8 + length + max(map(int, ends), default=0)
        if len(header) < length or size < whole:
            raise WeightsError(f"{place} is cut off: it has {size:,} of at least {whole:,} bytes; download it again")
        return "safetensors"
    return "torch"


def _instead(head: bytes, size: int) -> str:
    """What a file that begins so is, if it can hold no weights, and what to do; "" if it can."""
    if not head:
        return "empty (0 bytes); download it again"
    if not head.strip(b"\0"):
        return "not written to its end: it begins with zeros; download it again"
    if packed := next((name for start, name in PACKED.items() if head.startswith(start)), ""):
        return f"compressed by {packed}; unpack it, and give the file of weights in it"
    if other := next((name for start, name in OTHERS.items() if head.startswith(start)), ""):
        return f"{other}; weights are read from .safetensors, .npz, and torch's .pt, .pth, .th, .ckpt, .tar and .bin"
    try:
        text = head.decode("utf-8-sig", errors="strict" if size <= HEAD else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    if b"\0" in head or not all(one.isprintable() or one.isspace() for one in text):
        return ""
    if text.startswith("version https://git-lfs"):
        stored = re.search(r"size (\d+)", text)
        of = f" of {int(stored[1]):,} bytes" if stored else ""
        return f"a Git LFS pointer, not the file{of} that it names; run 'git lfs pull' in its repository"
    if re.match(r"<(!doctype html|html|head)", text, re.IGNORECASE):
        title = re.search(r"<title>\s*(.{1,80}?)\s*</title>", text, re.IGNORECASE | re.DOTALL)
        name = f" ('{' '.join(title[1].split())}')" if title else ""
        return f"a web page{name}, saved in place of the file; download it again, from the file's own address"
    if '"weight_map"' in text:
        return "the index of weights that are in several files; give their folder, as hf:FOLDER"
    return f"text that begins '{' '.join(text[:60].split())}', not weights; download it again"


def _folder(kind: str, names: list[str]) -> str:
    inside = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" if names else "nothing"
    return f"a {kind} archive of files ({inside}); unpack it, and give the file of weights in it"


def tensors_in(stored: object, place: Path, key: str = "") -> State:
    """Every tensor in a file's content, by its path (`state_dict.module.conv1.weight`), without optimizers and the like.

    key: the part to search (`state_dict`, `a.b`); it is left out of the paths. Raises `WeightsError`, which lists the keys.
    """
    for part in key.split(".") if key else ():
        if not isinstance(stored, Mapping) or part not in stored:
            raise WeightsError(f"{place} has no '{key}'; it has {_listed(stored)}")
        stored = stored[part]
    if isinstance(stored, Mapping) and {"ema_state_dict", "message_hub"} <= stored.keys():
        # mmengine's EMAHook saves the averaged weights as state_dict, and as ema_state_dict those that are trained
        stored = {"current_model_state" if name == "ema_state_dict" else name: value for name, value in stored.items()}
    found = dict(_flat(stored, "")) if isinstance(stored, Mapping) else {}
    if not found:
        raise WeightsError(f"{place} holds no state dict; it has {_listed(stored)}; give key=...")
    return found


def _flat(stored: Mapping[Any, Any], before: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in stored.items():
        if not isinstance(name, str) or SKIPPED.fullmatch(name):
            continue
        if isinstance(value, Tensor):
            if value.numel() != 1 or not COUNTERS.fullmatch(name.rpartition(".")[2]):
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
