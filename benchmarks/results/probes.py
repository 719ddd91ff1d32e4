"""The cost of a head on cached features: a linear probe on 10,000, and nearest neighbours of 10,000 among 50,000.

    python benchmarks/results/probes.py [--threads 2]

The features are random, since only their number and dimension matter here. Wall and CPU seconds are of one run, after a
warm-up run; on a busy machine, wall time increases more than CPU time. The targets are 20 s for the probe and 10 s for the
neighbours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.machine import device_name
from hardsight.data.base import Data, DataCard
from hardsight.encoders.base import Card, Encoder, Features
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.tasks.knn import KnnHead

IMAGES, BANKED = 10_000, 50_000
PROBES = ((384, 10), (768, 100), (2048, 1000))
NEIGHBOURS = ((384, 10), (384, 100))


def drawn(count: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random features [count, dim] around one centre per class, and their labels [count]."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (count,), generator=rng)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(7))
    return centres[label] + 4 * torch.randn(count, dim, generator=rng), label


class Drawn(Bank):
    """A bank of random features instead of an encoder's."""

    def __init__(self, pooled: Tensor, label: Tensor) -> None:
        self.pooled, self.label, self.skipped, self.layers = pooled, label, [], ()

    def __len__(self) -> int:
        return len(self.pooled)

    def batch(self, index: Tensor, dense: bool) -> tuple[Features, dict[str, Any]]:
        return features(self.pooled[index]), {"label": self.label[index]}


def features(pooled: Tensor) -> Features:
    return Features(pooled, None, (), None, (1, 1), (1, 1))


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """(wall seconds, CPU seconds, the return value)."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def probe(dim: int, classes: int) -> tuple[float, float, float]:
    encoder = Encoder(nn.Linear(1, 1), Card("drawn", "none", "drawn", dim, 0, 1, 1))
    data = Data(DataCard("drawn", ("label",), (1, 1), tuple(map(str, range(classes)))), {})
    bank = Drawn(*drawn(IMAGES, dim, classes))
    fit_probe(encoder, "classify", data, "probe(epochs=1)", bank=bank)
    wall, cpu, system = timed(lambda: fit_probe(encoder, "classify", data, "probe", bank=bank))
    x, y = drawn(1000, dim, classes, seed=1)
    with torch.no_grad():
        return wall, cpu, float((system.head(features(x)).argmax(1) == y).float().mean())


def neighbours(dim: int, classes: int) -> tuple[float, float, float]:
    head = KnnHead(dim, classes, 20, 0.07)
    head.fill(*drawn(BANKED, dim, classes))
    x, y = drawn(IMAGES, dim, classes, seed=1)
    with torch.no_grad():
        head(features(x[:100]))
        wall, cpu, logits = timed(lambda: head(features(x)))
    return wall, cpu, float((logits.argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of a linear probe and of nearest neighbours on features.")
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}\n")
    print("| | features | classes | wall s | CPU s | accuracy % |")
    print("|:--|--:|--:|--:|--:|--:|")
    for title, run, sizes in (
        (f"linear probe, tuned, {IMAGES:,} images", probe, PROBES),
        (f"nearest neighbours, {IMAGES:,} of {BANKED:,}", neighbours, NEIGHBOURS),
    ):
        for dim, classes in sizes:
            wall, cpu, score = run(dim, classes)
            print(f"| {title} | {dim} | {classes} | {wall:.1f} | {cpu:.1f} | {100 * score:.1f} |")


if __name__ == "__main__":
    main()
