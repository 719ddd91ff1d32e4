"""The joint-embedding methods: what they train, what is updated after a step, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.views import views
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import build
from hardsight.training.criteria import gather
from hardsight.training.criteria.coding import Coding
from hardsight.training.methods.base import Learner, Samples, Step, mlp
from hardsight.training.methods.dino import Directions
from hardsight.training.methods.joint import Joint, through
from hardsight.training.methods.robust.adversary import attack_mode
from tests.conftest import toy_card, toy_images, toy_target
from tests.fixtures.methods import SMALL

JOINT = ("supcon", "moco_v2", "moco_v3", "byol", "simsiam", "barlow", "vicreg", "swav", "dino", "emp")
MULTICROP = ("swav", "dino")


def tiny() -> Encoder:
    return load_encoder("tiny(widths=(8, 8, 8, 8))").requires_grad_(True).train()


def learner_of(name: str, encoder: Encoder | None = None, **changes: Any) -> Learner:
    spec = SMALL[name][:-1] + "".join(f", {key}={value}" for key, value in changes.items()) + ")"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec, "Method").begin(encoder or tiny(), toy_card(), 16)


def samples(count: int = 16) -> Samples:
    label = toy_target(build("classify", "Task"), count)
    return Samples(toy_images(count), {"label": label}, torch.arange(count))


def at(step: int = 0, epoch: int = 0, epochs: int = 4) -> When:
    return When(seeds.generator("same", 0), step, 8, epoch, epochs)


def one_step(learner: Learner, optimizer: torch.optim.Optimizer, when: When) -> Step:
    step = learner(samples(), when)
    optimizer.zero_grad()
    step.loss.backward()
    learner.after_backward(when)
    optimizer.step()
    learner.after_step(step.keep, when)
    return step


def optimizer_of(learner: Learner) -> torch.optim.Optimizer:
    return torch.optim.SGD([one for one in learner.parameters() if one.requires_grad], lr=0.05)


@pytest.mark.parametrize("name", JOINT)
def test_trains_every_weight_it_owns_and_lowers_its_loss(name: str) -> None:
    learner = learner_of(name)
    optimizer = optimizer_of(learner)
    before = {key: value.detach().clone() for key, value in learner.named_parameters()}
    losses = [float(one_step(learner, optimizer, at(epoch=1)).loss.detach()) for _ in range(12)]
    assert losses[-1] < max(losses[:2])  # a queue contains noise before the first step
    still = [key for key, value in learner.named_parameters() if value.dim() > 1 and torch.equal(value, before[key])]
    assert not still


@pytest.mark.parametrize("name", JOINT)
def test_takes_an_added_view_and_the_loss_changes_no_state(name: str) -> None:
    """Wrappers need this: one more view of the first one's size, and a loss [B] that changes no queue, centre or slow
    copy.
    """
    learner = learner_of(name).eval()
    batch = samples(8)
    drawn = learner.draw(batch, at())
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    extra = (drawn[0] + 0.05).clamp(0, 1).requires_grad_()
    step = learner.read((*drawn[:2], extra, *drawn[2:]), batch, at())
    assert step.loss.shape == (8,)
    assert float(torch.autograd.grad(step.loss.sum(), extra)[0].abs().max()) > 0
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


@pytest.mark.parametrize("name", [name for name in JOINT if name not in ("supcon", "moco_v2", "dino")])
def test_a_batch_of_one_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="at least 2"):
        learner_of(name)(samples(1), at())


@pytest.mark.parametrize("name", JOINT)
def test_losses_are_taken_in_single_precision_under_bf16(name: str) -> None:
    learner = learner_of(name)
    with torch.autocast("cpu", torch.bfloat16):
        step = learner(samples(), at())
    assert step.loss.dtype == torch.float32
    assert math.isfinite(float(step.loss.detach()))
    step.loss.backward()


@pytest.mark.parametrize("name", ["moco_v2", "moco_v3", "byol", "dino"])
def test_the_slow_copy_follows_by_its_schedule(name: str) -> None:
    learner: Any = learner_of(name, momentum="linear(0.5, 0.9)")
    optimizer = optimizer_of(learner)
    begun = [value.clone() for value in learner.slow.parameters()]
    for step, share in ((0, 0.5), (4, 0.7)):
        one_step(learner, optimizer, at(step))
        fast = [*learner.encoder.parameters(), *learner.projector.parameters()]
        wanted = [share * old + (1 - share) * new.detach() for old, new in zip(begun, fast, strict=True)]
        found = list(learner.slow.parameters())
        assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(found, wanted, strict=True))
        begun = [value.clone() for value in found]
    assert not any(value.requires_grad for value in learner.slow.parameters())


@pytest.mark.parametrize("name", MULTICROP)
def test_the_last_layer_rests_during_the_first_epoch(name: str) -> None:
    learner: Any = learner_of(name)
    late = learner.late[0]
    before = late.detach().clone()
    optimizer = optimizer_of(learner)
    one_step(learner, optimizer, at(epoch=0))
    assert torch.allclose(late, before, atol=1e-6)
    one_step(learner, optimizer, at(epoch=1))
    assert float((late - before).detach().abs().max()) > 1e-5


@pytest.mark.parametrize("name", MULTICROP)
def test_large_views_are_targets_and_small_ones_are_not(name: str) -> None:
    learner: Any = learner_of(name)
    seen: list[list[int]] = []
    learner.encoder.register_forward_hook(lambda _, inputs, __: seen.append(list(inputs[0].shape[::3])))
    if learner.slow is not None:
        learner.slow[0].register_forward_hook(lambda _, inputs, __: seen.append(list(inputs[0].shape[::3])))
    learner(samples(8), at())
    assert seen == [[16, 16], [16, 8]] + [[16, 16]] * (name == "dino")


def test_neighbours_of_one_size_go_through_a_network_together() -> None:
    sizes: list[int] = []

    def network(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.mean((1, 2, 3))[:, None]

    drawn = (*torch.rand(2, 4, 3, 8, 8), *torch.rand(3, 4, 3, 4, 4))
    found = through(network, drawn)
    assert sizes == [8, 12]
    assert all(torch.allclose(one[:, 0], view.mean((1, 2, 3))) for one, view in zip(found, drawn, strict=True))


def test_moco_v2_takes_its_key_from_the_first_view_alone() -> None:
    learner: Any = learner_of("moco_v2").eval()
    batch = samples(8)
    drawn = tuple(view.requires_grad_() for view in learner.draw(batch, at()))
    step = learner.read(drawn, batch, at())
    first, second = torch.autograd.grad(step.loss.sum(), drawn, allow_unused=True)
    assert first is None
    assert float(second.abs().max()) > 0
    key = nn.functional.normalize(learner.slow[1](learner.slow[0](drawn[0]).pooled), dim=1)
    assert torch.allclose(step.keep[:, 0], key, atol=1e-6)


def test_a_queue_longer_than_the_training_split_is_refused() -> None:
    with pytest.raises(SpecError, match="queue of 65536 keys would hold some of the 16 training images twice"):
        build("moco_v2(widths=(16, 8))", "Method").begin(tiny(), toy_card(), 16)


def test_moco_v3_freezes_a_patch_embedding_where_there_is_one() -> None:
    encoder = load_encoder("timm('test_vit', pretrained=False, size=16)").requires_grad_(True)
    learner = learner_of("moco_v3", encoder, frozen_patches=True)
    frozen = {name for name, value in learner.encoder.named_parameters() if not value.requires_grad}
    assert frozen == {"body.model.patch_embed.proj.weight", "body.model.patch_embed.proj.bias"}
    with pytest.raises(SpecError, match="has no patch embedding to freeze"):
        learner_of("moco_v3", frozen_patches=True)


def test_simsiam_ends_in_batch_norm_and_stops_the_target() -> None:
    learner: Any = learner_of("simsiam")
    assert isinstance(learner.projector[-1], nn.BatchNorm1d)
    assert learner.stop and learner.slow is None


def test_directions_have_length_one_for_any_weights() -> None:
    layer = Directions(5, 7)
    z = torch.randn(3, 5)
    before = layer(z)
    with torch.no_grad():
        layer.weight.mul_(4)
    assert torch.allclose(layer(z), before, atol=1e-6)
    assert float(before.detach().abs().max()) <= 1


def test_emp_reads_eps_as_the_formula_or_as_the_authors_code() -> None:
    corrected, official = (learner_of("emp", mode=mode).criterion for mode in ("corrected", "official"))
    assert isinstance(corrected, Coding) and isinstance(official, Coding)
    assert corrected.squared_eps == pytest.approx(0.04)
    assert official.squared_eps == pytest.approx(0.2)


def test_a_widened_encoder_exports_the_pre_feature() -> None:
    encoder = load_encoder("widened(tiny(widths=(8, 8, 8, 8)), 32)")
    x = toy_images(4)
    features, plain = encoder(x), load_encoder("tiny(widths=(8, 8, 8, 8))")(x)
    assert features.pooled.shape == (4, 32) == (4, encoder.card.dim)
    assert torch.equal(features.dense, plain.dense)
    assert float(features.pooled.min()) == 0
    learner: Any = learner_of("emp", encoder.requires_grad_(True).train())
    before = encoder.body.wide[0].weight.detach().clone()
    one_step(learner, optimizer_of(learner), at())
    assert not torch.equal(encoder.body.wide[0].weight, before)
    again = load_encoder("widened(tiny(widths=(8, 8, 8, 8)), 32)")
    again.body.load_state_dict(encoder.body.state_dict())
    assert torch.equal(again(x).pooled, encoder.eval()(x).pooled)


def test_supcon_without_classes_and_views_that_a_criterion_cannot_take_are_refused() -> None:
    from dataclasses import replace

    with pytest.raises(SpecError, match="supcon needs labels, and toy has no classes"):
        build(SMALL["supcon"], "Method").begin(tiny(), replace(toy_card(), classes=()), 16)
    with pytest.raises(SpecError, match="there is only 1"):
        learner_of("byol", views="views(1)")(samples(), at())

    class Two(Coding):
        sees = 2

    with pytest.raises(SpecError, match="Two takes 2 views, and these views are 3"):
        Joint(tiny(), views(3), Two(1.0, 0.2), mlp((8, 8)))


def test_an_inner_attack_reads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(gather.dist, "get_world_size", lambda: 2)
    assert gather.world() == 2
    with attack_mode(nn.Identity(), "eval"):
        assert gather.world() == 1
    assert gather.world() == 2
