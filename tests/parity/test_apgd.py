"""APGD compared with AutoAttack's own code: from the same seed the same points, pass by pass; and its strength."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyautoattack.autopgd_base as official
import pytest
import torch
from torch import Tensor

import hardsight as hs
from hardsight.attacks.search.shrink import split
from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading, against
from hardsight.specs.catalog import build
from tests.conftest import toy_images, toy_system
from tests.parity.test_pgd import Net

COUNT, SEED = 32, 3
EPS = {"Linf": 4 / 255, "L2": 0.3, "L1": 4.0}
Model = Callable[[Tensor], Tensor]


class Recorder:
    """A model that records every batch that it was given."""

    def __init__(self, model: Model) -> None:
        self.model, self.batches = model, []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        return self.model(x)


@dataclass
class Pair:
    """What AutoAttack's code and ours found and evaluated.

    goal: what both maximize. successful: mask [B], and x_adv: the last misclassified points; highest: the points of highest
    loss; all three theirs. apart [T, B]: the distance between the points of the two searches at each forward pass.
    """

    goal: Objective
    successful: Tensor
    x_adv: Tensor
    highest: Tensor
    ours: AttackResult
    apart: Tensor


def objective(model: Model, loss: str, target: Any, y: Tensor) -> Objective:
    return against(model, build(loss, "Loss"), build("classify", "Task").error, target, y)


def side_by_side(
    model: Model, x: Tensor, y: Tensor, norm: str, loss: str, steps: int, eps: float, start: Tensor | None = None
) -> Pair:
    theirs, ours, target = Recorder(model), Recorder(model), y
    if loss == "dlr_to":
        attack = official.APGDAttack_targeted(theirs, n_iter=steps, norm=norm, eps=eps, seed=SEED, device="cpu")
        target = build("rival(1)", "Aim")(model, x, y)
        attack.y_target = target[1]
    else:
        attack = official.APGDAttack(theirs, n_iter=steps, norm=norm, eps=eps, seed=SEED, loss=loss, device="cpu")
    attack.init_hyperparam(x)
    torch.manual_seed(SEED)
    highest, active, _, x_adv = attack.attack_single_run(x, y, x_init=start)
    threat, rng = build(f"{norm.lower()}({eps})", "Threat"), torch.Generator().manual_seed(SEED)
    found = build(f"apgd({steps})", "Search")(objective(ours, loss, target, y), x, threat, rng, start)
    both = zip(theirs.batches, ours.batches, strict=True)
    apart = torch.stack([(one - other).flatten(1).abs().amax(1) for one, other in both])
    return Pair(objective(model, loss, target, y), ~active.bool(), x_adv, highest, found, apart)


@pytest.fixture
def net() -> Net:
    return Net().eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return toy_images(COUNT)


@pytest.fixture
def exact_l1(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack's L1 without its rounding errors.

    Its projection works in single precision, and leaves about 1e-8 on values that it moves back to the clean image, which
    its sparsity control then counts as changed.
    """

    def project(x: Tensor, delta: Tensor, eps: float) -> Tensor:
        return build(f"l1({eps})", "Threat").project(x + delta, x) - (x + delta)

    monkeypatch.setattr(official, "L1_projection", project)
    monkeypatch.setattr(official, "L0_norm", lambda delta: (delta.abs() > 1e-6).flatten(1).sum(1))


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in double precision: their code stores its losses in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr_to"])
@pytest.mark.parametrize(("norm", "near"), [("Linf", 1e-16), ("L2", 1e-10), ("L1", 1e-10)])
@pytest.mark.slow
def test_takes_the_same_steps_as_autoattack(
    net: Net, x: Tensor, exact_l1: None, double: None, norm: str, loss: str, near: float
) -> None:
    """From one start, 100 steps: the same points, and the same point of highest loss.

    Except for an image whose ratio of logits is at its maximum, 1, and so has no gradient but rounding, which L2 amplifies.
    """
    net, x = net.double(), x.double()
    start = build(f"{norm.lower()}({EPS[norm]})", "Threat").surface(x, torch.Generator().manual_seed(1))
    pair = side_by_side(net, x, net(x).argmax(1), norm, loss, 100, EPS[norm], start)
    counts = pair.goal(pair.highest).loss < 1 - 1e-9 if loss == "dlr" else torch.ones(COUNT, dtype=torch.bool)
    assert counts.float().mean() > 0.7
    assert pair.apart[:, counts].max() < near
    assert (pair.ours.x_best_loss - pair.highest)[counts].abs().max() < near


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr_to"])
@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("steps", [1, 2, 13, 50])
def test_a_seed_is_autoattacks_seed(net: Net, x: Tensor, norm: str, loss: str, steps: int) -> None:
    """In single precision too, and with their rounding in L1: the same start and errors, and Linf number for number."""
    y = net(x).argmax(1)
    pair = side_by_side(net, x, y, norm, loss, steps, EPS[norm])
    assert pair.apart[0].max() < {"Linf": 1e-9, "L2": 1e-6, "L1": 1e-4}[norm]
    assert pair.apart.max() < (1e-7 if norm == "Linf" else 1)
    assert torch.equal(pair.ours.error == 1, pair.successful)
    assert (pair.goal(pair.ours.x_best_loss).loss - pair.goal(pair.highest).loss).abs().mean() < 1e-2
    if steps == 50:
        assert 0.3 < pair.successful.float().mean() < 0.95


@pytest.mark.parametrize("norm", list(EPS))
def test_the_result_is_misclassified_and_of_highest_loss(net: Net, x: Tensor, norm: str) -> None:
    """Of the misclassified points AutoAttack returns the last; ours is the one of highest loss."""
    y = net(x).argmax(1)
    pair = side_by_side(net, x, y, norm, "ce", 50, EPS[norm])
    own, theirs = pair.goal(pair.ours.x_adv), pair.goal(pair.x_adv)
    assert torch.equal(own.error == 1, pair.successful)
    assert (theirs.error[pair.successful] == 1).all()
    assert (own.loss[pair.successful] >= theirs.loss[pair.successful] - 1e-2).all()
    assert (own.loss[pair.successful] > theirs.loss[pair.successful]).any()


def test_rival_classes_are_autoattacks_targets(net: Net, x: Tensor) -> None:
    """On correctly classified images: the others are not attacked there."""
    y = net(x).argmax(1)
    for k in range(1, 5):
        _, other = build(f"rival({k})", "Aim")(net, x, y)
        assert torch.equal(other, net(x).sort(dim=1).indices[:, -(k + 1)])


def test_shrinking_in_l1_takes_the_same_steps_as_autoattack(net: Net, x: Tensor, exact_l1: None) -> None:
    y, eps, steps = net(x).argmax(1), 2.0, 50
    theirs, ours = Recorder(net), Recorder(net)
    attack = official.APGDAttack(theirs, n_iter=steps, norm="L1", eps=eps, seed=SEED, use_largereps=True, device="cpu")
    attack.init_hyperparam(x)
    torch.manual_seed(SEED)
    parts = split(steps)
    highest, active, greatest, _ = attack.decr_eps_pgd(x, y, [3 * eps, 2 * eps, eps], list(parts))
    stages = ", ".join(f"apgd({part})" for part in parts)
    search = build(f"shrinking([{stages}], radii=[3, 2, 1], hand=loss)", "Search")
    found = search(objective(ours, "ce", y, y), x, build("l1(2)", "Threat"), torch.Generator().manual_seed(SEED))
    assert parts == (15, 15, 20)
    assert search.passes == len(ours.batches) == len(theirs.batches) == int(found.queries.max()) == steps + 3
    assert max(float((a - b).abs().max()) for a, b in zip(theirs.batches, ours.batches, strict=True)) < 1e-4
    assert torch.equal(found.error == 1, ~active.bool())
    assert (found.x_best_loss - highest).abs().max() < 1e-4


def test_only_the_last_ball_counts(net: Net, x: Tensor) -> None:
    y, threat = net(x).argmax(1), build("linf(1/255)", "Threat")
    found = build("shrinking([apgd(10), pgd(5), apgd(10)], radii=[20, 4, 1])", "Search")(
        objective(net, "ce", y, y), x, threat, torch.Generator().manual_seed(SEED)
    )
    wide = build("apgd(10)", "Search")(objective(net, "ce", y, y), x, build("linf(20/255)", "Threat"))
    assert wide.error.mean() > found.error.mean()
    for point in (found.x_adv, found.x_best_loss):
        assert (threat.size(point - x) <= 1 / 255 + 1e-6).all()
    assert torch.equal(objective(net, "ce", y, y)(found.x_adv).error, found.error)
    assert set(found.queries.tolist()) == {11 + 6 + 11}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shrinking([apgd(3)], radii=[2, 1])", "one radius per stage"),
        ("shrinking([apgd(3), apgd(3)], radii=[1, 2])", "decrease to 1"),
        ("shrinking([apgd(3), apgd(3)], radii=[2, 1.5])", "decrease to 1"),
        ("shrinking([], radii=[])", "at least one"),
        ("apgd(-1)", "at least 0"),
        ("apgd(rho=0)", "above 0"),
    ],
)
def test_searches_that_cannot_be_meant(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec, "Search")


def test_threats_that_are_not_supported_are_named(x: Tensor) -> None:
    class Blob:
        eps, norm = 1.0, "blob"

    for spec, message in (("apgd(2)", "Blob.*project"), ("shrinking", "Blob")):
        with pytest.raises(SpecError, match=message):
            build(spec, "Search")(Objective(lambda x, t, p: Reading(x.flatten(1).sum(1))), x, Blob())
    with pytest.raises(SpecError, match="too few"):
        split(2)


@pytest.mark.parametrize("spec", ["linf(4/255)", "l2(0.3)", "l1(4)"])
def test_early_exit_changes_no_error_and_no_other_image(net: Net, x: Tensor, spec: str) -> None:
    y, threat = net(x).argmax(1), build(spec, "Threat")
    y[:3] = (y[:3] + 1) % 5  # these are misclassified before the first step
    whole, left = (
        build(f"apgd(30, early_exit={early})", "Search")(
            objective(net, "ce", y, y), x, threat, torch.Generator().manual_seed(SEED)
        )
        for early in (False, True)
    )
    assert torch.equal(whole.error, left.error)
    active = whole.error == 0
    assert 3 < active.sum() < COUNT - 3
    assert torch.allclose(whole.x_adv[active], left.x_adv[active], atol=1e-6)
    assert (left.queries[active] == 31).all()
    assert (left.queries[:3] == 1).all()
    assert (whole.queries == 31).all()


@pytest.mark.parametrize("spec", ["linf(4/255)", "l2(0.3)", "l1(4)"])
@pytest.mark.parametrize("when", [0, 4])
def test_an_image_that_is_not_finite_stops_and_affects_no_other(net: Net, x: Tensor, spec: str, when: int) -> None:
    """Every third image's loss is NaN, Inf or -Inf from forward pass `when` on."""
    y, threat, shown = net(x).argmax(1), build(spec, "Threat"), []
    marked = torch.arange(COUNT) % 3 == 0
    broken = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(COUNT)[:COUNT]

    def read(x: Tensor, target: Any, progress: float) -> Reading:
        reading = objective(net, "ce", y, y)(x)
        shown.append(x.detach().clone())
        return reading._replace(loss=torch.where(marked & (len(shown) > when), broken, reading.loss))

    start = threat.surface(x, torch.Generator().manual_seed(SEED))
    search = build("apgd(30)", "Search")
    found = search(Objective(read), x, threat, None, start)
    alone = search(objective(net, "ce", y[~marked], y[~marked]), x[~marked], threat, None, start[~marked])
    assert torch.equal(found.halted, marked)
    assert torch.allclose(found.x_adv[~marked], alone.x_adv, atol=1e-5)
    assert torch.isfinite(found.x_adv).all()
    assert torch.isfinite(found.loss[~marked]).all()
    assert all(torch.equal(later[marked], shown[when][marked]) for later in shown[when:])
    assert not torch.equal(shown[when][~marked], shown[-1][~marked])


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(5)"])
def test_linear_model_is_solved(spec: str) -> None:
    """To 1% of the optimum, in L1 too, where PGD's fixed share of values misses 40%."""
    threat, x = build(spec, "Threat"), torch.full((3, 3, 8, 8), 0.5)
    w = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    linear = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w)
    gain = build("apgd", "Search")(linear, x, threat, torch.Generator().manual_seed(0)).loss - linear(x).loss
    bound = threat.eps * threat.dual(w)
    if spec == "l1(5)":  # the pixel range lets each value move by 0.5, so ten of them share 5
        bound = 0.5 * w.flatten(1).abs().topk(10).values.sum(1)
    assert (gain >= 0.99 * bound).all(), gain / bound
    assert (gain <= bound * (1 + 1e-5)).all(), gain / bound


@pytest.mark.parametrize("spec", ["linf(12/255)", "l2(0.5)", "l1(6)"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_finds_no_less_than_pgd_of_as_many_steps(spec: str, loss: str) -> None:
    """A higher mean loss, hardly lower on any but one image in eight, and as many successes; PGD steps by eps / 4."""
    system, x = toy_system(build("classify", "Task")), toy_images(64)
    y, threat = system.output(x).argmax(1), build(spec, "Threat")
    goal = objective(system.output, loss, y, y)
    one, other = (
        build(search, "Search")(goal, x, threat, torch.Generator().manual_seed(0))
        for search in ("apgd(50)", "pgd(50, start='surface')")
    )
    ours, before = (goal(found.x_best_loss).loss for found in (one, other))
    assert ours.mean() > before.mean()
    assert (ours < before - 0.02).float().mean() <= 1 / 8
    assert one.error.mean() >= other.error.mean() > 0


def test_masked_gradients_stop_cross_entropy_and_not_the_ratio_of_logits() -> None:
    """Negative control: with logits ten thousand times as large, cross-entropy has no gradient where the model is right."""
    system, x = toy_system(build("classify", "Task")), toy_images(64)
    y = system.output(x).argmax(1)

    def broken(scale: float, loss: str) -> AttackResult:
        goal = objective(lambda x: scale * system.output(x), loss, y, y)
        return build("apgd(30)", "Search")(goal, x, build("linf(16/255)", "Threat"), torch.Generator().manual_seed(0))

    open_, masked = broken(1, "ce").error.mean(), broken(1e4, "ce")
    assert open_ > 0.3
    assert masked.error.mean() < open_ / 2
    assert (masked.flat > 15).float().mean() > 0.5
    ratio = broken(1e4, "dlr")
    assert ratio.error.mean() >= open_ - 0.05
    assert not ratio.flat[ratio.error < 1].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "arch", "steps", "eps"),
    [
        ("resnet4b_adv_eps2.pth", "resnet4b", 50, {"Linf": 4 / 255, "L2": 0.25, "L1": 4.0}),
        ("resnet20-12fca82f.th", "resnet20", 10, {"Linf": 1 / 255, "L2": 0.1, "L1": 1.0}),
    ],
)
def test_real_models_are_misclassified_as_under_autoattack(
    real_data: Path, exact_l1: None, file: str, arch: str, steps: int, eps: dict[str, float]
) -> None:
    """The same errors, image by image; rounding decides the path of a few where a ReLU network has kinks."""
    encoder = hs.load_encoder(f"file:{real_data}/weights/{file}(arch='{arch}')").eval().requires_grad_(False)
    x, y = hs.load_images(hs.open_data(f"cifar10:{real_data}/cifar10"), "label", 64)
    for norm in eps:
        for loss in ("ce", "dlr", "dlr_to"):
            pair = side_by_side(lambda x: encoder.classify(encoder(x)), x, y, norm, loss, steps, eps[norm])
            differ = int(((pair.ours.error == 1) != pair.successful).sum())
            near = float((pair.apart[-1] < 1e-3).float().mean())
            print(
                f"{arch} {norm} {loss}: errors {int(pair.successful.sum())}, different {differ}, close at the end {near:.3f}"
            )
            assert differ <= (0 if norm == "Linf" else 1)
            assert near >= {"Linf": 1.0, "L2": 0.9, "L1": 0.5}[norm]
            assert pair.successful.float().mean() < 0.95
