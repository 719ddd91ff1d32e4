"""Training pictures of unlike sizes: decoded and cropped in worker processes, ahead of the steps that need them.

No picture is ever fitted to one size first: a view's crop is drawn from the picture as it is stored. A worker decodes one
picture at a time and returns only its views, so memory is bounded by the views of the batches in flight, whatever the size of
the pictures. Which views a step takes is known from the batch before; what was not foreseen is cut when it is asked for.
"""

from __future__ import annotations

import ast
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hardsight.core.errors import DataError, HardsightError
from hardsight.core.process import cores
from hardsight.data import open_data
from hardsight.data.base import Data
from hardsight.data.images import UnlikeSizes, fit
from hardsight.data.splits import widened
from hardsight.data.views import Pictures
from hardsight.data.views.pictures import Ask, Found, box_of, resized_box
from hardsight.encoders.base import Card
from hardsight.specs.catalog import complete, find
from hardsight.specs.syntax import override, read
from hardsight.training.engine.feed import Part
from hardsight.training.methods.base import Samples

PROBED = 256
"""How many pictures of a split, evenly spaced, are opened to see whether it has one size."""
MOST = 8
"""The most worker processes without `workers` in the recipe."""
RECENT = 64
"""How many batches are looked back to, to foresee the views of the next; a batch in parts counts its parts."""
AHEAD = 2
"""Batches in flight for each worker."""


class Job(NamedTuple):
    """The views to cut of one batch: its number in the run, its pictures by index, and what to cut of each."""

    batch: int
    places: list[int]
    asks: tuple[Ask, ...]


class Cut(NamedTuple):
    """The views of one batch, and its targets [B] by name."""

    found: Found
    target: dict[str, Tensor]


class Decoder:
    """Cuts views of a part's pictures; `decoder[job]` is the same in any process, and returns an error instead of raising it.

    size: (rows, columns) of a view that names none, and of a whole picture.
    """

    def __init__(self, part: Part, size: tuple[int, int], seed: int) -> None:
        self.part, self.size, self.seed = part, size, seed
        self.readers = ThreadPoolExecutor(MOST)
        self.recent: deque[list[Ask]] = deque(maxlen=RECENT)

    def close(self) -> None:
        self.readers.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, job: Job) -> tuple[Job, Cut | HardsightError]:
        try:
            return job, self.cut(job)
        except HardsightError as error:
            return job, error

    def foreseen(self) -> tuple[Ask, ...]:
        """What the last batch was asked of which anything was."""
        return tuple(next((asked for asked in reversed(self.recent) if asked), ()))

    def cut(self, job: Job, threads: bool = False) -> Cut:
        """threads: decodes in threads of this process. Raises `DataError`, with the name of the file."""
        images: Any = self.part.images
        sizes = {ask: ask.cropping.size if ask.cropping else self.size for ask in job.asks}
        found = {ask: torch.empty((len(job.places), 3, *size), dtype=torch.uint8) for ask, size in sizes.items()}

        def read(row: int) -> dict[str, Tensor]:
            place = job.places[row]
            pixels, target = images.stored(self.part.places[place])
            stored = torch.from_numpy(pixels)
            for ask, views in found.items():
                if ask.cropping is None:
                    views[row] = torch.from_numpy(fit(pixels, images.size)).permute(2, 0, 1)
                else:
                    box = box_of(*pixels.shape[:2], ask.cropping, "crop", self.seed, job.batch, place, ask.number)
                    views[row] = resized_box(stored, box, ask.cropping.size)
            return {name: widened(torch.as_tensor(value)) for name, value in target.items()}

        targets = list((self.readers.map if threads else map)(read, range(len(job.places))))
        for place, target in zip(job.places, targets, strict=True):
            if target.keys() != targets[0].keys():
                name = images.ids[self.part.places[place]]
                raise DataError(f"{name} has the targets {sorted(target)}, and others of its batch {sorted(targets[0])}")
        return Cut(found, {name: torch.stack([target[name] for target in targets]) for name in targets[0]})


def open_training(spec: str, encoder: Card) -> tuple[Data, str]:
    """The data to train on; if its images differ in size and the spec gives none, that of the encoder's evaluation.

    Second, what a user should know of that, or "". Raises `DataError`, `SpecError`.
    """
    try:
        return open_data(spec), ""
    except UnlikeSizes:
        call = complete(spec, "Data")
        if call.get("size", encoder.size) is not None:
            raise
    takes = any(one.name == "size" and "Preprocess" in ast.unparse(one.annotation) for one in find(call.name).parameters)
    size = read(encoder.preprocess) if encoder.preprocess and takes else encoder.size
    data = open_data(override(call, "size", size))
    high, wide = data.card.size
    return data, f"{data.card.name}: its images differ in size; views are {wide}x{high} pixels, as the encoder is evaluated"


def is_unlike(part: Part) -> bool:
    """Whether views must be drawn from pictures of unlike sizes: the split fits them to one size, and has no dense targets."""
    stored = getattr(part.images, "stored", None)
    if stored is None:
        return False
    sizes = set()
    for place in part.places[:: max(1, len(part) // PROBED)]:
        pixels, target = stored(place)
        if any(value.ndim for value in target.values()):
            return False
        sizes.add(pixels.shape)
        if len(sizes) > 1:
            return True
    return False


def pictures(
    decoder: Decoder, plan: Iterable[tuple[int, list[int]]], device: torch.device, workers: int
) -> Iterator[Samples]:
    """Samples on the device for each batch's number in the run and list of indices; `workers` processes cut the next ones.

    With 0 workers, threads of this process cut each batch when it is needed; the result is the same. Raises `DataError` when
    the batch that cannot be read is due.
    """
    plan = iter(plan)

    def jobs() -> Iterator[Job]:
        for batch, places in plan:
            yield Job(batch, places, decoder.foreseen())

    def samples(job: Job, ready: Cut) -> Samples:
        def late(asks: Sequence[Ask]) -> Found:
            return decoder.cut(job._replace(asks=tuple(asks)), threads=True).found

        x = Pictures(len(job.places), decoder.size, device, late, ready.found, [])
        decoder.recent.append(x.asked)
        target = {name: value.to(device) for name, value in ready.target.items()}
        return Samples(x, target, torch.tensor(job.places, device=device))

    while not (workers and decoder.foreseen()):  # the first batch of a run
        if (job := next(jobs(), None)) is None:
            return
        yield samples(job, decoder.cut(job, threads=True))
    for job, ready in _loader(decoder, jobs(), device, workers) if workers else ():
        if isinstance(ready, HardsightError):
            raise ready
        yield samples(job, ready)


def _loader(
    decoder: Decoder, jobs: Iterator[Job], device: torch.device, workers: int
) -> Iterator[tuple[Job, Cut | HardsightError]]:
    loader: DataLoader[Any] = DataLoader(
        decoder,  # type: ignore[arg-type]
        batch_size=None,
        sampler=jobs,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_unchanged,
        prefetch_factor=AHEAD,
        pin_memory=device.type == "cuda",
        worker_init_fn=_deaf,
        multiprocessing_context="fork",  # the list of files and the open tables are shared, not copied
        generator=torch.Generator(),  # its base seed must not come from the run's generator
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that decodes pictures has ended: it may lack memory, or shared memory (/dev/shm); "
            f"give --set workers={workers // 2}"
        ) from None


def workers_for(asked: int | None, world: int) -> int:
    """How many worker processes each of `world` processes starts: as asked, or its share of the cores, at most `MOST`.

    0 where processes cannot be forked.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        return 0
    return max(1, min(MOST, cores() // world)) if asked is None else asked


def _deaf(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal; the run then finishes its batch, and needs its workers for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(ready: Any) -> Any:
    return ready
