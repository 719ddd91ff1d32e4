"""How often the host waits for the device in a step of an attack or of training, counted on a simulated device.

uv run python benchmarks/performance/waits.py

An attack runs with 4 and with 8 steps, training with 10 and with 20: the difference is the step's, the rest is outside the
loop. Copies: from the host to the device, out of memory that is not pinned, for which the host waits only until they are read.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch

import hardsight as hs
from hardsight.core import seeds, tree
from hardsight.core.progress import Watch
from hardsight.core.waits import Waits
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from hardsight.training.engine import loop
from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe

ENCODER = "zoo:made_simclr"
ATTACKS = {
    "PGD": ("classify", "attack(pgd({}), loss=ce)"),
    "PGD, early exit": ("classify", "classpgd({})"),
    "SegPGD": ("segment", "segpgd({})"),
    "DepthPGD": ("depth", "depthpgd({})"),
    "EmbedAttack, pooled": ("classify", "embed({})"),
    "EmbedAttack, dense": ("segment", "embed({})"),
    "DetPGD": ("detect", "detpgd({})"),
}
THREATS = ("linf(1/255)", "l2(0.2)", "l1(2)")
TINY, VIT = "tiny(widths=(8, 8, 8, 8))", "timm:test_vit(pretrained=False, size=64)"
METHODS = (
    "supervised", "simclr", "moco_v2(queue=64)", "byol", "emp", "swav", "mae", "acl", "adv_simclr", "free(simclr)", "deacl",
    "tecoa", "adv_finetune", "lore(replays=2)",
)  # fmt: skip
STEPS, BATCH, IMAGES = 10, 8, 160


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, simulated device; attacks on {ENCODER}, {BATCH} rendered scenes of 64 x 64\n")
    print("| attack | threat | waits per step | outside the loop | copies per step |\n|:--|:--|--:|--:|--:|")
    for name, (task, spec) in ATTACKS.items():
        system = hs.fit_probe(hs.load_encoder(ENCODER), task=task, data="made", probe="probe(images=64, epochs=3)")
        x, y = hs.load_images("made", system.task.target, count=BATCH)
        for threat in THREATS if name == "PGD" else THREATS[:1]:
            less, more = (attacked(system, x, y, spec.format(steps), threat) for steps in (4, 8))
            print(row(f"{name} | {threat}", less, more, 4))
    print("\n| training | waits per step | outside the loop | copies per step |\n|:--|--:|--:|--:|")
    for method in METHODS:
        less, more = (trained(method, steps) for steps in (STEPS, 2 * STEPS))
        print(row(method, less, more, STEPS))


def attacked(system: System, x: torch.Tensor, y: object, spec: str, threat: str) -> Waits:
    with Waits() as waits:
        encoder, head = copy.deepcopy(system.encoder).to(waits.device), copy.deepcopy(system.head).to(waits.device)
        x, y = tree.move((x, y), waits.device)
        return counted(
            waits,
            lambda: build(spec, "Attack")(
                System(encoder, head, system.task), x, y, build(threat, "Threat"), seeds.generator("waits")
            ),
        )


def trained(method: str, steps: int) -> Waits:
    encoder = VIT if method == "mae" else TINY
    recipe = TrainingRecipe(
        "waits",
        encoder,
        method,
        f"made(size=16, train={IMAGES})",
        epochs=1,
        batch=BATCH,
        save=0.0,
        every=0,
        watch="",
        log=(),
    )
    with tempfile.TemporaryDirectory() as folder, Waits() as waits:
        run = loop.begin(recipe, Path(folder), Group(waits.device), Watch(quiet=True))
        run.training.learner.train()
        batches = run.batches(0, 0)
        parts = [next(batches) for _ in range(steps)]

        def go() -> None:
            for one in parts:
                run.batch(one, 0)

        return counted(waits, go)


def counted(waits: Waits, run: Callable[[], object]) -> Waits:
    waits.places.clear()
    waits.copies.clear()
    run()
    return waits


def row(name: str, less: Waits, more: Waits, steps: int) -> str:
    each = Fraction(more.total - less.total, steps)
    copies = Fraction(more.copies.total() - less.copies.total(), steps)
    outside = less.total - each * steps
    return f"| {name} | {float(each):g} | {float(outside):g} | {float(copies):g} |"


if __name__ == "__main__":
    main()
