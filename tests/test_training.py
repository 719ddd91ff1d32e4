"""The small beginning of training: views, criteria, methods, and a run that is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hardsight import noise
from hardsight.catalog import build, entries
from hardsight.criteria.contrast import nt_xent
from hardsight.data.views import View
from hardsight.encoders import load_encoder
from hardsight.errors import SpecError, StoreError
from hardsight.methods.base import Samples
from hardsight.train.loop import TrainingRecipe, read_recipe, train
from hardsight.watch import Watch
from hardsight.when import When
from tests.conftest import toy_card, toy_images, toy_target

MADE = {"deacl": "deacl(adversary(pgd(2, keep=last)))", "replace": "replace(simclr(width=16), adversary(pgd(2, keep=last)))"}
METHODS = [MADE.get(name, name) for name, entry in entries().items() if entry.kind == "Method"]


def test_nt_xent_is_the_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    one, two = (torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    z = torch.nn.functional.normalize(torch.cat([one, two]), dim=1)
    total = 0.0
    for i in range(8):
        partner = (i + 4) % 8
        others = [torch.exp(z[i] @ z[j] / 0.3) for j in range(8) if j != i]
        total += float(-torch.log(torch.exp(z[i] @ z[partner] / 0.3) / sum(others)))
    assert float(nt_xent(one, two, 0.3).mean()) == pytest.approx(total / 8, rel=1e-5)


def test_views_draw_for_each_image_and_follow_the_seed() -> None:
    x = toy_images(1).expand(8, -1, -1, -1).contiguous()
    views = View()
    one, two = (views(x, When(noise.generator("v", 1))) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    assert one.shape == x.shape
    assert one.min() >= 0
    assert one.max() <= 1


def test_views_without_change_are_the_image() -> None:
    x = toy_images(4)
    same = View(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False)(x, When(noise.generator("v", 1)))
    assert torch.allclose(same, x, atol=1e-5)


@pytest.mark.parametrize("spec", METHODS)
def test_every_method_lowers_its_loss(spec: str) -> None:
    method = build(spec, "Method")
    encoder = load_encoder("tiny(widths=(8, 8, 8, 8))").requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = method.begin(encoder, toy_card(), 16)
    optimizer = torch.optim.SGD([one for one in learner.parameters() if one.requires_grad], lr=0.05)
    samples = Samples(toy_images(16), {"label": toy_target(build("classify", "Task"), 16)}, torch.arange(16))
    losses = []
    for _ in range(12):
        when = When(noise.generator("same", 0))
        step = learner(samples, when)
        optimizer.zero_grad()
        step.loss.backward()
        learner.after_backward(when)
        optimizer.step()
        learner.after_step(step.keep, when)
        losses.append(float(step.loss.detach()))
    assert losses[-1] < losses[0]
    assert encoder.training


def test_deacl_attacks_without_touching_gradients_or_statistics() -> None:
    """The released codes let the inner attack write into weight gradients and batch norm (FIELD: 003, 4.3); ours does not."""
    method = build(MADE["deacl"], "Method")
    encoder = load_encoder("tiny(widths=(8, 8, 8, 8))").requires_grad_(True).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    learner = method.begin(encoder, toy_card(), 4).eval()
    learner(Samples(toy_images(4), {}, torch.arange(4)), When(noise.generator("a", 0)))
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


SMALL = TrainingRecipe(
    "small", "tiny(widths=(8, 8, 8, 8))", "simclr(width=16)", "made(size=16, train=64)", epochs=3, batch=16
)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    whole = train(SMALL, tmp_path / "whole", cpu, Watch(quiet=True))

    class Stop(Watch):
        def note(self, text: str) -> None:
            if "epoch 2/3" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "broken", cpu, Stop(quiet=True))
    resumed = train(SMALL, tmp_path / "broken", cpu, Watch(quiet=True))
    assert resumed.read_bytes() == whole.read_bytes()
    encoder = load_encoder(SMALL.encoder)
    encoder.body.load_state_dict(load_file(resumed))


def test_another_recipe_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    from dataclasses import replace

    train(replace(SMALL, epochs=1), tmp_path, torch.device("cpu"), Watch(quiet=True))
    with pytest.raises(StoreError, match="another recipe"):
        train(replace(SMALL, seed=1), tmp_path, torch.device("cpu"), Watch(quiet=True))


@pytest.mark.parametrize("name", ["made-simclr", "made-supervised", "made-deacl"])
def test_shipped_recipes_are_read(name: str) -> None:
    assert read_recipe(name).name == name


def test_recipes_that_cannot_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('encoder = "tiny"\nmethod = "simclr"\ndata = "made"\nepoch = 3\n')
    with pytest.raises(SpecError, match="did you mean 'epochs'"):
        read_recipe(str(path))
