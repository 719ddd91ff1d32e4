"""What no shape of a checkpoint shows, such as the number of attention heads: known for published networks, by their values.

Weights of 12 heads load into a network of 6 without an error and give other features. A row here recognizes a network by
values that its authors don't train; of other transformers, the card says which number was taken from the architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Published(NamedTuple):
    """A published network: the architectures that its shapes fit, how it is recognized, the options that it needs."""

    name: str
    arch: str
    seen: Callable[[Mapping[str, Any]], bool]
    options: dict[str, object]
    source: str


def moco_positions(state: Mapping[str, Any]) -> bool:
    """Whether the position embeddings are MoCo v3's: fixed sines and cosines of the row, then of the column.

    The class token's are 0. MAE's are those of the column first.
    """
    found = state.get("pos_embed")
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[2] % 4:
        return False
    side, quarter = math.isqrt(found.shape[1] - 1), found.shape[2] // 4
    if side * side != found.shape[1] - 1 or found[:, 0].any():
        return False
    rates = 10000.0 ** (-torch.arange(quarter) / quarter)
    row = torch.arange(side)[:, None] * rates
    rows, columns = row.repeat_interleave(side, 0), row.repeat(side, 1)
    wanted = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 1)
    return torch.allclose(found[0, 1:].float(), wanted, atol=1e-3)


PUBLISHED = (
    Published(
        "MoCo v3's ViT-S", r"vit_small_patch\d+_\d+.*", moco_positions, {"num_heads": 12}, "facebookresearch/moco-v3 vits.py"
    ),
)


def options_of(arch: str, state: Mapping[str, Any], given: dict[str, object]) -> tuple[dict[str, object], str]:
    """The options of the published network that `state` holds, below those that are given, and a note for the card."""
    for one in PUBLISHED:
        if re.fullmatch(one.arch, arch.removeprefix("timm:")) and not one.options.keys() & given.keys() and one.seen(state):
            return {**one.options, **given}, f"{', '.join(f'{k}={v}' for k, v in one.options.items())} of {one.name}"
    return given, ""


def heads_of(net: nn.Module) -> str:
    """A note on a transformer's number of heads, "" for other networks."""
    counts = {getattr(part, "num_heads", None) for part in net.modules()}
    found = sorted(count for count in counts if isinstance(count, int))
    return f"heads: {', '.join(map(str, found))}, by the architecture" if found else ""
