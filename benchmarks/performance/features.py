"""What features on disk save, cost and change: a second head, float16, memory.

uv run python benchmarks/performance/features.py second|half|memory

second: CPU seconds of a head on a new encoder, features included, and of a second head on the same encoder and data.
half: dense heads trained on float32 and on float16 features, measured on the same clean images, with 95% intervals.
memory: the largest resident memory of a process that computes and reads 40,000 dense maps, more than 2 GiB of them.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hardsight as hs
from hardsight.data import Data, open_data
from hardsight.data.base import Sample
from hardsight.data.feed import choose
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.measure.evaluate import evaluate
from hardsight.metrics import counts_in, of
from hardsight.probes import kept
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build

LARGE = tuple(f"timm:vit_{size}_patch16_224(pretrained=False, size=224)" for size in ("tiny", "small"))
SIZE, IMAGES = 224, 1000
SMALL, TRAINED, MEASURED = "zoo:made_supervised", 256, 200
MAPS, SHAPE = 40_000, (256, 8, 8)


def main(what: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HARDSIGHT_CACHE": folder, kept.VARIABLE: "20"}
        {"second": second, "half": half, "memory": memory}[what]()


def second() -> None:
    data = open_data(f"made(size={SIZE})")
    places = choose(data.split("train"), IMAGES)
    print(f"Random weights, {IMAGES} scenes of {SIZE} x {SIZE}, tuned heads, CPU seconds on one thread\n")
    print("| encoder | head | first: features and head | second head | ratio |\n|:--|:--|--:|--:|--:|")
    for spec in LARGE:
        encoder = hs.load_encoder(spec)
        for task in ("classify", "segment", "depth"):
            seconds = [timed(partial(fitted, encoder, data, places, task, seed)) for seed in (0, 1)]
            times = f"{seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[1] / seconds[0]:.3f}"
            print(f"| {encoder.card.name} | {task} | {times} |", flush=True)


def fitted(encoder: Encoder, data: Data, places: list[int], task: str, seed: int) -> None:
    bank = Bank(encoder, data.split("train"), places, task != "classify", source=f"second {encoder.card.name} {task}")
    fit_probe(encoder, task, data, "probe", seed, bank=bank)


def half() -> None:
    data, encoder = open_data("made"), hs.load_encoder(SMALL)
    images = data.split("train")
    places, x = choose(images, TRAINED), hs.load_images("made", "label", count=MEASURED)[0]
    print(f"{SMALL}, heads on {TRAINED} scenes, {MEASURED} test scenes, clean\n")
    print("| figure | float32 [95%] | float16 [95%] |\n|:--|--:|--:|")
    for task in ("segment", "depth"):
        found = []
        for halved in (False, True):
            bank = Bank(encoder, images, places, True, half=halved, source="half")
            system = fit_probe(encoder, task, data, "probe(epochs=10)", bank=bank)
            y = hs.load_images("made", system.task.target, count=MEASURED)[1]
            clean, threat = build("clean", "Attack"), build("linf(0)", "Threat")
            rows, _ = evaluate(system, clean, threat, x, y, ["?"] * len(x))
            metric, counts = of(task), counts_in(rows)
            low, high = metric.interval(counts)
            found.append(f"{metric.summary(counts)[metric.headline]:.5f} [{low:.4f}, {high:.4f}]")
        print(f"| {task}: {metric.label} | {found[0]} | {found[1]} |")


class Maps(nn.Module):
    """A body whose dense map [B, 256, 8, 8] costs nothing to compute."""

    depth, multiple = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(SHAPE))

    def forward(self, x: torch.Tensor, layers: tuple[int, ...]) -> BodyOutput:
        found = self.base * x.mean((1, 2, 3)).view(-1, 1, 1, 1)
        return BodyOutput(found.mean((2, 3)), tuple(found for _ in layers), None)


class Drawn:
    """Random images with masks, none of which is kept."""

    def __len__(self) -> int:
        return MAPS

    def sample(self, place: int) -> Sample:
        rng = torch.Generator().manual_seed(place)
        image = torch.randint(256, (3, 8, 8), generator=rng, dtype=torch.uint8)
        return Sample(str(place), image, {"mask": image[0].long() % 5})


def memory() -> None:
    encoder = Encoder(Maps(), Card("maps", "maps", "drawn", dim=SHAPE[0], dense_dim=SHAPE[0], stride=1, size=8)).eval()
    before = resident()
    images: Any = Drawn()
    bank = Bank(encoder, images, list(range(MAPS)), True, source="memory")
    written = resident()
    order = torch.randperm(MAPS)
    for part in order.split(500):
        bank.batch(part, True)
    size = sum(one.stat().st_size for one in Path(os.environ["HARDSIGHT_CACHE"]).rglob("*.safetensors"))
    print(f"{MAPS:,} dense maps of {list(SHAPE)} in float32: {size / 2**30:.2f} GiB on disk")
    print("| largest resident memory | GiB |\n|:--|--:|")
    for name, value in (
        ("before", before),
        ("after all are computed", written),
        ("after all are read, shuffled", resident()),
    ):
        print(f"| {name} | {value:.2f} |")


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    main(sys.argv[1])
