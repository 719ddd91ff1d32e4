"""The training set of heads: the features of a split from a frozen encoder, computed once, together with the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor

import hardsight
from hardsight.core import tree
from hardsight.data import Images
from hardsight.data.base import IGNORE
from hardsight.data.feed import Batch, load, pixels, readable
from hardsight.encoders.base import Encoder, Features
from hardsight.encoders.extents import Extent
from hardsight.losses.objective import still
from hardsight.probes import kept

BATCH = 64
"""Images, or frames of clips, per forward pass."""


CACHE_BYTES = 3 * 2**30
"""Above this many bytes, dense features and pixel targets that are not on disk are computed again in every epoch."""


Tick = Callable[[int, int], None]
"""Progress callback: (done, total) images."""


class Bank:
    """Features of one split's readable images from one encoder, together with their targets.

    source: what tells the encoder's weights and the data from all others; with it the features are kept on disk (`kept`), unless
    that is switched off, and memory does not grow with their number. Without, pooled features and labels are in memory, and so
    are dense features, masks and depth maps if they fit in `CACHE_BYTES`; otherwise each access computes them again. layers:
    encoder layers that a head uses in place of the dense features. half: dense features and layers are kept in float16.
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
        half: bool = False,
        source: str = "",
    ) -> None:
        self.encoder, self.images, self.device, self.layers, self.half = encoder, images, device, layers, half
        self.skipped: list[str] = []
        self.places: list[int] = []
        self.slim: tuple[Features, dict[str, Any]] | None = None
        self.wide: tuple[Features, dict[str, Any]] | None = None
        self.disk: kept.Kept | None = None
        parts = self._parts(places, dense, on_error, tick)
        most = kept.limit() if source else 0
        if most:
            what = (source, places, layers, half, on_error, BATCH, _place(device))
            keys = {wide: kept.key_of(*what, wide) for wide in (dense, True)}  # dense ones contain the pooled
            self.disk = next(filter(None, map(kept.find, keys.values())), None)
            if self.disk is None:
                card: dict[str, Any] = {}
                self.disk = kept.write(keys[dense], self._columns(parts, dense, card), len(places), card, most)
                parts = self._parts(places, dense, on_error, tick)
        if self.disk is not None:
            self._take(self.disk)
            return
        self.skipped.clear()
        self.places.clear()
        slim: list[tuple[Features, dict[str, Any]]] = []
        wide: list[tuple[Features, dict[str, Any]]] | None = [] if dense else None
        size = 0
        for features, target in parts:
            slim.append((features._replace(dense=None, layers=()), _labels(target)))
            if wide is not None:
                wide.append((features, {key: _small(t) for key, t in target.items()}))
                held = [t for t in (features.dense, *features.layers, *wide[-1][1].values()) if isinstance(t, Tensor)]
                size += sum(t.numel() * t.element_size() for t in held)
                wide = wide if size * len(places) <= CACHE_BYTES * len(self.places) else None
        self.slim = _joined(slim) if slim else None
        self.wide = _joined(wide) if wide else None

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, index: Tensor, dense: bool) -> tuple[Features, dict[str, Any]]:
        """Features (with or without dense ones) and targets of the images at these indices of the bank, on its device."""
        held = self.wide if dense else self.slim
        if dense and self.disk is not None:
            features, target = self._from_disk(self.disk, index)
        elif held is None:
            features, target = self._encoded(load(self.images, [self.places[int(place)] for place in index]), dense)
        else:
            features, target = tree.take(held[0], index), tree.take(held[1], index)
        if self.half and dense:
            whole = None if features.dense is None else features.dense.float()
            features = features._replace(dense=whole, layers=tuple(one.float() for one in features.layers))
        target = {key: t.long() if isinstance(t, Tensor) and t.dtype == torch.uint8 else t for key, t in target.items()}
        return tree.move(features, self.device), tree.move(target, self.device)

    def _parts(
        self, places: list[int], dense: bool, on_error: Literal["stop", "skip"], tick: Tick | None
    ) -> Iterator[tuple[Features, dict[str, Any]]]:
        """Features and targets of `BATCH` images after the other; notes which could be read."""
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            batch, good = readable(self.images, part, on_error, self.skipped)
            if good:
                self.places += good
                yield self._encoded(batch, dense)
            if tick:
                tick(start + len(part), len(places))

    def _encoded(self, batch: Batch, dense: bool) -> tuple[Features, dict[str, Any]]:
        """Features and targets of a batch, on the CPU; cloned, as a view would keep all of a transformer's tokens."""
        frames = batch.images.shape[2] if batch.images.dim() == 5 else 1
        parts = [self._features(part, dense) for part in batch.images.split(max(1, BATCH // frames))]
        return (parts[0] if len(parts) == 1 else _joined([(part, {}) for part in parts])[0]), batch.target

    def _features(self, images: Tensor, dense: bool) -> Features:
        with torch.no_grad(), still(self.encoder):
            x = pixels(images, self.device)
            found = self.encoder(x, self.layers) if self.layers else self.encoder(x)
        kind = torch.float16 if self.half else None
        maps = _copied(found.dense, kind) if dense and not self.layers and found.dense is not None else None
        layers = tuple(_copied(one, kind) for one in found.layers) if dense else ()
        return tree.move(found._replace(pooled=found.pooled.clone(), dense=maps, layers=layers, trunk=None), "cpu")

    def _columns(
        self, parts: Iterator[tuple[Features, dict[str, Any]]], dense: bool, card: dict[str, Any]
    ) -> Iterator[dict[str, Tensor]]:
        """What is kept on disk of each part; completes the card."""
        boxes: list[dict[str, Tensor]] = []
        for features, target in parts:
            columns = {"pooled": features.pooled}
            if dense:
                columns |= {} if features.dense is None else {"dense": features.dense}
                columns |= {f"layer-{place}": one for place, one in enumerate(features.layers)}
                columns |= {f"target-{key}": _small(t) for key, t in target.items() if isinstance(t, Tensor)}
                boxes += target.get("boxes", [])
            else:
                columns |= {f"target-{key}": t for key, t in _labels(target).items()}
            card |= {key: getattr(features, key) for key in ("size", "covered", "origin", "extents")}
            yield columns
        card |= {"places": self.places, "skipped": self.skipped}
        card["boxes"] = [{key: one.tolist() for key, one in image.items()} for image in boxes]

    def _take(self, disk: kept.Kept) -> None:
        """Pooled features, labels and boxes come into memory; the rest stays on disk."""
        card, columns = disk.card, disk.columns
        self.places, self.skipped = card["places"], card["skipped"]
        extents = tuple(Extent(tuple(covered), tuple(origin)) for covered, origin in card["extents"])
        where = (tuple(card["size"]), tuple(card["covered"]), tuple(card["origin"]), extents)
        labels = {name.removeprefix("target-"): one.whole() for name, one in columns.items() if _is_label(name, one)}
        self.slim = Features(columns["pooled"].whole(), None, (), None, *where), labels
        self.boxes = [
            {"boxes": torch.tensor(one["boxes"]).reshape(-1, 4), "labels": torch.tensor(one["labels"], dtype=torch.int64)}
            for one in card["boxes"]
        ]

    def _from_disk(self, disk: kept.Kept, index: Tensor) -> tuple[Features, dict[str, Any]]:
        assert self.slim is not None
        columns, index = disk.columns, index.cpu()
        features = tree.take(self.slim[0], index)
        maps = columns["dense"][index] if "dense" in columns else None
        layers = tuple(columns[f"layer-{place}"][index] for place in range(len(self.layers)))
        names = [name for name in columns if name.startswith("target-")]
        target: dict[str, Any] = {name.removeprefix("target-"): columns[name][index] for name in names}
        if self.boxes:
            target["boxes"] = tree.take(self.boxes, index)
        return features._replace(dense=maps, layers=layers), target


def _copied(values: Tensor, kind: torch.dtype | None) -> Tensor:
    return values.clone() if kind is None else values.to(kind)


def _is_label(name: str, column: kept.Column) -> bool:
    return name.startswith("target-") and len(column.shape) == 1


def _labels(target: dict[str, Any]) -> dict[str, Tensor]:
    return {key: t for key, t in target.items() if isinstance(t, Tensor) and t.dim() == 1}


def _place(device: torch.device | str) -> tuple[object, ...]:
    """What else the last bits of features depend on."""
    versions = hardsight.__version__, torch.__version__, torchvision.__version__
    return (*versions, torch.device(device).type, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())


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
