"""AutoAttack compared with its authors' code (pyautoattack): robust accuracy and seconds on the same images.

    HARDSIGHT_DATA=... uv run python benchmarks/performance/beside_autoattack.py resnet4b --out runs/resnet4b.jsonl

Each chunk of images is attacked in turn by ours in float32, by ours with the search in bf16, and by theirs, so that a busy
machine slows down all three equally. Each chunk appends one line to --out; an interrupted run resumes after the last one. The
Markdown table at the end is over all chunks. Both draw their random starts from the same distribution, but not the same ones;
tests/parity compares them bit by bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyautoattack
import torch

import hardsight as hs
from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.measure.evaluate import evaluate
from hardsight.metrics.intervals import wilson

CLASSIFIERS = {
    "resnet20": ("file:$HARDSIGHT_DATA/weights/resnet20-12fca82f.th(arch='resnet20')", "0.75/255"),
    "resnet4b": ("file:$HARDSIGHT_DATA/weights/resnet4b_adv_eps2.pth(arch='resnet4b')", "2/255"),
}
NORMS = {"Linf": hs.linf, "L2": hs.l2, "L1": hs.l1}
CHUNK, SEED = 350, 0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=CLASSIFIERS)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--norm", choices=NORMS, default="Linf")
    parser.add_argument("--version", choices=("standard", "plus", "rand"), default="standard")
    parser.add_argument(
        "--eps", default=None, help="the radius; the default gives a robust accuracy between 20 and 80 %% in Linf"
    )
    parser.add_argument("--chunk", type=int, default=CHUNK, help="images a round")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of this process only, for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec, usual = CLASSIFIERS[args.model]
    eps_text = args.eps or usual
    over, _, under = eps_text.partition("/")
    threat = NORMS[args.norm](float(over) / float(under or 1))
    data = hs.open_data("cifar10:$HARDSIGHT_DATA/cifar10")
    x, y = hs.load_images(data, "label", args.count)
    system = hs.fit_probe(hs.load_encoder(spec), "classify(head='own')", data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for place, line in enumerate(done):
        if line["n"] != len(x[place * args.chunk : (place + 1) * args.chunk]):
            sys.exit(f"{args.out} contains a run with another --count or --chunk; give another --out")
    for place in range(len(done), -(-len(x) // args.chunk)):
        part = slice(place * args.chunk, (place + 1) * args.chunk)
        line = chunk(system, x[part], y[part], threat, args.version, place, CLOCKS[args.clock])
        done.append(line)
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    n = sum(line["n"] for line in done)
    clean = sum(line["clean"] for line in done) / n
    print(
        f"\n{args.model}, {args.version}, {args.norm} {eps_text}, n = {n}, seed {SEED}, {args.clock} seconds, clean {100 * clean:.1f} %\n"
    )
    print(
        "| | robust accuracy % [95%] | difference, points | seconds | theirs / ours | median over chunks [min, max] |\n|:--|--:|--:|--:|--:|--:|"
    )
    theirs = sum(line["theirs"] for line in done) / n
    for name in ("theirs", "float32", "bf16"):
        value, seconds = sum(line[name] for line in done) / n, sum(line[f"{name}_s"] for line in done)
        low, high = wilson(value * n, n)
        ratio = sum(line["theirs_s"] for line in done) / seconds
        each = [line["theirs_s"] / line[f"{name}_s"] for line in done]
        print(
            f"| {name} | {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {100 * (value - theirs):+.1f} | {seconds:.0f} | {ratio:.2f} "
            f"| {statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}] |"
        )


def chunk(
    system: hs.System,
    x: torch.Tensor,
    y: torch.Tensor,
    threat: Threat,
    version: str,
    place: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """The number of images still robust under each, and its seconds."""
    line: dict[str, float] = {"n": len(x)}
    with torch.no_grad():
        line["clean"] = int((system.output(x).argmax(1) == y).sum())
    for name in ("float32", "bf16", "theirs"):
        started = clock()
        if name == "theirs":
            model = Model(system).eval()
            suite = pyautoattack.AutoAttack(model, norm=threat.norm, eps=threat.eps, seed=SEED, version=version)
            x_adv, _ = suite.run_standard_evaluation(x, y, batch_size=len(x))
            with torch.no_grad():
                robust = int((system.output(x_adv).argmax(1) == y).sum())
        else:
            rng = seeds.generator("autoattack", SEED, place)
            rows, _ = evaluate(
                system,
                hs.build(f"autoattack(version={version})", "Attack"),
                threat,
                x,
                y,
                ["?"] * len(x),
                rng,
                name,  # type: ignore[arg-type]
            )
            robust = int((rows["error"] < 1).sum())
        line[f"{name}_s"], line[name] = round(clock() - started, 2), robust
        print(
            f"chunk {place}, {name}: {robust} of {len(x)} still robust, {line[f'{name}_s']} s", file=sys.stderr, flush=True
        )
    return line


class Model(torch.nn.Module):
    """The system as a module with frozen weights."""

    def __init__(self, system: hs.System) -> None:
        super().__init__()
        self.encoder, self.system = system.encoder.requires_grad_(False), system

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.system.output(x)


if __name__ == "__main__":
    main()
