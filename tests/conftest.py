"""Fixtures shared by many tests: a small, fast system, and the location of the real data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardsight.data.base import DataCard
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.tasks.base import System, Task

# On small tensors a second thread costs more than it saves, and test workers share the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the processes that tests start
os.environ.setdefault("HARDSIGHT_FEATURES", "0")  # no test finds those of another one; test_kept.py has its own


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker a core for whole folders; none where files or tests are named, as a worker needs seconds to import torch."""
    if any(".py" in name for name in config.option.file_or_dir):
        return 0
    config.option.dist = "worksteal"
    return min(os.cpu_count() or 1, 8)


CLASSES, MASKS = tuple("abcde"), tuple("uvwxyz")


class ToyBody(nn.Module):
    """Two smooth convolutions at stride 4: deterministic, non-linear and cheap."""

    depth, multiple = 1, 4

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 1)
        rng = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.4

    def forward(self, pixels: torch.Tensor, layers: tuple[int, ...]) -> BodyOutput:
        found = self.two(torch.tanh(self.one(pixels)))
        return BodyOutput(found.mean((2, 3)), (found,) * len(layers), None)


def toy_encoder(seed: int = 0) -> Encoder:
    return Encoder(ToyBody(seed), Card("toy", "toy", "test", dim=12, dense_dim=12, stride=4, size=16)).eval()


def toy_card() -> DataCard:
    return DataCard("toy", ("label", "mask", "depth", "boxes"), (16, 16), CLASSES, MASKS, max_depth=10.0)


def toy_target(task: Task, count: int, size: int = 16, seed: int = 1) -> Any:
    """Targets of that task, including ignored pixels, unmeasured depth and an image without boxes."""
    rng = torch.Generator().manual_seed(seed)
    if task.name == "classify":
        return torch.randint(0, len(CLASSES), (count,), generator=rng)
    if task.name == "segment":
        mask = torch.randint(0, len(MASKS), (count, size, size), generator=rng)
        mask[:, :2] = 255
        return mask
    if task.name == "detect":
        quarters = torch.tensor([[1.0, 1, 6, 7], [9, 0, 16, 5], [0, 8, 7, 15], [8, 9, 13, 14]])
        chosen = [torch.rand(4, generator=rng) < 0.6 * (place > 0) for place in range(count)]
        classes = torch.randint(0, len(CLASSES), (count, 4), generator=rng)
        return [{"boxes": quarters[one], "labels": classes[place][one]} for place, one in enumerate(chosen)]
    depth = 0.5 + 8 * torch.rand(count, size, size, generator=rng)
    depth[:, :, :2] = 0
    return depth


def toy_images(count: int, size: int = 16, seed: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def toy_system(task: Task, seed: int = 0) -> System:
    encoder = toy_encoder(seed)
    head = task.head(encoder, toy_card())
    # With weights of std 1, a head of four layers would predict only scores of 0 and 1.
    start, spread = (9, 0.4) if task.name == "detect" else (7, 1.0)
    rng = torch.Generator().manual_seed(seed + start)
    for parameter in head.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=rng)
    return System(encoder, head.eval().requires_grad_(False), task)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data; the test is skipped if HARDSIGHT_DATA does not name one."""
    place = os.environ.get("HARDSIGHT_DATA", "")
    if not place or not Path(place).is_dir():
        pytest.skip("needs the real data that HARDSIGHT_DATA points to")
    return Path(place)
