"""Hardening: each method's loss is its formula, the teacher is never updated, and only the intended weights are trained."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.attacks.threats.l2 import l2
from hardsight.attacks.threats.linf import linf
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import Sample
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Card, Encoder
from hardsight.specs.catalog import build, entries
from hardsight.training.methods.base import Learner, Samples, Step
from hardsight.training.methods.harden.linear_heads import FeatureScale, LinearHead, truth_of
from hardsight.training.methods.harden.lora import Adapter, LoRALearner
from hardsight.training.methods.harden.partial import blocks
from tests.conftest import ToyBody, toy_card, toy_encoder, toy_images, toy_target
from tests.fixtures.methods import SMALL

TINY = "tiny(widths=(8, 8, 8, 8))"
ATTACK = "adversary(pgd(2, step=0.75, keep=last), linf(8/255))"
VIEW = "views=untouched(1)"
CORNER = (0.0, 0.0)
METHODS = {
    "deacl": f"deacl({ATTACK}, {VIEW})",
    "fare": f"fare({ATTACK}, clean=0.5, {VIEW})",
    "tecoa": f"tecoa({ATTACK}, {VIEW})",
    "profeat": f"profeat({ATTACK}, widths=(16, 8), steps=3, {VIEW})",
    "lore": f"lore({ATTACK}, {VIEW})",
    "multitask": f"multitask({ATTACK}, prototypes=3, {VIEW})",
    "multitask with truth": f"multitask({ATTACK}, labels=True, layers=(0,), mix=split, clean=0.5, {VIEW})",
}


class Toys:
    """A split of toy images with every target."""

    def __init__(self, count: int = 24) -> None:
        self.x = toy_images(count)
        tasks = {name: build(name, "Task") for name in ("classify", "segment", "depth")}
        self.target = {task.target: toy_target(task, count) for task in tasks.values()}

    def __len__(self) -> int:
        return len(self.x)

    def sample(self, place: int) -> Sample:
        target = {name: value[place] for name, value in self.target.items()}
        return Sample(str(place), (self.x[place] * 255).round().to(torch.uint8), target)

    def samples(self, count: int = 8) -> Samples:
        return Samples(self.x[:count], {name: value[:count] for name, value in self.target.items()}, torch.arange(count))


def begun(spec: str, encoder: Encoder | None = None) -> Learner:
    encoder = encoder or load_encoder(TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = build(spec, "Method").begin(encoder.requires_grad_(True), toy_card(), 24)
    learner.prepare(Toys())  # type: ignore[arg-type]
    return learner


def when(place: int = 0, **more: Any) -> When:
    return When(seeds.generator("harden", place), **more)


def value(learner: Learner) -> float:
    return float(learner(Toys().samples(), when()).loss.detach())


def trained(learner: Learner, steps: int = 3, lr: float = 0.05) -> list[Step]:
    optimizer = torch.optim.SGD([one for one in learner.parameters() if one.requires_grad], lr=lr)
    found = []
    for step in range(steps):
        for replay in range(learner.replays):
            at = when(step, step=step, steps=steps, replay=replay)
            found.append(learner(Toys().samples(), at))
            optimizer.zero_grad()
            found[-1].loss.backward()
            learner.after_backward(at)
            optimizer.step()
            learner.after_step(found[-1].keep, at)
    return found


def climbed(read: Any, x: Tensor, rng: torch.Generator, steps: int = 2, step: float = 0.75, eps: float = 8 / 255) -> Tensor:
    """An explicit PGD from a random start; read: images -> a scalar."""
    moved = (x + (2 * torch.rand(x.shape, generator=rng) - 1) * eps).clamp(0, 1)
    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(read(moved), moved)
        moved = (x + (moved.detach() + step * eps * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return moved.detach()


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_never_moves_and_the_student_does(name: str) -> None:
    learner = begun(METHODS[name]).train()
    teacher: Any = learner.teacher
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = copy.deepcopy(learner.encoder.state_dict())
    trained(learner)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not teacher.training
    assert learner.encoder.training
    weight = "body.stem.0.weight"
    assert not torch.equal(learner.encoder.state_dict()[weight], student[weight])


@pytest.mark.parametrize("name", METHODS)
def test_attacks_leave_gradients_and_statistics_alone(name: str) -> None:
    learner = begun(METHODS[name]).eval()
    before = {key: value.clone() for key, value in learner.encoder.state_dict().items()}
    learner(Toys().samples(), when())
    assert all(one.grad is None for one in learner.parameters())
    assert all(torch.equal(value, before[key]) for key, value in learner.encoder.state_dict().items())


def test_fare_is_the_formula() -> None:
    encoder, teacher = toy_encoder(1), toy_encoder(0)
    learner: Any = begun(METHODS["fare"], encoder)
    learner.teacher = teacher
    x = Toys().x[:8]
    wanted = teacher(x).pooled.detach()
    x_adv = climbed(lambda x: (encoder(x).pooled - wanted).square().sum(), x, seeds.generator("harden", 0))
    moved = (encoder(x_adv).pooled - wanted).square().sum(1).mean()
    near = (encoder(x).pooled - wanted).square().sum(1).mean()
    assert value(learner) == pytest.approx((moved + 0.5 * near).item(), rel=1e-5)


def test_tecoa_is_the_formula() -> None:
    encoder = toy_encoder(0)
    learner = begun(METHODS["tecoa"], encoder)
    toys = Toys()
    whole = (toys.x * 255).round() / 255
    features, label = encoder(whole).pooled.detach(), toys.target["label"]
    centred = features - features.mean(0)
    means = torch.stack([centred[label == k].mean(0) for k in range(5)])

    def loss(x: Tensor, label: Tensor, reduction: str = "sum") -> Tensor:
        logits = F.cosine_similarity((encoder(x).pooled - features.mean(0))[:, None], means[None], dim=2) / 0.1
        return F.cross_entropy(logits, label, reduction=reduction)

    x_adv = climbed(lambda x: loss(x, label[:8]), toys.x[:8], seeds.generator("harden", 0))
    expected = loss(x_adv, label[:8], "mean").item()
    assert value(learner) == pytest.approx(expected, rel=1e-4)


def test_profeat_is_the_formula() -> None:
    encoder, teacher = toy_encoder(1), toy_encoder(0)
    learner: Any = begun(METHODS["profeat"], encoder)
    learner.teacher = teacher
    project, cos = learner.projector, F.cosine_similarity
    assert not any(one.requires_grad for one in project.parameters())
    x = Toys().x[:8]
    wanted, begin = teacher(x).pooled.detach(), encoder(x).pooled.detach()

    def raised(x: Tensor) -> Tensor:
        pooled = encoder(x).pooled
        return -(cos(pooled, begin) + cos(project(pooled), project(wanted))).sum()

    x_adv = climbed(raised, x, seeds.generator("harden", 0))
    calm, firm = encoder(x).pooled, encoder(x_adv).pooled
    near = 0.5 * cos(calm, wanted).mean() + 0.5 * cos(project(calm), project(wanted)).mean()
    steady = 0.5 * cos(firm, calm).mean() + 0.5 * cos(project(firm), project(calm)).mean()
    assert value(learner) == pytest.approx((-near - 8 * steady).item(), rel=1e-5)


def test_lore_is_the_formula_and_its_prices_rise_where_images_moved_too_far() -> None:
    learner: Any = begun(f"lore({ATTACK}, rho=0.0, replays=2, rate=0.5, {VIEW})", toy_encoder(1))
    learner.teacher = toy_encoder(0)
    x = Toys().x[:8]
    wanted = learner.teacher(x).pooled.detach()
    before = learner.dual(wanted).detach()
    (first, second) = trained(learner, 1, lr=0.0)
    x_adv = climbed(lambda x: (learner.encoder(x).pooled - wanted).square().sum(), x, seeds.generator("harden", 0))
    lengths = wanted.square().sum(1)
    moved, near = ((learner.encoder(one).pooled - wanted).square().sum(1) for one in (x_adv, x))
    expected = ((moved + before * (near - 0.0 * lengths)) / lengths.mean()).mean()
    assert first.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert second.loss.item() == pytest.approx(expected.item(), rel=1e-5)  # the same attacked images
    assert learner.dual(wanted).mean() > before.mean()
    easy: Any = begun(f"lore({ATTACK}, rho=9.0, replays=1, rate=0.5, {VIEW})", toy_encoder(0))
    wanted = easy.teacher(x).pooled.detach()
    before = easy.dual(wanted).detach()
    trained(easy, 1, lr=0.0)
    assert easy.dual(wanted).mean() < before.mean()


def classifier(spec: str) -> Any:
    return begun(spec, toy_encoder(0))


def logits_of(learner: Any) -> Any:
    inner = learner.inner
    return lambda x: inner.classifier(inner.encoder(x).pooled)


def test_fast_is_one_step_from_a_random_start() -> None:
    learner = classifier(f"adv_finetune(fast, linf(8/255), {VIEW})")
    logits, x, label = logits_of(learner), Toys().x[:8], Toys().target["label"][:8]
    x_adv = climbed(lambda x: F.cross_entropy(logits(x), label), x, seeds.generator("harden", 0), 1, 1.25)
    expected = F.cross_entropy(logits(x_adv), label).item()
    assert value(learner) == pytest.approx(expected, rel=1e-5)
    assert expected > F.cross_entropy(logits(x), label).item()


def test_trades_is_the_formula() -> None:
    learner = classifier(f"adv_finetune(trades, linf(8/255), steps=2, step=0.75, beta=3.0, {VIEW})")
    logits, x, label = logits_of(learner), Toys().x[:8], Toys().target["label"][:8]

    def shift(x_adv: Tensor) -> Tensor:
        p = logits(x).softmax(1)
        return (p * (p.log() - logits(x_adv).log_softmax(1))).sum(1)

    x_adv = climbed(lambda x_adv: shift(x_adv).sum(), x, seeds.generator("harden", 0))
    expected = F.cross_entropy(logits(x), label) + 3 * shift(x_adv).mean()
    step = learner(Toys().samples(), when())
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(step.loss, learner.inner.encoder.body.one.weight)[0]
    theirs = torch.autograd.grad(expected, learner.inner.encoder.body.one.weight)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_free_moves_weights_and_perturbation_by_one_pass() -> None:
    learner = classifier(f"adv_finetune(free, linf(8/255), replays=3, {VIEW})")
    assert learner.replays == 3
    naive = copy.deepcopy(learner)
    logits, x, label = logits_of(naive), Toys().x[:8], Toys().target["label"][:8]
    delta, losses = torch.zeros_like(x), []
    optimizer = torch.optim.SGD(naive.inner.parameters(), lr=0.05)
    for _ in range(3):
        leaf = (x + delta).clamp(0, 1).detach().requires_grad_(True)
        loss = F.cross_entropy(logits(leaf), label)
        optimizer.zero_grad()
        loss.backward()
        assert leaf.grad is not None
        delta = (leaf.detach() + 8 / 255 * leaf.grad.sign() - x).clamp(-8 / 255, 8 / 255)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [step.loss.item() for step in trained(learner, 1)] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)], ids=str)
def test_merged_equals_unmerged_and_the_gradient_is_that_of_the_factors(layer: Any) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    adapter = Adapter(layer, 2, 1.5)
    with torch.no_grad():
        adapter.up.normal_()
    base, x = layer.weight.detach().clone(), torch.randn(3, *((6,) if layer.weight.dim() == 2 else (4, 5, 5)))

    def unmerged(x: Tensor) -> Tensor:
        """The original layer plus the two factors, one after the other."""
        if layer.weight.dim() == 2:
            return F.linear(x, base, layer.bias) + 1.5 * F.linear(F.linear(x, adapter.down), adapter.up)
        down = adapter.down.view(-1, *base.shape[1:])
        inner = F.conv2d(x, down, padding=layer.padding)
        return F.conv2d(x, base, layer.bias, padding=layer.padding) + 1.5 * F.conv2d(inner, adapter.up[:, :, None, None])

    adapter.merge()
    assert torch.allclose(layer(x), unmerged(x), atol=1e-6)
    wanted = torch.autograd.grad(unmerged(x).square().sum(), (adapter.down, adapter.up))
    layer(x).square().sum().backward()
    adapter.pass_gradient()
    assert layer.weight.grad is None
    for part, want in zip((adapter.down, adapter.up), wanted, strict=True):
        assert part.grad is not None
        assert torch.allclose(part.grad, want, rtol=1e-4, atol=1e-4)


def test_lora_trains_its_adapters_alone_and_leaves_an_ordinary_encoder() -> None:
    learner = begun(f"lora({METHODS['deacl']}, rank=2, alpha=8.0)").train()
    assert isinstance(learner, LoRALearner)
    encoder = learner.encoder
    names = set(encoder.state_dict())
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    optimizer = torch.optim.AdamW([one for one in learner.parameters() if one.requires_grad], lr=0.01, weight_decay=0.5)
    for step in range(3):
        loss = learner(Toys().samples(), when(step)).loss
        optimizer.zero_grad()
        loss.backward()
        learner.after_backward(when(step))
        graded = [name for name, one in learner.named_parameters() if one.grad is not None]
        assert graded
        assert all(name.startswith("adapters.") for name in graded)
        optimizer.step()
        learner.after_step(None, when(step))
    assert set(encoder.state_dict()) == names == set(load_encoder(TINY).state_dict())
    for name, value in encoder.named_parameters():
        change = (value - before[name]).detach().flatten(1) if value.dim() > 1 else value - before[name]
        if value.dim() > 1:
            assert 0 < int(torch.linalg.matrix_rank(change, tol=1e-5)) <= 2, name
        else:
            assert not change.any(), name


def test_lora_takes_the_layers_that_are_named_and_resumes_from_a_checkpoint() -> None:
    spec = f"lora({METHODS['deacl']}, rank=2, where=('conv2',))"
    learner: Any = begun(spec)
    assert len(learner.adapters) == 4
    trained(learner)
    resumed: Any = begun(spec)
    resumed.load_state_dict(learner.state_dict())
    (one,), (other,) = trained(learner, 1), trained(resumed, 1)
    assert one.loss.item() == other.loss.item()
    assert all(torch.equal(a, b) for a, b in zip(learner.state_dict().values(), resumed.state_dict().values(), strict=True))


@pytest.mark.parametrize("encoder", [TINY, "timm:test_vit(pretrained=False, size=16)"])
def test_partial_trains_the_last_blocks_alone(encoder: str) -> None:
    net = load_encoder(encoder)
    learner = begun(f"partial({METHODS['deacl']}, last=1)", net).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained(learner)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    last = blocks(net.body)[-1]
    inside = {
        name
        for name, value in net.state_dict(keep_vars=True).items()
        if any(value is one for one in last.state_dict(keep_vars=True).values())
    }
    assert changed
    assert changed & inside
    assert all(name in inside or "norm" in name.rsplit(".", 2)[-2] for name in changed), changed - inside


def test_scaling_makes_quiet_channels_count() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 5, generator=rng) * torch.tensor([100.0, 10, 1, 0.1, 0.01]) + 3
    place = FeatureScale(5, 1e-11)
    place.measure(rows)
    assert torch.allclose(place(rows).mean(0), torch.zeros(5), atol=1e-2)
    assert torch.allclose(place(rows).var(0), torch.ones(5), atol=1e-2)
    assert float(place.gap(rows[:2000], rows[2000:]).mean()) == pytest.approx(2, rel=0.05)
    plain = FeatureScale(5, 1e6)
    plain.measure(rows)
    assert torch.allclose(plain.scale, plain.scale.mean().expand(5), rtol=1e-3)
    assert float(plain(rows).var(0).mean()) == pytest.approx(1, rel=0.01)


def test_linear_heads_are_least_squares_on_labelled_cells() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 6, generator=rng, dtype=torch.float64).float()
    weight = torch.randn(6, 1, generator=rng)
    answers = LinearHead("depth", 6, 1)
    truth = rows @ weight + 2
    truth[::7] = torch.nan
    answers.solve(rows, truth)
    assert torch.allclose(answers.weight, weight, rtol=0.05, atol=0.02)  # a ridge of 3% shrinks it
    assert float(answers.bias) == pytest.approx(2, rel=0.02)
    mask = torch.tensor([[[0, 0, 1, 1], [0, 0, 255, 1], [255, 255, 2, 2], [255, 255, 2, 0]]])
    found = truth_of("segment", mask, 3, (2, 2))
    assert torch.equal(found[0], torch.tensor([1.0, 0, 0]))
    assert torch.equal(found[1], torch.tensor([0, 1.0, 0]))
    assert found[2].isnan().all()
    assert torch.equal(found[3], torch.tensor([0.25, 0, 0.75]))
    depth = torch.tensor([[[1.0, 0.0], [1.0, 4.0]]])
    assert float(truth_of("depth", depth, 1, (1, 1))) == pytest.approx(math.log(4) / 3)


@pytest.mark.parametrize("kind", ["pooled", "dense", "classify", "segment", "depth", "layer 0"])
def test_each_inner_attack_raises_its_own_loss(kind: str) -> None:
    learner: Any = begun(
        f"multitask({ATTACK}, attacks=('{kind}',), layers=(0,), labels=True, {VIEW})"
        if kind in ("classify", "segment", "depth")
        else f"multitask({ATTACK}, attacks=('{kind}',), layers=(0,), {VIEW})",
        toy_encoder(0),
    )
    x, layers = Toys().x[:8], (0,)
    with torch.no_grad():
        wanted = learner._maps(learner.teacher(x, layers))
        answered = {
            name: answers(wanted["pooled" if name == "classify" else "dense"]) for name, answers in learner.answers.items()
        }
        x_adv = learner.moved(x, wanted, answered, CORNER, when())
        noisy = linf(8 / 255).inside(x, seeds.generator("harden", 0))
        losses = [
            learner._raised(kind, learner._maps(learner.encoder(one, layers)), wanted, answered) for one in (x, noisy, x_adv)
        ]
    assert float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6
    assert (losses[2] > losses[0]).all()
    assert float(losses[2].mean()) > 1.5 * float(losses[1].mean()) - 0.5 * float(losses[0].mean())


def test_multitask_is_the_formula() -> None:
    learner: Any = begun(f"multitask({ATTACK}, clean=0.25, heads=0.5, labels=True, {VIEW})", toy_encoder(1))
    learner.teacher = toy_encoder(0)
    x = Toys().x[:8]
    with torch.no_grad():
        wanted = learner._maps(learner.teacher(x))
        answered = {
            kind: answers(wanted["pooled" if kind == "classify" else "dense"]) for kind, answers in learner.answers.items()
        }
        at = when()
        corner = tuple(torch.rand((), generator=at.rng).item() for _ in range(2))
        x_adv = learner.moved(x, wanted, answered, corner, at)
    total = 0.0
    for weight, images in ((0.25, x), (1.0, x_adv)):
        seen = learner.encoder(images)
        for name, here, there in (("pooled", seen.pooled, wanted["pooled"]), ("dense", seen.dense, wanted["dense"])):
            away = (here - there).movedim(1, -1) * learner.places[name].scale
            total += weight * away.square().mean().item()
        for kind in ("classify", "segment", "depth"):
            answers = learner.answers[kind]
            there, here = answered[kind], answers(seen.pooled if kind == "classify" else seen.dense)
            if kind == "depth":
                shift = (here - there).square().mean()
            else:
                p = there.softmax(1)
                shift = (p * (p.log() - here.log_softmax(1))).sum(1).mean()
            total += 0.5 * weight * shift.item()
    assert value(learner) == pytest.approx(total, rel=1e-4)


def test_multitask_splits_its_attacks_over_the_batch() -> None:
    """In a split batch each image is attacked exactly as by one kind alone, and both kinds occur."""
    specs = {"both": "('pooled', 'depth')", "one": "('pooled',)", "other": "('depth',)"}
    found = {}
    for name, attacks in specs.items():
        learner: Any = begun(
            f"multitask(adversary(pgd(2, start=inside, keep=last), linf(8/255)), attacks={attacks}, mix=split, {VIEW})",
            toy_encoder(0),
        )
        learner.encoder = toy_encoder(1)
        x = Toys().x[:16]
        with torch.no_grad():
            wanted = learner._maps(learner.teacher(x))
            answered = {kind: answers(wanted["dense"]) for kind, answers in learner.answers.items()}
            found[name] = learner.moved(x, wanted, answered, CORNER, when())
    alike = {name: (found["both"] == found[name]).flatten(1).all(1) for name in ("one", "other")}
    assert (alike["one"] ^ alike["other"]).all()
    assert 2 <= int(alike["one"].sum()) <= 14


def test_multitask_draws_one_of_its_threats_for_a_step() -> None:
    learner: Any = begun(f"multitask({ATTACK}, attacks=('pooled',), threats=(linf(2/255), l2(3.0)), {VIEW})", toy_encoder(0))
    x, sizes = Toys().x[:8], []
    with torch.no_grad():
        wanted = learner._maps(learner.teacher(x))
        for step in range(12):
            away = learner.moved(x, wanted, {}, CORNER, when(step)) - x
            sizes.append((float(linf(1).size(away).max()), float(l2(1).size(away).max())))
    near = [one <= 2 / 255 + 1e-6 for one, _ in sizes]
    assert 0 < sum(near) < 12
    assert all(other <= 3 + 1e-4 for _, other in sizes)


def test_refusals() -> None:
    unlabelled = toy_card().__class__("plain", (), (16, 16))
    for name in ("tecoa", "adv_finetune"):
        with pytest.raises(SpecError, match=f"{name} needs labels, and plain has no classes"):
            build(name, "Method").begin(toy_encoder(), unlabelled, 24)
    with pytest.raises(SpecError, match="has none of label, mask, depth"):
        build("multitask(labels=True)", "Method").begin(toy_encoder(), unlabelled, 24)
    pooled = Encoder(ToyBody(), Card("flat", "toy", "test", dim=12, dense_dim=0, stride=4, size=16))
    with pytest.raises(SpecError, match="flat has no dense features"):
        build("multitask", "Method").begin(pooled, toy_card(), 24)
    with pytest.raises(SpecError, match="attacks is"):
        build("multitask(attacks=('pooled', 'layer 2'))", "Method")
    with pytest.raises(SpecError, match="toy has no layer called qkv to adapt; its layers are called one, two"):
        build("lora(deacl, where=('qkv',))", "Method").begin(toy_encoder(), toy_card(), 24)
    bare = Encoder(nn.Identity(), Card("bare", "toy", "test", dim=3, dense_dim=0, stride=1, size=16))
    with pytest.raises(SpecError, match="bare has no layer to adapt; it has no linear layer and no convolution"):
        build("lora(deacl)", "Method").begin(bare, toy_card(), 24)
    with pytest.raises(SpecError, match="partial: last is 4, and tiny has 4 blocks"):
        build("partial(deacl, last=4)", "Method").begin(load_encoder(TINY), toy_card(), 24)
    with pytest.raises(SpecError, match="takes one view per image"):
        begun("fare(views=views(2))")
    for name in ("tecoa", "profeat", "multitask"):
        learner = build(SMALL.get(name, name), "Method").begin(toy_encoder(), toy_card(), 24)
        with pytest.raises(SpecError, match="prepare"):
            learner(Toys().samples(), when())


def test_every_hardening_method_is_tried_here() -> None:
    kept = {name for name, entry in entries().items() if entry.module.startswith("hardsight.training.methods.harden")}
    assert kept == {*METHODS, "adv_finetune", "lora", "partial"} - {"multitask with truth"}
