"""Encoders: pixels in [0, 1] in, features out. `load_encoder(spec)` loads one; each source of encoders is a file here.

Importing this package does not import torch; loading an encoder does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardsight.core.errors import SpecError, nearest
from hardsight.specs.catalog import build, complete, entries
from hardsight.specs.syntax import Call, read

if TYPE_CHECKING:
    import torch

    from hardsight.encoders.base import Encoder


def load_encoder(spec: str | Call, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that `spec` names, on `device`, in eval mode, with frozen weights and their SHA-256 on its card.

    Raises `SpecError` (unknown source, name or argument; with the most similar known one), `WeightsError` (weights missing,
    unreadable or of another network), `MissingDependency`.
    """
    call = read(spec) if isinstance(spec, str) else spec
    if call.name not in entries():
        raise _unknown(call.name)
    encoder = build(complete(call, "Encoder"), "Encoder")
    encoder.eval().requires_grad_(False)
    return encoder.with_card(sha256=weights_hash(encoder)).to(device)


def weights_hash(module: Any) -> str:
    """SHA-256 over the sorted names, dtypes, shapes and bytes of a module's parameters and buffers."""
    from hardsight.encoders import adapt

    return adapt.weights_hash(module)


def _unknown(name: str) -> SpecError:
    """The error for a name that is not a source: often it is a model of one, written without its source."""
    from hardsight.encoders.zoo import known

    zoo = [entry["name"] for entry in known()]
    sources = sorted(key for key, entry in entries().items() if entry.kind == "Encoder")
    if name in zoo:
        return SpecError(f"there is no encoder '{name}'; did you mean 'zoo:{name}'?")
    import timm

    if timm.is_model(name):
        return SpecError(f"there is no encoder '{name}'; did you mean 'timm:{name}'?")
    if hint := nearest(name, sources):
        return SpecError(f"there is no encoder '{name}'{hint}")
    if hint := nearest(f"zoo:{name}", [f"zoo:{entry}" for entry in zoo]):
        return SpecError(f"there is no encoder '{name}'{hint}")
    return SpecError(f"there is no encoder '{name}'; sources: {', '.join(sources)}")
