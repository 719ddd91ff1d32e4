"""Every training method of the registry, without special cases: it trains, resumes exactly and has no side effects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hardsight.core import seeds
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.data.views import View
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import Entry, build, entries
from hardsight.specs.syntax import Call, show
from hardsight.training.criteria.contrast import nt_xent
from hardsight.training.engine.feed import Part
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import TrainingRecipe
from hardsight.training.methods.base import Learner, Samples
from tests.conftest import toy_card, toy_images, toy_target
from tests.fixtures.methods import SMALL
from tests.fixtures.training import Killed, images_in

TINY = "tiny(widths=(8, 8, 8, 8))"
CPU = torch.device("cpu")
PARTS = {
    "adversary": "adversary(pgd(2, keep=last))",
    "steps": "2",
    "clusters": "(2, 3)",
    "queue": "16",
    "count": "3",
}
"""What makes a method small enough for a test, by the argument's name."""


def small(entry: Entry) -> str:
    """The method's spec with small networks and short attacks."""
    if entry.name in SMALL:
        return SMALL[entry.name]
    given = [f"{one.name}={PARTS[one.name]}" for one in entry.parameters if one.name in PARTS]
    for one in entry.parameters:
        if one.name == "method" and isinstance(one.default, Call):
            given.append(f"method={small(entries()[one.default.name])}")
        elif one.name == "method":
            given.append("method=simclr(width=16)")
        if one.name == "widths" and isinstance(one.default, tuple):
            given.append(f"widths={show((16,) * len(one.default))}")
        if one.name == "views" and "(16)" in show(one.default):
            given.append("views=random_crops(4)")
    return f"{entry.name}({', '.join(given)})"


METHODS = {name: small(entry) for name, entry in entries().items() if entry.kind == "Method"}
PATCHED = "timm(test_vit, pretrained=False, resize=64)"


def encoder_for(name: str) -> str:
    return PATCHED if name == "mae" else TINY


def begun(name: str, images: int = 16) -> Learner:
    encoder = load_encoder(encoder_for(name)).requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = build(METHODS[name], "Method").begin(encoder, toy_card(), images)
        learner.prepare(Part(Toy(images), range(images)))
    return learner


class Toy:
    """A split of the toy images."""

    def __init__(self, count: int) -> None:
        self.samples = samples(count)

    def __len__(self) -> int:
        return len(self.samples.x)

    def sample(self, place: int):
        from hardsight.data.base import Sample

        image = (self.samples.x[place] * 255).round().to(torch.uint8)
        return Sample(str(place), image, {"label": self.samples.target["label"][place]})


def samples(count: int) -> Samples:
    return Samples(toy_images(count), {"label": toy_target(build("classify", "Task"), count)}, torch.arange(count))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_every_method_lowers_its_loss(name: str) -> None:
    """On one batch with the same draws; the mean of the last steps is below that of the first."""
    learner, batch = begun(name), samples(16)
    optimizer = torch.optim.SGD([one for one in learner.parameters() if one.requires_grad], lr=0.02, momentum=0.5)
    losses = []
    for _ in range(16):
        when = When(seeds.generator("same", 0))
        step = learner(batch, when)
        assert step.loss.shape == ()
        optimizer.zero_grad()
        step.loss.backward()
        learner.after_backward(when)
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        learner.after_step(step.keep, when)
        losses.append(float(step.loss.detach()))
    assert sum(losses[-4:]) < sum(losses[:4]), losses
    assert learner.encoder.training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return images_in(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path, folder: str) -> None:
    """Killed within an epoch, every method resumes from its last checkpoint to the same bytes, which load as `run:`."""
    recipe = TrainingRecipe("resumed", encoder_for(name), METHODS[name], folder, epochs=2, batch=12, save=1e-9, watch="")
    whole = train(recipe, tmp_path / "whole", CPU, Watch(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", CPU, Killed(4))
    assert not (tmp_path / "broken" / "encoder.safetensors").exists()
    resumed = train(recipe, tmp_path / "broken", CPU, Watch(quiet=True))
    assert whole and resumed and resumed.read_bytes() == whole.read_bytes()
    start, end = (load_encoder(spec).card.sha256 for spec in (encoder_for(name), f"run:{tmp_path / 'whole'}"))
    assert json.loads((tmp_path / "whole" / "encoder.json").read_text())["sha256"] == end != start


def test_deacl_attacks_without_touching_gradients_or_statistics() -> None:
    """The released codes' inner attack writes into weight gradients and batch norm (FIELD: 003, 4.3); ours does not."""
    learner = begun("deacl", 4).eval()
    encoder = learner.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    learner(Samples(toy_images(4), {}, torch.arange(4)), When(seeds.generator("a", 0)))
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


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
    one, two = (views(x, When(seeds.generator("v", 1))) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    assert one.shape == x.shape
    assert one.min() >= 0
    assert one.max() <= 1


def test_views_without_change_are_the_image() -> None:
    x = toy_images(4)
    same = View(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False)(x, When(seeds.generator("v", 1)))
    assert torch.allclose(same, x, atol=1e-5)
