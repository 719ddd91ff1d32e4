"""The cost of drawing views: milliseconds per batch, and their share of a SimCLR training step. Prints a table.

    python benchmarks/performance/augmentation.py [--rounds 7] [--threads 1] [--device cpu] [--clock wall]

One run in one process. All variants run in turn, round after round, and a figure is the median over the rounds. A step is
the forward and backward pass of SimCLR on two precomputed views; a share is views / (views + step) of the same round. The line
`torchvision` applies torchvision's v2 transforms with the settings of `random_crops(2)`, image by image.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torchvision.transforms.v2 as tv
from torch import Tensor

from hardsight.core.machine import device_name
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import build
from hardsight.training.methods.base import Samples

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PLANS = {
    "views(2)": "views(2)",
    "views(2, hue=0.1)": "views(2, hue=0.1)",
    "random_crops(2, exact=False)": "random_crops(2, exact=False)",
    "random_crops(2)": "random_crops(2)",
    "patches(2)": "patches(2)",
    "fading, at its start": "fading",
    "pair, BYOL's": "pair(random_crops(1, blur=1.0, solarise=0.0), random_crops(1, solarise=0.2))",
    "weak(2)": "weak(2)",
}
NETS = {"tiny": "tiny", "ResNet-18": "tv:resnet18(weights=None)"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of this process only, for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(
        f"{device_name(device)}, torch {torch.__version__}, {args.threads} threads, {args.rounds} rounds, {args.clock} time"
    )
    for count, side in ((256, 32), (64, 64)):
        table(count, side, args.rounds, device, CLOCKS[args.clock])


def table(count: int, side: int, rounds: int, device: torch.device, clock: Callable[[], float]) -> None:
    x = pixels(load(open_data(f"made(size={side}, train={count})").split("train"), range(count)).images, device)
    drawing = {name: drawer(spec, x) for name, spec in PLANS.items()}
    steps = {name: stepper(spec, x) for name, spec in NETS.items()}
    drawing["torchvision"] = torchvision(x)
    taken: dict[str, list[float]] = {name: [] for name in (*drawing, *steps)}
    for turn in range(rounds + 1):
        for name, run in (*drawing.items(), *steps.items()):
            seconds = timed(run, device, clock)
            if turn:
                taken[name].append(seconds)
    print(f"\n{count} images of {side} x {side}, two views; a step without drawing views: ", end="")
    print(", ".join(f"{name} {1e3 * statistics.median(taken[name]):.0f} ms" for name in steps))
    print("\n| views | ms per batch | " + " | ".join(f"share of a step, {name}" for name in steps) + " |")
    print("|---|---|" + "---|" * len(steps))
    for name in drawing:
        shares = [
            statistics.median(views / (views + step) for views, step in zip(taken[name], taken[net], strict=True))
            for net in steps
        ]
        print(f"| {name} | {1e3 * statistics.median(taken[name]):.1f} | " + " | ".join(f"{s:.1%}" for s in shares) + " |")


def timed(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of one run, including the device's work."""
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def drawer(spec: str, x: Tensor) -> Callable[[], object]:
    plan, rng = build(spec, "Views"), torch.Generator().manual_seed(0)
    return lambda: plan(x, When(rng))


def stepper(spec: str, x: Tensor) -> Callable[[], object]:
    """The forward and backward pass of SimCLR on two precomputed views."""
    encoder = load_encoder(spec, device=x.device).requires_grad_(True)
    learner = build("simclr", "Method").begin(encoder, open_data("made").card, len(x)).to(x.device).train()
    when, samples = When(torch.Generator().manual_seed(0)), Samples(x, {}, torch.arange(len(x)))
    seen = build("views(2)", "Views")(x, when)

    def step() -> None:
        learner.zero_grad()
        learner.read(seen, samples, when).loss.mean().backward()

    return step


def torchvision(x: Tensor) -> Callable[[], object]:
    """torchvision's transforms with the settings of `random_crops`, image by image."""
    change = tv.Compose(
        [
            tv.RandomResizedCrop(x.shape[-1], scale=(0.08, 1)),
            tv.RandomHorizontalFlip(),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.2)], 0.8),
            tv.RandomGrayscale(0.2),
            tv.RandomApply([tv.GaussianBlur(23, (0.1, 2.0))], 0.1),
            tv.RandomSolarize(0.5, 0.1),
        ]
    )
    return lambda: torch.stack([change(image) for image in itertools.chain(x, x)])


if __name__ == "__main__":
    main()
