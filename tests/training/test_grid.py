"""Every method trains under every wrapper: 8 x 5 cells on toy images; the attack raises the loss and leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardsight.core import seeds
from hardsight.core.when import When
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import build
from hardsight.training.methods.base import Learner, Samples
from hardsight.training.methods.robust.adversary import attacked
from tests.conftest import toy_card, toy_images

ENCODER = "tiny(widths=(8, 8, 8, 8))"
METHODS = {
    "simclr": "simclr(width=16)",
    "supcon": "supcon(widths=(16, 8))",
    "moco_v2": "moco_v2(queue=16, widths=(16, 8))",
    "byol": "byol(widths=(16, 8), predictor=16)",
    "simsiam": "simsiam(widths=(16, 8), predictor=8)",
    "barlow": "barlow(widths=(16, 8))",
    "vicreg": "vicreg(widths=(16, 8))",
    "emp": "emp(widths=(16, 8), views=random_crops(4))",
}
WRAPPERS = {
    "replace": "replace({}, adversary(pgd(2, keep=last)))",
    "dual": "dual({}, adversary(pgd(2, keep=last)))",
    "extra": "extra({}, adversary(pgd(2, keep=last), which=first))",
    "free": "free({}, replays=2)",
    "trajectory": "trajectory({}, steps=2)",
}


def begun(spec: str, count: int = 8, images: int = 160) -> tuple[Learner, Samples]:
    encoder = load_encoder(ENCODER).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = build(spec, "Method").begin(encoder, toy_card(), images).train()
    return learner, Samples(toy_images(count), {"label": torch.arange(count) // 2}, torch.arange(count))


def state(learner: Learner) -> dict[str, Any]:
    return {
        "modes": [part.training for part in learner.modules()],
        "asked": [one.requires_grad for one in learner.parameters()],
        "grads": [None if one.grad is None else one.grad.clone() for one in learner.parameters()],
        "buffers": {name: one.clone() for name, one in learner.named_buffers()},
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    grads = all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(one["grads"], two["grads"], strict=True)
    )
    buffers = all(torch.equal(value, two["buffers"][name]) for name, value in one["buffers"].items())
    return grads and buffers and one["modes"] == two["modes"] and one["asked"] == two["asked"]


def train(learner: Learner, samples: Samples, steps: int) -> list[float]:
    weights = [one for one in learner.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.01)
    losses = []
    for place in range(steps):
        for replay in range(learner.replays):
            when = When(seeds.generator("grid", place), place, steps, replay=replay)
            step = learner(samples, when)
            optimizer.zero_grad()
            step.loss.backward()
            learner.after_backward(when)
            optimizer.step()
            learner.after_step(step.keep, when)
            losses.append(float(step.loss.detach()))
    return losses


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_trains(method: str, wrapper: str) -> None:
    learner, samples = begun(WRAPPERS[wrapper].format(METHODS[method]))
    before = {name: value.detach().clone() for name, value in learner.encoder.named_parameters()}
    losses = train(learner, samples, 2)
    assert all(torch.isfinite(torch.tensor(losses))), losses
    assert len(losses) == 2 * learner.replays
    moved = [name for name, value in learner.encoder.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before), set(before) - set(moved)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_inner_attack_raises_the_loss_and_leaves_no_trace(method: str, mode: str) -> None:
    learner, samples = begun(METHODS[method])
    when = When(seeds.generator("attack", 0))
    adversary = build(f"adversary(pgd(4, keep=last, start=clean), linf(8/255), mode={mode})", "Adversary")
    views = learner.draw(samples, when)
    learner.read(views, samples, when).loss.mean().backward()
    before = state(learner)
    moved = adversary(learner, views, lambda v: learner.read(v, samples, when).loss, when)
    assert same(before, state(learner))
    part = attacked(views, "all")
    assert all((one - two).abs().max() <= 8 / 255 + 1e-6 for one, two in zip(views[part], moved[part], strict=True))
    learner.train(mode == "train")
    with torch.no_grad():
        calm, hard = (float(learner.read(v, samples, when).loss.mean()) for v in (views, moved))
    assert hard > calm


def test_a_trace_is_seen() -> None:
    """Negative control of the test above: an attack that changes batch norm statistics is detected."""
    learner, samples = begun(METHODS["simclr"])
    when = When(seeds.generator("attack", 0))
    adversary = build("adversary(pgd(1, keep=last), linf(8/255), mode=train, buffers=moved)", "Adversary")
    views = learner.draw(samples, when)
    before = state(learner)
    adversary(learner, views, lambda v: learner.read(v, samples, when).loss, when)
    assert not same(before, state(learner))
