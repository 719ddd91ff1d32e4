"""Encoders trained by this package: `run:runs/cf-amc-ssl`, a folder written by `hardsight pretrain` or `harden`.

The network is built again from the encoder's spec in the recipe; the weights are those of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders.base import Encoder
from hardsight.encoders.places import run_there
from hardsight.encoders.timm_models import TimmBody
from hardsight.specs.catalog import build, complete, register
from hardsight.specs.syntax import override, show

LAST, BEST, CARD = "encoder.safetensors", "best.safetensors", ".json"


@register
def run(
    folder: str,
    best: bool = False,
    epoch: int | None = None,
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] | None = None,
) -> Encoder:
    """The encoder that a training run exported; `~` and `$NAME` in folder are expanded.

    best: the encoder with the best result on the run's held-out images, instead of the last one. epoch: the encoder saved
    after that many epochs, if the recipe has `snapshots`. size, resize, layers: override the recipe's, with the meaning they
    have for the encoder's source. Raises `WeightsError` if the run is not finished, or the weights don't match their card.
    """
    if best and epoch is not None:
        raise SpecError("run: best and epoch name two encoders; give only one of them")
    path = exported(folder, best, epoch)
    content, card = _read(path, path.parent)
    call = complete(str(card["recipe"]["encoder"]), "Encoder")
    for key, value in (("size", size), ("resize", resize), ("layers", layers)):
        if value is not None:
            call = override(call, key, value)
    if call.get("pretrained") is True:
        call = override(call, "pretrained", False)  # its weights would be overwritten
    encoder = build(call, "Encoder")
    try:
        network_of(encoder).load_state_dict(load(content))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} does not fit {show(call)}: {text}") from None
    note = f"{card['recipe']['method']} on {card['recipe']['data']}, epoch {card.get('epoch')}"
    source = f"run:{folder}" + (" (best)" if best else "")
    encoder.card = replace(
        encoder.card, name=card["name"], source=source, note=f"{note}; {card['licence_note']}", licence=card["licence"]
    )
    return encoder


def exported(folder: str, best: bool, epoch: int | None) -> Path:
    """The path of the encoder that a `run` names; it may not exist."""
    return Path(os.path.expandvars(folder)).expanduser() / (BEST if best else LAST if epoch is None else snapshot(epoch))


def snapshot(epoch: int) -> str:
    """The file name of the encoder saved after that many epochs."""
    return f"epoch-{epoch:05d}.safetensors"


def network_of(encoder: Encoder) -> nn.Module:
    """The network whose parameter names an exported file uses: timm's model for a timm encoder, else the body."""
    return encoder.body.model if isinstance(encoder.body, TimmBody) else encoder.body


def _read(path: Path, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and its card, after a check that the hash on the card matches."""
    run_there(folder)
    if not path.is_file():
        existing = ", ".join(sorted(one.name for one in folder.glob("*.safetensors"))) or "none"
        raise WeightsError(
            f"{folder} holds no {path.name} (it has: {existing}); 'hardsight resume {folder}' continues the run"
        )
    content = path.read_bytes()
    try:
        card = json.loads(path.with_suffix(CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {path.with_suffix(CARD)}, the card of {path.name}: {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != card["file_sha256"]:
        raise WeightsError(
            f"{path} is not the file of its card: sha256 {found[:12]}.. instead of {card['file_sha256'][:12]}.."
        )
    return content, card
