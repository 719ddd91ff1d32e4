"""Square compared with AutoAttack's own code: equal bit by bit in Linf and L2; in L1 up to rounding, in short runs."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading, against
from hardsight.specs.catalog import build
from tests.conftest import toy_images
from tests.parity.test_pgd import Net

COUNT = 16


def wrong(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(1) != y).float()


def both(
    norm: str, spec: str, changes: int, rescale: bool = False, size: int = 16
) -> tuple[AttackResult, Tensor, Tensor, Tensor]:
    """The result of ours, the points of theirs, the query counts of theirs, and the images."""
    net, x = Net().eval().requires_grad_(False), toy_images(COUNT, size)
    y, threat = net(x).argmax(1), build(spec, "Threat")
    attack = SquareAttack(net, norm=norm, n_queries=changes, eps=threat.eps, p_init=0.8, resc_schedule=rescale)
    attack.init_hyperparam(x)
    torch.manual_seed(5)
    queries, points = attack.attack_single_run(x, y)
    search = build(f"square({changes + 1}, rescale={rescale})", "Search")
    found = search(against(net, build("margin", "Loss"), wrong, y), x, threat, torch.Generator().manual_seed(5))
    return found, points, queries, x


@pytest.mark.parametrize(
    ("norm", "spec"), [("Linf", "linf(2/255)"), ("Linf", "linf(6/255)"), ("L2", "l2(0.1)"), ("L2", "l2(0.4)")]
)
@pytest.mark.parametrize("rescale", [False, True])
def test_equals_autoattack_bit_by_bit(norm: str, spec: str, rescale: bool) -> None:
    found, points, queries, _ = both(norm, spec, 250, rescale)
    assert torch.equal(found.x_adv, points)
    assert torch.equal(found.queries, queries.long())
    assert found.queries.max() == 251
    if spec in ("linf(6/255)", "l2(0.4)"):
        assert found.queries.min() < 251  # images left, and the others still took the same steps


def test_l1_equals_autoattack_to_rounding() -> None:
    """Their projection is float32 to eps (1 - 1e-6), ours is exact: single images diverge after some time.

    A window that contains only rounding errors is then scaled up by both.
    """
    found, points, queries, _ = both("L1", "l1(5)", 12)
    assert (found.x_adv - points).abs().flatten(1).amax(1).median() < 1e-5
    assert torch.equal(found.queries, queries.long())
    found, points, queries, x = both("L1", "l1(5)", 150)
    assert (found.x_adv - points).abs().flatten(1).amax(1).median() < 1e-4
    assert found.error is not None and 0 < found.error.sum() < COUNT
    broken = wrong(Net().eval()(points), Net().eval()(x).argmax(1))
    assert abs(float(found.error.sum() - broken.sum())) <= 1
    assert (found.queries == queries).float().mean() >= 0.8


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(5)"])
@pytest.mark.parametrize("shape", [(14, 14), (9, 23), (40, 12), (3, 3), (1, 5)])
def test_images_of_any_size(spec: str, shape: tuple[int, int]) -> None:
    """AutoAttack's code fails on most of these."""
    x, threat = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)), build(spec, "Threat")
    w = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    objective = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w)
    found = build("square(80)", "Search")(objective, x, threat, torch.Generator().manual_seed(2))
    assert (threat.size(found.x_adv - x) <= threat.eps * (1 + 1e-5)).all()
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    assert (found.loss > objective(x).loss).all()
    assert (found.queries == 80).all()


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(5)"])
def test_clips_are_images_with_more_channels(spec: str) -> None:
    rng = torch.Generator().manual_seed(0)
    clip, w, threat = (
        torch.rand(2, 3, 4, 12, 12, generator=rng),
        torch.randn(2, 3, 4, 12, 12, generator=rng),
        build(spec, "Threat"),
    )
    results = []
    for shape in ((2, 3, 4, 12, 12), (2, 12, 12, 12)):
        objective = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w.view(shape))
        found = build("square(40)", "Search")(objective, clip.view(shape), threat, torch.Generator().manual_seed(1))
        results.append(found.x_adv.view(clip.shape))
    assert torch.equal(*results)


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(5)"])
def test_errors_that_never_reach_one_use_every_query(spec: str) -> None:
    """Dense tasks: the error is a share of pixels. What raises the loss is kept, even if the error decreases."""
    x, threat = toy_images(3), build(spec, "Threat")
    w = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def read(x: Tensor, w: Tensor, progress: float) -> Reading:
        assert not torch.is_grad_enabled()
        loss = (x * w).flatten(1).sum(1)
        return Reading(loss, 0.5 - 0.4 * torch.tanh(loss / 50))

    found = build("square(60)", "Search")(Objective(read, w), x, threat, torch.Generator().manual_seed(0))
    assert (found.queries == 60).all()
    greatest = (found.x_best_loss * w).flatten(1).sum(1)
    assert (greatest > (x * w).flatten(1).sum(1)).all()
    assert (found.error > 0.5 - 0.4 * torch.tanh(greatest / 50)).all()  # type: ignore[operator]


def test_succeeds_without_a_gradient() -> None:
    """Negative control: with rounded logits PGD has no gradient to follow, and Square needs none."""
    net, x = Net().eval().requires_grad_(False), toy_images(32)
    y, threat = net(x).argmax(1), build("linf(6/255)", "Threat")
    rounded = lambda x: (net(x) * 200).round() / 200  # noqa: E731
    objective = against(rounded, build("margin", "Loss"), wrong, y)
    masked = build("pgd(20, start='clean')", "Search")(objective, x, threat)
    search = build("square(400, rescale=True)", "Search")
    found = search(objective, x, threat, torch.Generator().manual_seed(0))
    assert masked.error.sum() == 0 and (masked.flat == 20).all()  # type: ignore[union-attr]
    assert found.error.sum() >= 4  # type: ignore[union-attr]


def test_a_point_that_is_not_finite_is_never_kept() -> None:
    x, threat = toy_images(2), build("linf(8/255)", "Threat")
    seen = []

    def read(x: Tensor, target: None, progress: float) -> Reading:
        seen.append(len(x))
        loss = x.flatten(1).sum(1)
        return Reading(torch.where(torch.tensor(len(seen) % 2 == 1), torch.nan, loss))

    found = build("square(20)", "Search")(Objective(read), x, threat, torch.Generator().manual_seed(0))
    assert torch.isfinite(found.loss).all() and found.halted.all()
    assert torch.allclose(found.loss, found.x_adv.flatten(1).sum(1))


@pytest.mark.parametrize(("spec", "message"), [("l0(5)", "L0"), ("masked(l2(0.5), (0, 0, 1, 0.5))", "L2 in")])
def test_unknown_geometries_are_refused_by_name(spec: str, message: str) -> None:
    x = toy_images(1)
    with pytest.raises(SpecError, match=message):
        build("square(3)", "Search")(Objective(lambda x, t, p: Reading(x.flatten(1).sum(1))), x, build(spec, "Threat"))
    with pytest.raises(SpecError, match="at least 1"):
        build("square(0)", "Search")
