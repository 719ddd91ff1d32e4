"""The cost of training relative to its bare passes: clean, adversarial and free steps, total coding rate, image loading.

    HARDSIGHT_DATA=... python benchmarks/performance/training.py steps|coding|feed|pictures|all [--rounds 5] [--clock cpu]

Every table is one run in one process. All variants run in turn, round after round; a figure is the median over rounds of the
variant's seconds divided by its floor's in the same round. A pass is the forward and backward pass of two precomputed views
through encoder and projector in train mode, with weight gradients; an attack pass takes the gradient of the pixels only, in
eval mode. Random weights, seed 0; SimCLR, two views, SGD.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from hardsight.core import seeds
from hardsight.core.machine import device_name
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.views import Views, views
from hardsight.losses.objective import still
from hardsight.training.criteria.coding import coding_rate
from hardsight.training.engine.decoding import Decoder, pictures
from hardsight.training.engine.feed import Kept, Part, batches, order
from hardsight.training.engine.loop import begin
from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SIMCLR = "simclr(width=512, views=views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2))"
STEPS, REPLAYS = 5, 3
METHODS = {
    "clean": SIMCLR,
    "pgd": f"replace({SIMCLR}, adversary(pgd({STEPS}, keep=last), linf(8/255)))",
    "free": f"free({SIMCLR}, replays={REPLAYS})",
}
NETS = {
    "tiny, 64 px, batch 64": ("tiny", 64, 64),
    "ResNet-18 (CIFAR stem), 32 px, batch 16": ("tv:resnet18(weights=None, stem='cifar')", 32, 16),
}
Runs = dict[str, tuple[Callable[[], Any], str]]
"""Name -> (what is timed, the name of its floor)."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("steps", "coding", "feed", "pictures", "all"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode pictures of unlike sizes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of this process only, for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, clock = torch.device(args.device), CLOCKS[args.clock]
    print(f"{device_name(device)}, torch {torch.__version__}, {args.rounds} rounds, {args.clock} seconds\n")
    if args.what in ("steps", "all"):
        for title, net in NETS.items():
            table(title, steps(*net, device), args.rounds, clock, device)
    if args.what in ("coding", "all"):
        table(
            "Total coding rate of 4 crops, d = 1024, m = 128, with its gradient", coding(device), args.rounds, clock, device
        )
    if args.what in ("feed", "all"):
        feed(device)
    if args.what == "pictures":
        unlike(device, args.rounds, args.workers)


def steps(encoder: str, side: int, batch: int, device: torch.device) -> Runs:
    """A step of the engine, and its parts."""
    folder = Path(tempfile.mkdtemp())
    runners = {}
    for name, method in METHODS.items():
        recipe = TrainingRecipe(
            name,
            encoder,
            method,
            f"made(size={side}, train={batch}, test=1)",
            batch=batch,
            optimizer="sgd",
            watch="",
            every=0,
        )
        runners[name] = begin(recipe, folder / name, Group(device), Watch(quiet=True))
        runners[name].training.learner.train()
    clean = runners["clean"]
    parts = next(iter(clean.batches(0, 0)))
    learner: Any = clean.training.learner
    with torch.no_grad():
        views = learner.draw(parts[0], at())
    x = torch.cat(views)

    def bare(count: int = 1) -> None:
        for _ in range(count):
            learner.zero_grad(set_to_none=True)
            learner.projector(learner.encoder(x).pooled).square().mean().backward()

    def pixels(count: int) -> None:
        with still(learner):
            for _ in range(count):
                here = x.detach().requires_grad_(True)
                torch.autograd.grad(learner.projector(learner.encoder(here).pooled).square().mean(), here)

    def drawn(name: str) -> None:
        """The method's forward and backward pass on precomputed views."""
        inner = runners[name].training.learner
        real, inner.draw = inner.draw, lambda samples, when: views  # type: ignore[method-assign]
        try:
            inner.zero_grad(set_to_none=True)
            inner(parts[0], at()).loss.backward()
        finally:
            inner.draw = real  # type: ignore[method-assign]

    def taken(name: str, count: int = 1) -> None:
        for replay in range(count):
            runners[name].step(parts, 0, replay)

    runs: Runs = {
        "one pass": (bare, "one pass"),
        "clean step, views precomputed": (lambda: drawn("clean"), "one pass"),
        "clean step of the engine, with augmentation and optimizer": (lambda: taken("clean"), "one pass"),
        f"{STEPS + 1} passes": (lambda: bare(STEPS + 1), f"{STEPS + 1} passes"),
        f"PGD-{STEPS} step of the engine, relative to {STEPS + 1} passes": (lambda: taken("pgd"), f"{STEPS + 1} passes"),
        f"{STEPS} attack passes and one pass": (lambda: (pixels(STEPS), bare()), f"{STEPS} attack passes and one pass"),
        f"PGD-{STEPS} step, views precomputed, relative to {STEPS} attack passes and one": (
            lambda: drawn("pgd"), f"{STEPS} attack passes and one pass",
        ),
        f"{REPLAYS} clean steps of the engine": (lambda: taken("clean", REPLAYS), f"{REPLAYS} clean steps of the engine"),
        f"free batch with {REPLAYS} replays, relative to {REPLAYS} clean steps": (
            lambda: taken("free", REPLAYS), f"{REPLAYS} clean steps of the engine",
        ),
    }  # fmt: skip
    return runs


def coding(device: torch.device) -> Runs:
    """The total coding rate of 4 crops, each with 128 unit embeddings of 1024 dimensions, and its gradient."""
    z = F.normalize(torch.randn(4, 128, 1024, generator=seeds.generator("coding")), dim=-1).to(device)

    def wide(z: Tensor) -> Tensor:
        """As in the paper and its code: the determinant of a d x d matrix, crop by crop."""
        count, dim = z.shape[1:]
        whole = [torch.eye(dim, dtype=z.dtype, device=z.device) + dim / (count * 0.2) * one.T @ one for one in z]
        return torch.stack([torch.logdet(one) / 2 for one in whole])

    def with_gradient(function: Callable[[Tensor], Tensor]) -> None:
        here = z.clone().requires_grad_(True)
        torch.autograd.grad(function(here).sum(), here)

    assert torch.allclose(wide(z.double()), coding_rate(z.double(), 0.2))
    narrow = "m x m, as in hardsight"
    return {
        narrow: (lambda: with_gradient(lambda z: coding_rate(z, 0.2)), narrow),
        "d x d": (lambda: with_gradient(wide), narrow),
    }


def feed(device: torch.device) -> None:
    """Images per second from 4096 files of CIFAR-10 (JPEG), in batches of 256; only the first epoch decodes them."""
    root = tempfile.mkdtemp()
    archive = Path(os.environ["HARDSIGHT_DATA"]) / "cifar10_jpeg" / "cifar10_jpeg.tar.xz"
    with tarfile.open(archive) as packed:
        members = (member for member in packed if "/train/" in f"/{member.name}" and member.isfile())
        packed.extractall(root, itertools.islice(members, 4096), filter="data")
    print(
        "**Images per second from 4,096 JPEG files; only the first epoch decodes them**\n\n| epoch | images/s |\n|:--|--:|"
    )
    for title, memory in (("cached by the engine", 2**30), ("cached by the folder reader only", 0)):
        split = open_data(f"folder({root!r})").split("train")
        part = Part(split, range(len(split)))
        kept = Kept(part, memory)
        for epoch in range(3):
            started = time.perf_counter()
            count = sum(len(samples.x) for samples in batches(kept, order(len(part), 256, 0, epoch), device))
            pace = count / (time.perf_counter() - started)
            print(f"| {title}, {epoch + 1} | {pace:,.0f} |", flush=True)
    print()


def unlike(device: torch.device, rounds: int, workers: int) -> None:
    """Images per second of one epoch of 512 JPEG pictures of unlike sizes, cropped at random to 224x224 and flipped.

    The pictures are those of `imagenet_samples`, enlarged to sizes that are usual in ImageNet. Both loaders run in turn with
    as many worker processes, and deliver float32 batches of 64 in [0, 1]. CPU seconds are those of all processes.
    """
    root = Path(tempfile.mkdtemp())
    shapes = ((500, 375), (375, 500), (500, 333), (640, 480), (500, 400), (332, 500))
    sources = sorted((Path(os.environ["HARDSIGHT_DATA"]) / "imagenet_samples" / "images").glob("*.jpg"))
    for place in range(512):
        path = root / "train" / "ab"[place % 2] / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(sources[place % len(sources)]) as image:
            image.convert("RGB").resize(shapes[place % len(shapes)], Image.Resampling.BICUBIC).save(path, quality=96)
    size = sum(path.stat().st_size for path in root.rglob("*.jpg")) / 512
    crop, batch = transforms.RandomResizedCrop(224, (0.2, 1.0)), 64
    theirs = ImageFolder(
        str(root / "train"), transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    )
    part = Part(open_data(f"folder({str(root)!r}, size=224)").split("train"), range(512))
    decoder = Decoder(part, (224, 224), 0)

    def torchvision(view: Views, epoch: int) -> int:
        loader = DataLoader(theirs, batch, shuffle=True, num_workers=workers, drop_last=True)
        return sum(len(x.to(device)) for x, _ in loader)

    def hardsight(view: Views, epoch: int) -> int:
        plan = enumerate(order(len(part), batch, 0, epoch))
        return sum(len(view(samples.x, at())[0]) for samples in pictures(decoder, plan, device, workers))

    plain = views(1, scale=(0.2, 1.0), jitter=0.0, grey=0.0, exact=True)
    runs = {
        "torchvision's DataLoader": (torchvision, plain),
        "hardsight, the same transforms": (hardsight, plain),
        "hardsight, with colour jitter": (hardsight, views(1, scale=(0.2, 1.0), jitter=0.4, hue=0.1)),
        "hardsight, two views": (hardsight, views(2, scale=(0.2, 1.0), jitter=0.0, grey=0.0, exact=True)),
    }
    paces: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for epoch in range(rounds + 1):
        for name, (run, view) in runs.items():
            started, spent = time.perf_counter(), sum(os.times()[:4])
            count = run(view, epoch)
            if epoch:
                paces[name].append((count / (time.perf_counter() - started), 1000 * (sum(os.times()[:4]) - spent) / count))
    print(f"**Images per second from 512 JPEG pictures of unlike sizes ({size / 1000:.0f} KB each), {workers} workers**\n")
    print("| | images/s | CPU ms an image | CPU relative to torchvision | min–max |\n|:--|--:|--:|--:|--:|")
    first = paces["torchvision's DataLoader"]
    for name, found in paces.items():
        pace, cost = (statistics.median(values) for values in zip(*found, strict=True))
        ratios = [mine / its for (_, mine), (_, its) in zip(found, first, strict=True)]
        spread = f"{statistics.median(ratios):.2f} | {min(ratios):.2f}–{max(ratios):.2f}" if found is not first else "1 | "
        print(f"| {name} | {pace:,.0f} | {cost:.2f} | {spread} |")
    print(flush=True)


def at() -> When:
    return When(seeds.generator("benchmark", 0))


def table(title: str, runs: Runs, rounds: int, clock: Callable[[], float], device: torch.device) -> None:
    """Median, minimum and maximum of the ratio to the same round's floor; one warm-up round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (run, _) in runs.items():
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(clock() - started)
    print(f"**{title}**\n\n| | seconds | relative to its floor | min–max |\n|:--|--:|--:|--:|")
    for name, (_, floor) in runs.items():
        ratios = [mine / its for mine, its in zip(seconds[name], seconds[floor], strict=True)]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}" if name != floor else ""
        ratio = f"{statistics.median(ratios):.2f}" if name != floor else "floor"
        print(f"| {name} | {statistics.median(seconds[name]):.4f} | {ratio} | {spread} |")
    print(flush=True)


if __name__ == "__main__":
    main()
