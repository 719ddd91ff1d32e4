"""Several processes train what one would: two gloo processes with 4 images each against one with 8, DDP and FSDP2.

The networks have no batch norm (a ViT; projectors' batch norms are removed): synchronized batch norm runs on GPUs only, and
without it each process has its own statistics.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import socket
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as spawning
from safetensors.torch import load_file
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.progress import Watch
from hardsight.training.engine import loop
from hardsight.training.engine.parallel import Group, need_shares
from hardsight.training.engine.recipe import TrainingRecipe
from hardsight.training.engine.state import checkpoints
from hardsight.training.methods import simclr
from hardsight.training.methods.base import mlp
from tests.fixtures.training import Killed, images_in

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
VIT = "timm:test_vit(pretrained=False, size=16)"
PLAIN = "supervised(views(1, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False))"
ATTACKED = "adversary(pgd(2, start=clean, keep=last), linf(4/255))"
RANDOM = "supervised(views(1, scale=(0.4, 1.0), jitter=0.4, hue=0.1, grey=0.2))"
RUNS = {
    "supervised": {"method": RANDOM},
    "simclr": {"method": "simclr(width=16)"},
    "replace": {"method": f"replace({RANDOM}, {ATTACKED})"},
    "free": {"method": f"free({PLAIN}, replays=2)"},
    "parts": {"method": RANDOM, "accumulate": 2},
    "watched": {"method": RANDOM, "watch": "watching(held=4, k=3, attacked=2)", "ema": 0.9},
}
SHARDED = {
    "supervised": {"method": RANDOM, "parallel": "fsdp"},
    "replace": {"method": f"replace({RANDOM}, {ATTACKED})", "parallel": "fsdp"},
}


def bare(*given: Any, **more: Any) -> nn.Module:
    """A projector without batch norm."""
    return nn.Sequential(*(part for part in mlp(*given, **more) if not isinstance(part, nn.BatchNorm1d)))


def run(name: str, data: str, folder: Path, seen: Watch | None = None, **more: Any) -> Path | None:
    """With SGD: AdamW would turn rounding errors into whole steps where a gradient is nearly 0."""
    recipe = TrainingRecipe(name, VIT, "", data, epochs=2, batch=8, optimizer="sgd(0.05)", every=1, save=0, watch="", log=())
    simclr.mlp = bare  # type: ignore[assignment]
    try:
        return loop.train(replace(recipe, **more), folder, CPU, seen or Watch(quiet=True))
    finally:
        simclr.mlp = mlp


def work(rank: int, port: int, data: str, root: Path) -> None:
    """Everything that the two processes do, in one start."""
    faulthandler.enable()
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    for name, more in RUNS.items():
        run(name, data, root / "ddp" / name, **more)
    for name, more in SHARDED.items():
        run(name, data, root / "fsdp" / name, **more)
    broken = {**RUNS["free"], "save": 1e-9}
    for kind, more in (("ddp", broken), ("fsdp", {**SHARDED["supervised"], "save": 1e-9})):
        folder = root / "broken" / kind
        try:
            run(kind, data, folder, Killed(5), **more)
        except KeyboardInterrupt:
            run(kind, data, folder, **more)
            (folder / f"resumed-{rank}").touch()
    try:
        run("uneven", data, root / "uneven", method=RANDOM, batch=9)
    except SpecError as error:
        (root / f"uneven-{rank}").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


def pair(data: str, root: Path, meanwhile: Callable[[], None]) -> None:
    """Two processes do `work`, this one does `meanwhile`; no process is left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = spawning.start_processes(work, (port, data, root), nprocs=2, join=False, start_method="fork")
    assert workers is not None
    try:
        meanwhile()
        for _ in range(30):
            if workers.join(timeout=10):
                return
        pytest.fail("two processes wait for each other")
    finally:
        for process in workers.processes:
            process.kill()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process and of two, by folder and name.

    Once in some hundred starts a process died of a signal inside torch (a heap found broken, sent by no line of ours, and
    never seen again under valgrind or in 130 repeats). Such a death is reported with its stack and the start is repeated
    once; an error of ours, or a second death, fails.
    """
    root = tmp_path_factory.mktemp("runs")
    data = images_in(tmp_path_factory.mktemp("images"))

    def alone() -> None:
        for name, more in RUNS.items():
            run(name, data, root / "one" / name, **more)

    try:
        pair(data, root, alone)
    except spawning.ProcessExitedException as death:
        if death.exit_code >= 0:
            raise
        warnings.warn(f"{death}; two processes are started again", stacklevel=1)
        for folder in ("ddp", "fsdp", "broken", "uneven"):
            shutil.rmtree(root / folder, ignore_errors=True)
        pair(data, root, lambda: None)
    return root


def losses(folder: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if "epoch" not in line])


def far(one: Path, two: Path) -> float:
    """The largest difference of any weight."""
    a, b = load_file(one / "encoder.safetensors"), load_file(two / "encoder.safetensors")
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize("name", RUNS)
def test_two_halves_are_the_whole(root: Path, name: str) -> None:
    one, two = losses(root / "one" / name), losses(root / "ddp" / name)
    assert len(one) == len(two) >= 8
    assert torch.allclose(one, two, atol=1e-4), (one - two).abs().max()
    assert far(root / "one" / name, root / "ddp" / name) < 1e-4


def test_the_measure_can_fail(root: Path) -> None:
    """Negative control: another method's weights are far away, and training changed the weights at all."""
    assert far(root / "one" / "supervised", root / "ddp" / "replace") > 1e-3
    assert float((losses(root / "one" / "simclr") - losses(root / "one" / "supervised")).abs().max()) > 1e-2


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_weights_train_alike(root: Path, name: str) -> None:
    assert torch.allclose(losses(root / "one" / name), losses(root / "fsdp" / name), atol=1e-4)
    assert far(root / "one" / name, root / "fsdp" / name) < 1e-4


def test_both_resume_where_they_stopped(root: Path) -> None:
    assert len(list((root / "broken").glob("*/resumed-*"))) == 4
    assert far(root / "broken" / "ddp", root / "ddp" / "free") == 0
    assert far(root / "broken" / "fsdp", root / "fsdp" / "supervised") == 0


def test_only_the_first_writes(root: Path) -> None:
    for name in RUNS:
        assert len(checkpoints(root / "ddp" / name)) == 1
        lines = (root / "ddp" / name / "log.jsonl").read_text().splitlines()
        assert len(lines) == len((root / "one" / name / "log.jsonl").read_text().splitlines())


def test_a_batch_that_does_not_part_is_refused(root: Path) -> None:
    for rank in (0, 1):
        assert "a batch of 9 cannot be divided evenly over 2 processes" in (root / f"uneven-{rank}").read_text()
    with pytest.raises(SpecError, match="over 2 processes in 4 parts; give a multiple of 8"):
        need_shares(12, 4, Group(CPU, 0, 2))
