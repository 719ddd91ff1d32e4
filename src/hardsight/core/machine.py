"""The machine: its devices, the installed packages and the git revision of this package."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import hardsight
from hardsight.core.errors import SpecError

VARIABLES = (
    "HARDSIGHT_CACHE",
    "HARDSIGHT_DATA",
    "HARDSIGHT_FEATURES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "NO_COLOR",
)
"""Environment variables that this package or the libraries below it read."""
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "transformers")


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first available of cuda, mps and cpu. `SpecError` if it is not available."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count())), "cpu"]
    elif torch.backends.mps.is_available():
        available = ["mps", "cpu"]
    if name == "auto":
        name = available[0]
    if name.startswith("cuda") and name in available:  # evaluate in full float32, and give the same rows at every run
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if name not in available:
        raise SpecError(f"there is no device '{name}' here; available: {', '.join(available)}")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({torch.get_num_threads()} threads)"
    )


def versions() -> dict[str, str]:
    import timm
    import torchvision

    return {
        "hardsight": hardsight.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


@functools.cache
def revision() -> dict[str, Any] | None:
    """The git revision of the package's source tree, and whether it has uncommitted changes; None outside such a tree."""
    here = Path(hardsight.__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel"), "src", "hardsight").resolve() != here:
            return None
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def facts() -> dict[str, Any]:
    """What `hardsight doctor` prints."""
    found: dict[str, Any] = {
        "hardsight": hardsight.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            hint = " (optional: pip install 'hardsight[hf]')" if package == "transformers" else ""
            found[package] = "not installed" + hint
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    found["cpu threads"] = torch.get_num_threads()
    found["bf16 on cpu"] = "in hardware" if bf16 else "emulated: --precision bf16 will be slow"
    found["cuda"] = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())) or "none"
    found["mps"] = "yes" if torch.backends.mps.is_available() else "none"
    return found | {name: os.environ.get(name, "not set") for name in VARIABLES}
