"""One attack on the embedding of synthetic scenes, and what becomes of two tasks that read it; in half a minute on two cores.

Two linear heads on one frozen encoder: the class of the largest object, and a segmentation. The attack moves the dense embedding
away from the clean one; it knows neither head.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hardsight.attacks.attack import on
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.data import open_data
from hardsight.data.feed import choose, load, pixels
from hardsight.encoders import load_encoder
from hardsight.measure.passes import counted
from hardsight.metrics import of
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.probes.runs import Setting, train
from hardsight.report.demo import Demo, Figure, Scene
from hardsight.specs.catalog import build, complete
from hardsight.tasks.base import System, seeded

DATA, IMAGES, STEPS = "made", 400, 100
"""The data; how many of its training images the heads see; steps of the segmentation head, which is not tuned."""
HEAD = Setting(STEPS, batch=32, lr=0.03, weight_decay=1e-4)

Tick = Callable[[str, int, int], None]


def demo(spec: str, count: int, eps: str, seed: int, device: torch.device, tick: Tick) -> Demo:
    """The encoder under EmbedAttack in the Linf ball of radius eps, on `count` test scenes. tick: (what, done, total)."""
    started = time.monotonic()
    encoder = load_encoder(spec, device)
    if not encoder.card.dense_dim:
        raise SpecError(f"{encoder.card.name} has no dense features, which the demo's segmentation head reads")
    data = open_data(DATA)
    train_images, test_images = data.split("train"), data.split("test")
    bank = Bank(
        encoder,
        train_images,
        choose(train_images, IMAGES),
        True,
        device,
        tick=lambda *at: tick("features for two heads", *at),
    )
    classify = fit_probe(encoder, "classify", data, seed=seed, device=device, bank=bank)
    task = build("segment", "Task")
    head = seeded(task.head(encoder, data.card), seeds.generator("head", seed)).to(device)
    train(
        head, task, bank, torch.arange(len(bank)), HEAD, seed, tick=lambda *at: tick("training the segmentation head", *at)
    )
    segment = System(encoder, head.eval().requires_grad_(False), task)

    batch = load(test_images, choose(test_images, count))
    x, threat, attack = pixels(batch.images, device), build(f"linf({eps})", "Threat"), build("embed", "Attack")
    whole, done = attack.passes * len(x), 0

    def advance(passes: int) -> None:
        nonlocal done
        done += passes
        tick("attacking the embedding", done * len(x) // whole, len(x))

    with counted(encoder, whole, advance):
        mask = batch.target["mask"].to(device)
        found = on(attack, task.target)(segment, x, mask, threat, seeds.generator("attack", seed))
    x_adv = threat.project(found.x_adv, x)
    figures, answers = [], {}
    for system in (classify, segment):
        target, metric = batch.target[system.task.target].to(device), of(system.task.name)
        values = []
        for image in (x, x_adv):
            with torch.no_grad():
                output = system.output(image)
            counts = {key: value.cpu().numpy() for key, value in system.task.counts(output, target).items()}
            values.append((metric.summary(counts)[metric.headline], *metric.interval(counts)))
            answers.setdefault(system.task.name, []).append(system.task.answer(output).cpu())
        figures.append(Figure(system.task.name, metric.label, metric.unit, *values))
    changed = (answers["segment"][0] != answers["segment"][1]).float().mean((1, 2))
    at = int(changed.argsort(stable=True)[len(x) // 2])
    seen = _components([segment.dense(z).detach() for z in (x, x_adv)], at)
    image, attacked = (_bytes(z[at].permute(1, 2, 0)) for z in (x, x_adv))
    mask, mask_attacked = (answer[at].byte().numpy() for answer in answers["segment"])
    label, label_attacked = (data.card.classes[int(answer[at])] for answer in answers["classify"])
    true_mask, true_label = batch.target["mask"][at].byte().numpy(), data.card.classes[int(batch.target["label"][at])]
    scene = Scene(
        batch.ids[at], image, attacked, *seen, mask, mask_attacked, label, label_attacked, true_mask, true_label,
        float(changed[at]),
    )  # fmt: skip
    return Demo(
        encoder.card.name, spec, data.card.name, eps, int(complete("embed")["steps"]), seed, len(x), IMAGES, tuple(figures), scene,
        tuple(data.card.mask_classes), float(threat.size(x_adv - x).max()), time.monotonic() - started,
    )  # fmt: skip


def _components(dense: list[Tensor], at: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] of image `at`, clean and attacked: the first three principal components of the clean dense features.

    Both on the same axes and scale; 1% of the clean values on either side are cut off.
    """
    flat = dense[0].permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = flat.mean(0)
    _, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean))
    axes = axes[:, -3:].flip(1)
    low, high = torch.quantile((flat - mean)[:: -(-len(flat) // 10_000)] @ axes, torch.tensor([0.01, 0.99]).to(flat), dim=0)

    def painted(one: Tensor) -> np.ndarray:
        values = (one[at].permute(1, 2, 0).double() - mean) @ axes
        return _bytes(((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1))

    return painted(dense[0]), painted(dense[1])


def _bytes(image: Tensor) -> np.ndarray:
    return (image * 255).round().byte().cpu().numpy()
