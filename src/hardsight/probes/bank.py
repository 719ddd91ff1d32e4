"""The training set of heads: the features of a split from a frozen encoder, computed once, together with the targets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from hardsight.core import tree
from hardsight.data import Images
from hardsight.data.base import IGNORE
from hardsight.data.feed import Batch, load, pixels, readable
from hardsight.encoders.base import Encoder, Features
from hardsight.losses.objective import still

BATCH = 64
"""Images, or frames of clips, per forward pass."""


CACHE_BYTES = 3 * 2**30
"""Above this many bytes, the dense features and pixel targets of a split are not kept, but computed again in every epoch."""


Tick = Callable[[int, int], None]
"""Progress callback: (done, total) images."""


class Bank:
    """Features of one split's readable images from one encoder, together with their targets.

    Pooled features and labels are always kept. Dense features, masks and depth maps are kept if they fit in `CACHE_BYTES`;
    otherwise each access computes them again. layers: encoder layers that a head uses in place of the dense features.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: Images,
        places: list[int],
        dense: bool,
        device: torch.device | str = "cpu",
        on_error: Literal["stop", "skip"] = "stop",
        tick: Tick | None = None,
        layers: tuple[int, ...] = (),
    ) -> None:
        self.encoder, self.images, self.device, self.layers = encoder, images, device, layers
        self.skipped: list[str] = []
        self.places: list[int] = []
        slim: list[tuple[Features, dict[str, Any]]] = []
        wide: list[tuple[Features, dict[str, Any]]] | None = [] if dense else None
        size = 0
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            batch, good = readable(images, part, on_error, self.skipped)
            if good:
                features, target = self._encoded(batch, dense=wide is not None)
                self.places += good
                labels = {key: t for key, t in target.items() if isinstance(t, Tensor) and t.dim() == 1}
                slim.append((features._replace(dense=None, layers=()), labels))
                if wide is not None:
                    wide.append((features, {key: _small(t) for key, t in target.items()}))
                    kept = [t for t in (features.dense, *features.layers, *wide[-1][1].values()) if isinstance(t, Tensor)]
                    size += sum(t.numel() * t.element_size() for t in kept)
                    wide = wide if size * len(places) <= CACHE_BYTES * len(self.places) else None
            if tick:
                tick(start + len(part), len(places))
        self.slim = _joined(slim) if slim else None
        self.wide = _joined(wide) if wide else None

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, index: Tensor, dense: bool) -> tuple[Features, dict[str, Any]]:
        """Features (with or without dense ones) and targets of the images at these indices of the bank, on its device."""
        kept = self.wide if dense else self.slim
        if kept is None:
            features, target = self._encoded(load(self.images, [self.places[int(place)] for place in index]), dense)
        else:
            features, target = tree.take(kept[0], index), tree.take(kept[1], index)
        target = {key: t.long() if isinstance(t, Tensor) and t.dtype == torch.uint8 else t for key, t in target.items()}
        return tree.move(features, self.device), tree.move(target, self.device)

    def _encoded(self, batch: Batch, dense: bool) -> tuple[Features, dict[str, Any]]:
        """Features and targets of a batch, on the CPU; cloned, as a view would keep all of a transformer's tokens."""
        frames = batch.images.shape[2] if batch.images.dim() == 5 else 1
        parts = [self._features(part, dense) for part in batch.images.split(max(1, BATCH // frames))]
        return (parts[0] if len(parts) == 1 else _joined([(part, {}) for part in parts])[0]), batch.target

    def _features(self, images: Tensor, dense: bool) -> Features:
        with torch.no_grad(), still(self.encoder):
            x = pixels(images, self.device)
            found = self.encoder(x, self.layers) if self.layers else self.encoder(x)
        maps = found.dense.clone() if dense and not self.layers and found.dense is not None else None
        layers = tuple(one.clone() for one in found.layers) if dense else ()
        return tree.move(found._replace(pooled=found.pooled.clone(), dense=maps, layers=layers, trunk=None), "cpu")


def _small(target: Any) -> Any:
    """Masks as uint8, an eighth of their size: ids are at most `IGNORE`, 255. Other targets are unchanged."""
    if not isinstance(target, Tensor):
        return target
    whole = target.dtype == torch.int64 and target.dim() > 1 and int(target.min()) >= 0 and int(target.max()) <= IGNORE
    return target.to(torch.uint8) if whole else target


def _joined(parts: list[tuple[Features, dict[str, Any]]]) -> tuple[Features, dict[str, Any]]:
    first, dense = parts[0][0], [features.dense for features, _ in parts if features.dense is not None]
    pooled = torch.cat([features.pooled for features, _ in parts])
    columns = {key: [t[key] for _, t in parts] for key in parts[0][1]}
    target = {key: torch.cat(c) if isinstance(c[0], Tensor) else list(chain(*c)) for key, c in columns.items()}
    layers = tuple(torch.cat(one) for one in zip(*(features.layers for features, _ in parts), strict=True))
    return first._replace(pooled=pooled, dense=torch.cat(dense) if dense else None, layers=layers), target
