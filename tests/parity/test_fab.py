"""FAB compared with AutoAttack's own code: the same points at every step to rounding, and nothing found farther away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pyautoattack import fab_projections
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading, against
from hardsight.specs.catalog import build
from tests.conftest import toy_images
from tests.parity.test_pgd import Net

STEPS, COUNT = 40, 16
NORMS = {"Linf": "linf(8/255)", "L2": "l2(0.4)", "L1": "l1(8)"}


class Watched(torch.nn.Module):
    """The network, and every batch that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.shown = Net().eval().requires_grad_(False), []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return self.net(x)


def wrong(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(1) != y).float()


def ours(
    net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, k: int, threat: str, spec: str = f"fab({STEPS})"
) -> AttackResult:
    other = Net().eval()(x).sort(dim=1).indices[:, -1 - k]
    objective = against(net, build("gap_to", "Loss"), wrong, (y, other), y)
    return build(spec, "Search")(objective, x, build(threat, "Threat"))


def theirs(net: torch.nn.Module, norm: str, eps: float) -> FABAttack_PT:
    return FABAttack_PT(net, norm=norm, n_iter=STEPS, eps=eps, targeted=True, device="cpu")


@pytest.fixture
def x() -> Tensor:
    return toy_images(COUNT)


@pytest.fixture
def y(x: Tensor) -> Tensor:
    return Net().eval()(x).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("k", [1, 3])
def test_takes_the_same_steps_as_autoattack(x: Tensor, y: Tensor, norm: str, k: int) -> None:
    here, there, threat = Watched(), Watched(), build(NORMS[norm], "Threat")
    found = ours(here, x, y, k, NORMS[norm])
    attack = theirs(there, norm, threat.eps)
    attack.target_class = k + 1
    adv = attack.attack_single_run(x, y, is_targeted=True)
    path = list(
        zip(here.shown[:-1], there.shown[2:], strict=True)
    )  # theirs evaluates x twice before, ours once more at the end
    assert len(path) == 2 * STEPS
    assert max(float((one - other).abs().amax()) for one, other in path) < 2e-3
    assert max(float((one - other).abs().flatten(1).amax(1).median()) for one, other in path) < 5e-6

    closest, best = x.clone(), torch.full((COUNT,), torch.inf)  # of the points that theirs evaluates: every other one
    for point, _ in path[1::2]:
        size = threat.size(point - x)
        nearer = (Net().eval()(point).argmax(1) != y) & (size < best)
        closest[nearer], best[nearer] = point[nearer], size[nearer]
    assert torch.isfinite(best).float().mean() > 0.5
    assert torch.allclose(best, torch.where(best.isfinite(), threat.size(adv - x), torch.inf), rtol=1e-4)
    assert (threat.size(found.x_best_loss - x)[best.isfinite()] <= best[best.isfinite()]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_succeeds_wherever_autoattack_succeeds(x: Tensor, y: Tensor, norm: str) -> None:
    """All targets together: FAB-T. Ours also counts points that are still misclassified after they were pulled back."""
    net, threat = Net().eval(), build(NORMS[norm], "Threat")
    attack = theirs(net, norm, threat.eps)
    attack.n_target_classes = 3
    adv = attack.perturb(x, y)
    successful = torch.stack([ours(net, x, y, k, NORMS[norm]).error for k in (1, 2, 3)]).amax(0) >= 1  # type: ignore[misc]
    broken = net(adv).argmax(1) != y
    assert broken.any()
    assert successful[broken].all()
    assert (successful & ~broken).sum() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_leaving_early_changes_no_error(x: Tensor, y: Tensor, norm: str) -> None:
    net = Net().eval()
    whole = ours(net, x, y, 1, NORMS[norm])
    short = ours(net, x, y, 1, NORMS[norm], f"fab({STEPS}, early_exit=True)")
    assert torch.equal(whole.error, short.error)  # type: ignore[arg-type]
    assert whole.error.any() and short.queries.sum() < 0.7 * whole.queries.sum()  # type: ignore[union-attr]
    assert (short.queries[short.error >= 1] < whole.queries.max()).all()  # type: ignore[operator]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3])
def test_steps_to_a_hyperplane_equal_autoattacks(norm: str, share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.rand(16, 300, generator=rng), torch.randn(16, 300, generator=rng)
    b = (w * x).sum(1) + share * w.abs().sum(1) * torch.randn(16, generator=rng).sign() * 0.5
    step = build(NORMS[norm], "Threat").to_hyperplane(x, w, b)
    other = getattr(fab_projections, f"projection_{norm.lower()}")(x.clone(), w, b)
    assert step.abs().amax() > 1e-4
    assert (step - other).abs().max() < 2e-6


@pytest.mark.parametrize("norm", NORMS)
def test_linear_boundary_is_found_at_its_distance(norm: str) -> None:
    """In the middle of the pixel range, the closest point of a hyperplane is its distance over the dual norm away."""
    threat = build(NORMS[norm], "Threat")
    x, w = torch.full((4, 3, 8, 8), 0.5), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    away = 0.1 * threat.dual(w)
    objective = Objective(
        lambda x, t, p: Reading(((x - 0.5) * t[0]).flatten(1).sum(1) - t[1]), (w, away), signed=True, name="a hyperplane"
    )
    found = build("fab(30)", "Search")(objective, x, threat)
    size = threat.size(found.x_best_loss - x)
    assert (size >= 0.1 * (1 - 1e-4)).all()
    assert (size <= 0.1 * 1.01).all()
    assert torch.equal((found.x_adv == x).flatten(1).all(1), size > threat.eps)


def test_what_is_beyond_eps_is_not_returned(x: Tensor, y: Tensor) -> None:
    found = ours(Net().eval(), x, y, 1, "linf(0.5/255)")
    near = found.x_best_loss
    robust = found.error < 1  # type: ignore[operator]
    assert robust.any()
    assert torch.equal(found.x_adv[robust], x[robust])
    assert (wrong(Net().eval()(near), y) == 1).all()
    assert ((near - x).abs().flatten(1).amax(1)[robust] > 0.5 / 255).all()


def test_images_misclassified_from_the_start_cost_little(x: Tensor, y: Tensor) -> None:
    other = torch.where(torch.arange(COUNT) % 2 == 0, (y + 1) % 5, y)
    objective = against(Net().eval(), build("margin", "Loss"), wrong, other)
    found = build(f"fab({STEPS})", "Search")(objective, x, build("linf(8/255)", "Threat"))
    assert torch.equal(found.x_adv[::2], x[::2])
    assert (found.queries[::2] == 3).all() and (found.queries[1::2] == 2 * STEPS + 1).all()


def test_loss_without_a_sign_is_refused(x: Tensor, y: Tensor) -> None:
    search = build("fab(3)", "Search")
    with pytest.raises(SpecError, match="ce is not"):
        search(against(Net().eval(), build("ce", "Loss"), wrong, y), x, build("linf(8/255)", "Threat"))
    with pytest.raises(SpecError, match="gap_to"):
        build("attack(fab(3), loss=ce)", "Attack")
    with pytest.raises(SpecError, match="beta"):
        build("fab(3, beta=0.0)", "Search")


def test_starts_halfway_to_eps_for_restarts(x: Tensor, y: Tensor) -> None:
    net, threat = Watched(), build("l2(0.4)", "Threat")
    objective = against(net, build("margin", "Loss"), wrong, y)
    build("restarts(fab(2, start='halfway'), 2)", "Search")(objective, x, threat, torch.Generator().manual_seed(0))
    size = threat.size(net.shown[0] - x)
    assert (size > 0.15).all() and (size <= 0.2 + 1e-6).all()
    with pytest.raises(SpecError, match="repeat"):
        build("restarts(fab(2), 2)", "Search")


def test_losses_that_are_not_finite_end_their_image_alone(x: Tensor, y: Tensor) -> None:
    net = Net().eval()

    def broken(output: Tensor, target: Tensor, progress: float = 1.0) -> Tensor:
        loss = build("margin", "Loss")(output, target, progress)
        return torch.where(torch.arange(len(loss)) == 3, torch.nan, loss) if len(loss) == COUNT else loss

    broken.signed = True
    whole = build(f"fab({STEPS})", "Search")(against(net, broken, wrong, y), x, build("linf(8/255)", "Threat"))
    plain = build(f"fab({STEPS})", "Search")(
        against(net, build("margin", "Loss"), wrong, y), x, build("linf(8/255)", "Threat")
    )
    others = torch.arange(COUNT) != 3
    assert whole.halted[3] and torch.equal(whole.x_adv[3], x[3])
    assert torch.allclose(whole.x_adv[others], plain.x_adv[others], atol=1e-5)
