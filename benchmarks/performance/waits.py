"""How often the host waits for the device in a step of an attack or of training, counted on a simulated device.

uv run python benchmarks/performance/waits.py

An attack runs with 4 and with 8 steps: the difference is the steps', the rest is outside of them. Of training the first batch is
left out, and the next two are counted. Copies: from the host's memory that is not pinned, for which it waits until they are read.
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
from hardsight.data import open_data
from hardsight.specs.catalog import build
from hardsight.tasks.base import System, seeded
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
PROBE = "probe(images=64, epochs=3)"
THREATS = ("linf(1/255)", "l2(0.2)", "l1(2)")
TINY, VIT = "tiny(widths=(8, 8, 8, 8))", "timm:test_vit(pretrained=False, size=64)"
METHODS = (
    "supervised", "simclr", "moco_v2(queue=16)", "byol", "emp", "swav", "mae", "acl", "adv_simclr", "free(simclr)", "deacl",
    "tecoa", "adv_finetune", "lore(replays=2)",
)  # fmt: skip
BATCH, IMAGES = 8, 160


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, simulated device; attacks on {ENCODER}, {BATCH} rendered scenes of 64 x 64\n")
    print("| attack | threat | waits per step | outside the loop | copies per step |\n|:--|:--|--:|--:|--:|")
    x = hs.load_images("made", "label", count=BATCH)[0]
    for name, (task, spec) in ATTACKS.items():
        system = untrained(task) if task != "classify" else hs.fit_probe(hs.load_encoder(ENCODER), task, "made", PROBE)
        y = hs.load_images("made", system.task.target, count=BATCH)[1]
        for threat in THREATS if name == "PGD" else THREATS[:1]:
            less, more = (attacked(system, x, y, spec.format(steps), threat) for steps in (4, 8))
            each, copies = Fraction(more.total - less.total, 4), Fraction(more.copies.total() - less.copies.total(), 4)
            print(f"| {name} | {threat} | {float(each):g} | {float(less.total - 4 * each):g} | {float(copies):g} |")
    print("\n| training | waits per step | at the reading after some batches | copies per step |\n|:--|--:|--:|--:|")
    for method in METHODS:
        each, read, copies = trained(method)
        print(f"| {method} | {each:g} | {read} | {copies:g} |")


def untrained(task: str) -> System:
    encoder, built = hs.load_encoder(ENCODER), build(task, "Task")
    head = seeded(built.head(encoder, open_data("made").card), seeds.generator("waits"))
    return System(encoder, head.eval(), built)


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


def trained(method: str) -> tuple[float, int, float]:
    """(waits in a step, waits when the numbers of several batches are read, copies in a step)."""
    encoder = VIT if method == "mae" else TINY
    data = f"made(size={64 if method == 'mae' else 16}, train={IMAGES})"
    recipe = TrainingRecipe("waits", encoder, method, data, epochs=1, batch=BATCH, save=0.0, every=0, watch="", log=())
    with tempfile.TemporaryDirectory() as folder, Waits() as waits:
        run = loop.begin(recipe, Path(folder), Group(waits.device), Watch(quiet=True))
        run.training.learner.train()
        batches = run.batches(0, 0)
        first, *parts = [next(batches) for _ in range(3)]
        run.batch(first, 0)
        counted(waits, lambda: [run.batch(one, 0) for one in parts])
        steps = len(parts) * run.training.learner.replays
        each, copies = waits.total / steps, waits.copies.total() / steps
        return each, counted(waits, run.settle).total, copies


def counted(waits: Waits, run: Callable[[], object]) -> Waits:
    waits.places.clear()
    waits.copies.clear()
    run()
    return waits


if __name__ == "__main__":
    main()
