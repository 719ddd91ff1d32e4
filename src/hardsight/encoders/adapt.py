"""What every source of encoders needs: layers checked, weights hashed and seeded, downloads told plainly, a card by dry run.

A source finds a network and wraps it as a body; `finish` puts the body behind pixels in [0, 1], runs one small grey image
through it and writes on the card what came out. Nothing here knows where a network came from.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import socket
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError, nearest
from hardsight.encoders.base import Card, Encoder, Seen

HUGGING_FACE = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or "huggingface.co"


def positions(layers: Sequence[int], depth: int, name: str) -> tuple[int, ...]:
    """Layers counted from 0; negative ones count from the end.

    Raises `SpecError`, which says how many there are.
    """
    for layer in layers:
        if not -depth <= layer < depth:
            raise SpecError(f"{name} has {depth} layers, 0 to {depth - 1} or -{depth} to -1; there is no layer {layer}")
    return tuple(layer % depth for layer in layers)


def need_sides(name: str, *sides: int | None) -> None:
    """Refuses a `size` or `resize` below one pixel with a `SpecError`; None is none given."""
    if any(side is not None and side < 1 for side in sides):
        raise SpecError(
            f"{name}: size and resize are sides in pixels, at least 1, not {min(s for s in sides if s is not None)}"
        )


def closest(name: str, known: Iterable[str]) -> str:
    """`errors.nearest` over the one most similar name alone: models' names differ much in length."""
    return nearest(name, difflib.get_close_matches(name, list(known), n=1, cutoff=0.5))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights made within are those of `seed`; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def weights_hash(module: nn.Module) -> str:
    """SHA-256 in hexadecimal over the sorted names, dtypes, shapes and bytes of the module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def classes_of(head: nn.Module | None) -> int:
    """Classes of the last linear layer within a classifier, 0 where it has none."""
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)] if head is not None else []
    return linear[-1].out_features if linear else 0


def need_side(pixels: Tensor, side: int, name: str) -> None:
    """Refuses pixels [B, 3, H, W] of another side than the one a network was built for.

    Raises `SpecError`, which names the two ways out.
    """
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        raise SpecError(
            f"{name} was built for {side}x{side} pixels and cannot take {height}x{width}; "
            f"build it with size={min(height, width)} where it can, or with resize={side}"
        )


@contextlib.contextmanager
def downloading(what: str, otherwise: str, host: str) -> Iterator[None]:
    """Whatever goes wrong while fetching `what` becomes one `WeightsError` that says what would work.

    otherwise: a last way out. host: where from; '' for nothing but this machine's files. Where the host's name cannot be
    resolved, the Hugging Face client would try for most of a minute: it is told to read its cache or fail at once.
    """
    offline = bool(host) and _unreachable(host)
    try:
        with _hub_offline() if offline else contextlib.nullcontext():
            yield
    except (SpecError, WeightsError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        reason = f"{host} cannot be reached, and no cache has it" if offline else f"{type(error).__name__}: {reason[:160]}"
        raise WeightsError(
            f"{what} could not be had: {reason}; fill the cache once on a machine with a network and set HF_HUB_OFFLINE=1, "
            f"give a checkpoint with file:PATH(arch=...), or use {otherwise}"
        ) from error


def finish(
    body: Any, name: str, arch: str, source: str, layers: tuple[int, ...], size: int, dry: int, **known: Any
) -> Encoder:
    """The encoder around `body`, in eval mode, its card filled in by one grey image of `dry` pixels a side.

    size: the side it was made for. known: further fields of the card. Raises `SpecError` for layers that it has not.
    """
    resize = known.pop("resize", None)
    need_sides(name, size, resize)
    positions(layers, int(body.depth), name)
    count = sum(parameter.numel() for parameter in body.parameters())
    card = Card(name, arch, source, dim=0, dense_dim=0, stride=0, size=size, parameters=count, **known)  # type: ignore[arg-type]
    encoder = Encoder(body, card, layers).eval()
    with torch.no_grad():
        seen = encoder(torch.full((1, 3, dry, dry), 0.5))
    dense = seen.dense
    stride = (
        0 if dense is None else round(seen.covered[1] / dense.shape[-1] * (size / resize if isinstance(resize, int) else 1))
    )
    return encoder.with_card(
        dim=seen.pooled.shape[1], dense_dim=0 if dense is None else dense.shape[1], stride=stride, resize=resize
    )


class Staged(nn.Module):
    """Body of a network that is a chain of stages: each one's output is a map, and `pool` makes the last into a vector.

    The stages, `pool` (map -> [B, D]) and `head` ([B, D] -> logits) are modules; `side`: the only input side it takes, or 0.
    """

    def __init__(
        self, stages: Sequence[nn.Module], pool: nn.Module, head: nn.Module | None, name: str, side: int = 0
    ) -> None:
        super().__init__()
        self.stages, self.pool, self.head = nn.ModuleList(stages), pool, head
        self.name, self.side, self.depth, self.multiple = name, side, len(stages), 1

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> Seen:
        if self.side:
            need_side(pixels, self.side, self.name)
        maps, x = [], pixels
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = self.pool(x)
        return Seen(pooled, tuple(maps[i] for i in positions(layers, self.depth, self.name)), pooled if self.head else None)

    def classify(self, trunk: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(trunk)


def _unreachable(host: str) -> bool:
    """True where the host's name cannot be resolved and no proxy would do it for us."""
    if urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _hub_offline() -> Iterator[None]:
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
