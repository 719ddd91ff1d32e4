"""What a run exports: the encoder's weights as safetensors, with their network's own names, and a card that describes them.

A timm model's file can be loaded by `timm.create_model(arch, checkpoint_path=...)`; `run:FOLDER` reads file and card.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

import hardsight
from hardsight.core import machine
from hardsight.data.base import DataCard
from hardsight.encoders.adapt import weights_hash
from hardsight.encoders.base import Encoder
from hardsight.encoders.runs import CARD, network_of
from hardsight.store.files import write_bytes, write_json
from hardsight.training.engine.recipe import TrainingRecipe, to_dict

State = dict[str, Tensor]


def write_encoder(
    path: Path, encoder: Encoder, state: State | None, recipe: TrainingRecipe, data: DataCard, extra: dict[str, Any]
) -> Path:
    """Writes `path`, a .safetensors file, and its card next to it. state: the network's full weights, where they are
    sharded.

    extra: what the run adds to the card: epoch, step, scores.
    """
    network, names = network_of(encoder), encoder.body.state_dict() if state is None else state
    prefix = "" if network is encoder.body else "model."
    tensors = {name.removeprefix(prefix): value.detach().cpu().contiguous() for name, value in names.items()}
    content = save({name: value.clone() for name, value in tensors.items()}, metadata={"format": "pt"})
    card = replace(encoder.card, name=recipe.name, sha256=weights_hash(encoder) if state is None else "")
    before = encoder.card
    licence = f"starts from {before.name} ({before.licence}); trained on {data.name} (licence: {data.licence})"
    write_bytes(path, content)
    write_json(
        path.with_suffix(CARD),
        {
            **asdict(card),
            "file_sha256": hashlib.sha256(content).hexdigest(),
            "licence_note": licence,
            "recipe": to_dict(recipe),
            "hardsight": hardsight.__version__,
            "revision": machine.revision(),
            **extra,
        },
    )
    return path
