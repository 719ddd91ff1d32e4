"""AutoAttack beside its authors' own code (pyautoattack): robust accuracy and seconds, on the same images, chunk by chunk.

    HARDSIGHT_DATA=... uv run python benchmarks/beside_autoattack.py resnet4b --count 700 --out runs/autoattack-resnet4b.jsonl

Each chunk is attacked by theirs, by ours in float32 and by ours with the search in bf16, in turn, so that a busy machine
slows all three alike. A line a chunk goes to --out, and a killed run goes on after the last one. The Markdown row at the end
is over all chunks. Random starts differ in nothing but their draws; bit by bit is tests/parity.
"""

from __future__ import annotations

import argparse
import json
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
    words = argparse.ArgumentParser()
    words.add_argument("model", choices=CLASSIFIERS)
    words.add_argument("--count", type=int, default=700)
    words.add_argument("--norm", choices=NORMS, default="Linf")
    words.add_argument("--version", choices=("standard", "plus", "rand"), default="standard")
    words.add_argument(
        "--eps", default=None, help="the radius; default where robust accuracy lies between 20 and 80 % in Linf"
    )
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's own seconds, on a busy machine")
    asked = words.parse_args()
    torch.set_num_threads(asked.threads)
    spec, usual = CLASSIFIERS[asked.model]
    eps_text = asked.eps or usual
    over, _, under = eps_text.partition("/")
    threat = NORMS[asked.norm](float(over) / float(under or 1))
    data = hs.open_data("cifar10:$HARDSIGHT_DATA/cifar10")
    x, y = hs.load_images(data, "label", asked.count)
    system = hs.fit_probe(hs.load_encoder(spec), "classify(head='own')", data)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    for place, line in enumerate(done):
        if line["n"] != len(x[place * CHUNK : (place + 1) * CHUNK]):
            sys.exit(f"{asked.out} holds a run over another --count; give another --out")
    for place in range(len(done), -(-len(x) // CHUNK)):
        part = slice(place * CHUNK, (place + 1) * CHUNK)
        line = chunk(system, x[part], y[part], threat, asked.version, place, CLOCKS[asked.clock])
        done.append(line)
        with open(asked.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    n = sum(line["n"] for line in done)
    clean = sum(line["clean"] for line in done) / n
    print(
        f"\n{asked.model}, {asked.version}, {asked.norm} {eps_text}, n = {n}, seed {SEED}, {asked.clock} seconds, clean {100 * clean:.1f} %\n"
    )
    print("| | robust accuracy % [95%] | points from theirs | seconds | theirs / ours |\n|:--|--:|--:|--:|--:|")
    theirs = sum(line["theirs"] for line in done) / n
    for name in ("theirs", "float32", "bf16"):
        value, seconds = sum(line[name] for line in done) / n, sum(line[f"{name}_s"] for line in done)
        low, high = wilson(value * n, n)
        ratio = sum(line["theirs_s"] for line in done) / seconds
        print(
            f"| {name} | {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {100 * (value - theirs):+.1f} | {seconds:.0f} | {ratio:.2f} |"
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
    """Images left standing by each, with its seconds."""
    line: dict[str, float] = {"n": len(x)}
    with torch.no_grad():
        line["clean"] = int((system.output(x).argmax(1) == y).sum())
    for name in ("float32", "bf16", "theirs"):
        started = clock()
        if name == "theirs":
            model = Model(system).eval()
            suite = pyautoattack.AutoAttack(model, norm=threat.norm, eps=threat.eps, seed=SEED, version=version)
            x_adv, _ = suite.run_standard_evaluation(x, y, batch_size=CHUNK)
            with torch.no_grad():
                standing = int((system.output(x_adv).argmax(1) == y).sum())
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
            standing = int((rows["error"] < 1).sum())
        line[f"{name}_s"], line[name] = round(clock() - started, 2), standing
        print(f"chunk {place}, {name}: {standing} of {len(x)} stand, {line[f'{name}_s']} s", file=sys.stderr, flush=True)
    return line


class Model(torch.nn.Module):
    """The system as a module of frozen weights."""

    def __init__(self, system: hs.System) -> None:
        super().__init__()
        self.encoder, self.system = system.encoder.requires_grad_(False), system

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.system.output(x)


if __name__ == "__main__":
    main()
