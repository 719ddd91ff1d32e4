"""Training images on their way to the device: decoded once and cached as bytes where they fit in memory, and loaded ahead.

A batch is a list of indices, in the order of its epoch; each process reads its share of it, so that all processes together
read what a single one would.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from hardsight.core import seeds, tree
from hardsight.data.base import Images, Sample
from hardsight.data.feed import Batch, load, pixels, stack
from hardsight.training.methods.base import Samples

MEMORY = 2**30
"""Bytes of decoded images and targets that are cached; a larger split is decoded again in every epoch."""
AHEAD = 2
"""Batches that are loaded ahead."""
AT_ONCE = 32
"""From this many samples on, several threads decode them."""


class Part:
    """A subset of a split's images, as a split of its own; indices count within the subset."""

    def __init__(self, images: Images, places: Sequence[int]) -> None:
        self.images, self.places = images, list(places)

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, place: int) -> Sample:
        return self.images.sample(self.places[place])

    def load(self, places: Sequence[int]) -> Batch:
        return load(self.images, [self.places[place] for place in places])


class Kept:
    """A subset's images cached as one array of bytes, together with their targets, filled when they are first read.

    Where the whole would take more than `memory` bytes, or its targets are ragged (boxes), nothing is cached.
    """

    def __init__(self, part: Part, memory: int = MEMORY) -> None:
        self.part = part
        self.loaded = torch.zeros(len(part), dtype=torch.bool)
        self.images: Tensor | None = None
        self.target: dict[str, Tensor] = {}
        self.keeps = not hasattr(part.images, "batch") and self._fits(memory)  # a split with `batch` is in memory already
        self.readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def load(self, places: Sequence[int]) -> Batch:
        """The images at these indices of the subset, in order."""
        if hasattr(self.part.images, "batch"):
            return self.part.load(places)
        if not self.keeps:
            return self._read(places)
        missing = [place for place in dict.fromkeys(places) if not self.loaded[place]]
        if missing:
            self._take(missing, self._read(missing))
        index = torch.as_tensor(places)
        assert self.images is not None
        return Batch([], self.images[index], {name: value[index] for name, value in self.target.items()})

    def close(self) -> None:
        self.readers.shutdown(wait=False, cancel_futures=True)

    def _read(self, places: Sequence[int]) -> Batch:
        if len(places) < AT_ONCE:
            return self.part.load(places)
        return stack(list(self.readers.map(self.part.sample, places)))

    def _take(self, places: list[int], batch: Batch) -> None:
        index = torch.as_tensor(places)
        if self.images is None:
            self.images = torch.empty((len(self.part), *batch.images.shape[1:]), dtype=torch.uint8)
            self.target = {
                name: torch.zeros((len(self.part), *value.shape[1:]), dtype=value.dtype)
                for name, value in batch.target.items()
            }
        self.images[index] = batch.images
        for name, value in batch.target.items():
            self.target[name][index] = value
        self.loaded[index] = True

    def _fits(self, memory: int) -> bool:
        if not len(self.part):
            return False
        first = self.part.sample(0)
        parts = [first.image, *first.target.values()]
        return "boxes" not in first.target and len(self.part) * sum(p.numel() * p.element_size() for p in parts) <= memory


def order(images: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches of indices, each image at most once; images that do not fill a batch are left out in this epoch."""
    places = torch.randperm(images, generator=seeds.generator("order", seed, epoch)).tolist()
    return [places[start : start + batch] for start in range(0, images - batch + 1, batch)]


def batches(kept: Kept, plan: Iterable[list[int]], device: torch.device) -> Iterator[Samples]:
    """Samples on the device for each list of indices; a thread loads the next ones in the meantime."""

    def fetch(places: list[int]) -> tuple[list[int], Batch]:
        batch = kept.load(places)
        return places, batch._replace(images=batch.images.pin_memory()) if device.type == "cuda" else batch

    def ready() -> Samples:
        places, batch = coming.popleft().result()
        target = {name: tree.move(value, device) for name, value in batch.target.items()}
        return Samples(pixels(batch.images, device), target, torch.tensor(places).to(device, non_blocking=True))

    coming: deque[Future[tuple[list[int], Batch]]] = deque()
    loader = ThreadPoolExecutor(1)
    try:
        for places in plan:
            coming.append(loader.submit(fetch, places))
            if len(coming) > AHEAD:
                yield ready()
        while coming:
            yield ready()
    finally:
        loader.shutdown(wait=True, cancel_futures=True)
