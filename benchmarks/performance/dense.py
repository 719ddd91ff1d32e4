"""Attacks on segmentation compared with an earlier commit: seconds and mIoU of the same images, in turn, round after round.

    HARDSIGHT_DATA=... python benchmarks/performance/dense.py --before FOLDER [--rounds 3]

FOLDER is a checkout of the earlier commit. Each round is one process of each, on one thread, in CPU seconds; a ratio is the
median over rounds of now / before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NETS = {
    "ResNet-20, 64 px": ("file:$HARDSIGHT_DATA/weights/resnet20-12fca82f.th(arch='resnet20')", "made(size=64)", 6),
    "ViT-Tiny, 224 px": ("timm:vit_tiny_patch16_224(pretrained=False)", "made(size=224)", 1),
}
ATTACKS = ("segpgd", "sea(steps=12)", "dense_autoattack(steps=12, queries=20)")
HERE = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.before is None:
        print(json.dumps(measured()))
        return
    found: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    for _ in range(args.rounds):
        for name, folder in (("before", args.before), ("now", HERE)):
            env = {**os.environ, "PYTHONPATH": str(folder.resolve() / "src"), "OMP_NUM_THREADS": "1"}
            run = subprocess.run(
                [sys.executable, "-W", "ignore", __file__], env=env, capture_output=True, text=True, check=True
            )
            found[name].append(json.loads(run.stdout.splitlines()[-1]))
    print(f"{args.rounds} rounds, CPU seconds on one thread, Linf 8/255, seed 0\n")
    print(
        "| | images | before, s | now, s | now / before [min, max] | mIoU before | mIoU now |\n|:--|--:|--:|--:|--:|--:|--:|"
    )
    for key, (count, _, _) in found["now"][0].items():
        seconds = {name: [one[key][1] for one in rounds] for name, rounds in found.items()}
        each = [now / before for now, before in zip(seconds["now"], seconds["before"], strict=True)]
        before, now = (statistics.median(seconds[name]) for name in ("before", "now"))
        score = [f"{100 * found[name][0][key][2]:.2f}" for name in ("before", "now")]
        ratio = f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"
        print(f"| {key} | {count} | {before:.1f} | {now:.1f} | {ratio} | {score[0]} | {score[1]} |")


def measured() -> dict[str, tuple[int, float, float]]:
    """Images, seconds and mIoU of each attack on each network, in each precision, in whichever hardsight is on the path."""
    import torch

    import hardsight as hs

    try:
        evaluate = importlib.import_module("hardsight.measure.evaluate").evaluate
    except ModuleNotFoundError:  # where it was before
        evaluate = importlib.import_module("hardsight.evaluate").evaluate
    torch.set_num_threads(1)
    found = {}
    for net, (spec, source, count) in NETS.items():
        data = hs.open_data(source)
        torch.manual_seed(0)
        system = hs.fit_probe(hs.load_encoder(spec), "segment", data, "probe(images=64, epochs=1)")
        x, y = hs.load_images(data, "mask", count)
        for attack in ATTACKS:
            for precision in ("float32", "bf16"):
                rng, started = torch.Generator().manual_seed(0), time.process_time()
                built = hs.build(attack, "Attack")
                rows, _ = evaluate(system, built, hs.linf(8 / 255), x, y, ["?"] * count, rng, precision)
                took = time.process_time() - started
                hits, seen, truth = (rows[f"counts.{key}"].sum(0) for key in ("intersection", "predicted", "labelled"))
                union = seen + truth - hits
                miou = float((hits[union > 0] / union[union > 0]).mean())
                found[f"{net}: `{attack}` {precision}"] = (count, took, miou)
    return found


if __name__ == "__main__":
    main()
