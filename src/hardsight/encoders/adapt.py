"""Helpers for every source of encoders: layer indices, weight hashes and seeds, download errors, a card by a dry run.

A source loads a network and wraps it as a body; `finish` wraps the body as an `Encoder`, runs one small grey image through
it and fills in the card from the output. Nothing here depends on the source of a network.
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
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.encoders.extents import Spacing

HUGGING_FACE = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or "huggingface.co"


def positions(layers: Sequence[int], depth: int, name: str) -> tuple[int, ...]:
    """Layer indices from 0; negative ones count from the end.

    Raises `SpecError`, with the number of layers, for an index out of range.
    """
    for layer in layers:
        if not -depth <= layer < depth:
            raise SpecError(f"{name} has {depth} layers, 0 to {depth - 1} or -{depth} to -1; there is no layer {layer}")
    return tuple(layer % depth for layer in layers)


def need_sides(name: str, *sides: int | None) -> None:
    """`SpecError` if a `size` or `resize` is below one pixel; None is an argument that was not given."""
    if any(side is not None and side < 1 for side in sides):
        raise SpecError(
            f"{name}: size and resize are sides in pixels, at least 1, not {min(s for s in sides if s is not None)}"
        )


def closest(name: str, known: Iterable[str]) -> str:
    """`errors.nearest` with only the one most similar name: names of models differ much in length."""
    return nearest(name, difflib.get_close_matches(name, list(known), n=1, cutoff=0.5))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which random weights are initialized from `seed`; the global generators are restored after it."""
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
    """Number of classes of the last linear layer in a classifier, 0 if it has none."""
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)] if head is not None else []
    return linear[-1].out_features if linear else 0


def need_side(pixels: Tensor, side: int, name: str) -> None:
    """`SpecError` if pixels [B, 3, H, W] don't have the side a network was built for; it names the two solutions."""
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        raise SpecError(
            f"{name} was built for {side}x{side} pixels and cannot take {height}x{width}; "
            f"build it with size={min(height, width)} if it supports that, or with resize={side}"
        )


@contextlib.contextmanager
def downloading(what: str, otherwise: str, host: str) -> Iterator[None]:
    """Context that turns every error while downloading `what` into one `WeightsError` that says what would work.

    otherwise: an alternative to suggest. host: the server; '' for local files only. If the host's name cannot be resolved,
    the Hugging Face client would retry for most of a minute: it is set offline, so that it reads its cache or fails at once.
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
            f"{what} could not be loaded: {reason}; fill the cache once on a machine with network access and set "
            f"HF_HUB_OFFLINE=1, give a checkpoint with file:PATH(arch=...), or use {otherwise}"
        ) from error


def finish(
    body: Any, name: str, arch: str, source: str, layers: tuple[int, ...], size: int, dry: int, **known: Any
) -> Encoder:
    """The encoder around `body`, in eval mode; its card is filled in by a forward pass of a grey image of side `dry`.

    size: the side it was trained for. known: further fields of the card. Raises `SpecError` for layers that don't exist.
    """
    resize = known.pop("resize", None)
    need_sides(name, size, resize)
    positions(layers, int(body.depth), name)
    if without_draws(body):
        known["note"] = "; ".join(one for one in (known.get("note", ""), "dropout off") if one)
    count = sum(parameter.numel() for parameter in body.parameters())
    card = Card(name, arch, source, dim=0, dense_dim=0, stride=0, size=size, parameters=count, **known)  # type: ignore[arg-type]
    encoder = Encoder(body, card, layers).eval()
    with torch.no_grad():
        features = encoder(torch.full((1, 3, dry, dry), 0.5), tuple(range(int(body.depth))))
    encoder.spacings = tuple(_spacing(body, dry, one) for one in features.layers)
    dense = features.dense
    stride = min((encoder.spacings[layer].stride for layer in layers), default=0.0) if encoder.spacings else 0.0
    stride = round(stride * (size / resize if isinstance(resize, int) else 1))
    return encoder.with_card(
        dim=features.pooled.shape[1], dense_dim=0 if dense is None else dense.shape[1], stride=stride, resize=resize
    )


def without_draws(network: nn.Module) -> bool:
    """Turns off dropout and stochastic depth of every library, modules and arguments; True if there was any.

    In train mode, each of a student, its teacher and an attack on it would otherwise be another random network.
    """
    found = False
    for part in network.modules():
        drops = isinstance(part, nn.modules.dropout._DropoutNd) or "StochasticDepth" in type(part).__name__
        for key, value in list(vars(part).items()):
            if isinstance(value, float) and value > 0 and ((drops and key == "p") or "drop" in key):
                setattr(part, key, 0.0)
                found = True
    return found


def _spacing(body: Any, side: int, found: Tensor) -> Spacing:
    """The spacing of a map that was found for a square image of `side` pixels; patches of a transformer divide the side."""
    cells = found.shape[-1]
    return Spacing(side / cells) if body.multiple > 1 and side % cells == 0 else Spacing.of(side, cells)


class Staged(nn.Module):
    """Body of a network that is a chain of stages: the output of each is a map, and `pool` turns the last one into a vector.

    The stages, `pool` (map -> [B, D]) and `head` ([B, D] -> logits) are modules; side: the only allowed input side, or 0.
    """

    def __init__(
        self, stages: Sequence[nn.Module], pool: nn.Module, head: nn.Module | None, name: str, side: int = 0
    ) -> None:
        super().__init__()
        self.stages, self.pool, self.head = nn.ModuleList(stages), pool, head
        self.name, self.side, self.depth, self.multiple = name, side, len(stages), 1

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.side:
            need_side(pixels, self.side, self.name)
        maps, x = [], pixels
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = self.pool(x)
        return BodyOutput(
            pooled, tuple(maps[i] for i in positions(layers, self.depth, self.name)), pooled if self.head else None
        )

    def classify(self, trunk: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(trunk)


def _unreachable(host: str) -> bool:
    """True if the host's name cannot be resolved and no proxy is set that could resolve it."""
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
