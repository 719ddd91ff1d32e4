"""Robust accuracy behind each defence: the default attack beside plain PGD and four adaptive attacks, as a table.

python benchmarks/results/defences.py [COUNT]

zoo:made_supervised, a linear head fitted behind each defence, made's first COUNT (100) test images, Linf 1/255, seed 0. `plain` is
PGD on the same encoder without the defence, as someone who doesn't know of it would run it; `default` is the same search through
the defence, as hardsight runs it. Random defences are evaluated in 10 draws, whose mean is printed.
"""

from __future__ import annotations

import sys

import torch

import hardsight as hs
from hardsight.core import seeds

DEFENCES = ("jpeg(75)", "bits(5)", "dither(3)", "smooth(0.05)", "smooth(0.25)", "recrop(0.8)", "median(3)")
DEFAULT = "attack(pgd(20))"
ADAPTIVE = {
    "APGD": "attack(apgd(20))",
    "APGD, margin": "attack(apgd(20), loss=margin)",
    "PGD, start clean": "attack(pgd(20, start='clean'))",
    "PGD, 40 steps": "attack(pgd(40, step=0.1))",
}
THREAT = hs.linf(1 / 255)


def accuracy(system: hs.System, x: torch.Tensor, y: torch.Tensor) -> float:
    torch.manual_seed(0)
    times = 10 if getattr(system.encoder, "draws", 1) > 1 else 1
    with torch.no_grad():
        return sum(float((system.output(x).argmax(1) == y).float().mean()) for _ in range(times)) / times


def attacked(spec: str, system: hs.System, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return hs.build(spec, "Attack")(system, x, y, THREAT, seeds.generator("defences", spec)).x_adv


def main(count: int) -> None:
    torch.set_num_threads(1)
    x, y = hs.load_images("made", "label", count=count)
    bare = hs.fit_probe(hs.load_encoder("zoo:made_supervised"), "classify", "made")
    plain = attacked(DEFAULT, bare, x, y)
    columns = ("clean", "plain", "default", *ADAPTIVE)
    print(f"| defence | {' | '.join(columns)} | default - strongest |")
    print(f"|:--|{'--:|' * (len(columns) + 1)}")
    print(f"| none | {accuracy(bare, x, y):.3f} | {accuracy(bare, plain, y):.3f} |{' |' * (len(columns) - 1)}", flush=True)
    for defence in DEFENCES:
        system = hs.fit_probe(hs.load_encoder(f"defended('zoo:made_supervised', {defence})"), "classify", "made")
        figures = [accuracy(system, x, y), accuracy(system, plain, y)]
        figures += [accuracy(system, attacked(spec, system, x, y), y) for spec in (DEFAULT, *ADAPTIVE.values())]
        gap = figures[2] - min(figures[3:])
        print(f"| {defence} | {' | '.join(f'{one:.3f}' for one in figures)} | {gap:+.3f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
