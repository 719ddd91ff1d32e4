"""FMN compared with foolbox: the same points at every step, once foolbox's L2 projection, which does nothing, is fixed."""

from __future__ import annotations

from typing import Any

import eagerpy
import foolbox
import pytest
import torch
from foolbox.attacks.fast_minimum_norm import L2FMNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.objective import AttackResult, Objective, Reading, against
from hardsight.specs.catalog import build
from tests.conftest import toy_images
from tests.parity.test_fab import Watched, wrong
from tests.parity.test_pgd import Net

STEPS, COUNT = 40, 16
NORMS = {"LInf": "linf(8/255)", "L2": "l2(0.4)", "L1": "l1(8)"}


def onto_the_ball(self: L2FMNAttack, x: Any, x0: Any, epsilon: Any) -> Any:
    """What L2FMNAttack.project should do: theirs scales by min(1, norm / norm), which is 1."""
    delta = x - x0
    length = eagerpy.maximum(delta.flatten(1).norms.l2(axis=-1), 1e-12)
    return x0 + delta * eagerpy.minimum(1, epsilon / length).reshape((-1, 1, 1, 1))


@pytest.fixture
def x() -> Tensor:
    return toy_images(COUNT)


@pytest.fixture
def y(x: Tensor) -> Tensor:
    return Net().eval()(x).argmax(1)


def ours(net: torch.nn.Module, x: Tensor, y: Tensor, threat: str, spec: str) -> AttackResult:
    return build(spec, "Search")(against(net, build("margin", "Loss"), wrong, y), x, build(threat, "Threat"))


def theirs(net: torch.nn.Module, x: Tensor, y: Tensor, norm: str) -> Tensor:
    model = PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
    return getattr(foolbox.attacks, f"{norm}FMNAttack")(steps=STEPS).run(model, x, foolbox.criteria.Misclassification(y))


@pytest.mark.parametrize("norm", NORMS)
def test_takes_the_same_steps_as_foolbox(monkeypatch: pytest.MonkeyPatch, x: Tensor, y: Tensor, norm: str) -> None:
    monkeypatch.setattr(L2FMNAttack, "project", onto_the_ball)
    here, there, threat = Watched(), Watched(), build(NORMS[norm], "Threat")
    adv = theirs(there, x, y, norm)
    found = ours(here, x, y, NORMS[norm], f"fmn({STEPS}, beyond=0.0)")
    assert len(here.shown) == STEPS + 1
    path = zip(here.shown[:-1], there.shown[-STEPS:], strict=True)
    apart = torch.stack([(one - other).abs().flatten(1).amax(1) for one, other in path]).amax(0)
    assert apart.median() < 5e-6
    assert (apart < 2e-5).float().mean() >= 0.8  # at the boundary itself, rounding decides which images are misclassified
    assert torch.allclose(threat.size(found.x_best_loss - x), threat.size(adv - x), rtol=1e-4, atol=1e-6)


def test_foolbox_in_l2_does_not_project(x: Tensor, y: Tensor) -> None:
    """The reason for the fix: without it, its points are several times as far away."""
    far = (theirs(Net(), x, y, "L2") - x).flatten(1).norm(dim=1)
    found = ours(Net().eval(), x, y, "l2(0.4)", f"fmn({STEPS})").x_best_loss
    assert (wrong(Net().eval()(found), y) == 1).all()
    near = (found - x).flatten(1).norm(dim=1)
    assert (far > near).all()
    assert far.median() > 3 * near.median()


def test_reaches_beyond_a_nearly_linear_boundary(x: Tensor, y: Tensor) -> None:
    """What `beyond` is for: with the paper's 0, the points approach the boundary and never cross it."""
    shares = [
        float(wrong(Net().eval()(ours(Net().eval(), x, y, "l2(0.4)", spec).x_best_loss), y).mean())
        for spec in (f"fmn({STEPS}, beyond=0.0)", f"fmn({STEPS})")
    ]
    assert shares[0] < 0.5
    assert shares[1] == 1


@pytest.mark.parametrize(("spec", "slack"), [("linf(8/255)", 1.02), ("l2(0.4)", 1.02), ("l1(8)", 1.6)])
def test_finds_points_as_close_as_fab(x: Tensor, y: Tensor, spec: str, slack: float) -> None:
    threat, net = build(spec, "Threat"), Net().eval()
    near = [threat.size(ours(net, x, y, spec, search).x_best_loss - x) for search in ("fmn(100)", "fab(100)")]
    assert near[0].median() <= slack * near[1].median()
    assert near[1].median() <= slack * near[0].median()


@pytest.mark.parametrize("norm", NORMS)
def test_linear_boundary_is_found_at_its_distance(norm: str) -> None:
    threat = build(NORMS[norm], "Threat")
    x, w = torch.full((4, 3, 8, 8), 0.5), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    away = 0.1 * threat.dual(w)
    objective = Objective(
        lambda x, t, p: Reading(((x - 0.5) * t[0]).flatten(1).sum(1) - t[1]), (w, away), signed=True, name="a hyperplane"
    )
    size = threat.size(build("fmn(200)", "Search")(objective, x, threat).x_best_loss - x)
    assert (size >= 0.1 * (1 - 1e-4)).all()
    assert (size <= 0.1 * 1.03).all(), size


@pytest.mark.parametrize("norm", NORMS)
def test_leaving_early_changes_no_error(x: Tensor, y: Tensor, norm: str) -> None:
    net = Net().eval()
    whole = ours(net, x, y, NORMS[norm], f"fmn({STEPS})")
    short = ours(net, x, y, NORMS[norm], f"fmn({STEPS}, early_exit=True)")
    assert torch.equal(whole.error, short.error)  # type: ignore[arg-type]
    assert whole.error.any() and short.queries.sum() < whole.queries.sum()  # type: ignore[union-attr]


@pytest.mark.parametrize(("loss", "threat", "message"), [("ce", "linf(8/255)", "ce is not"), ("margin", "l0(5)", "not L0")])
def test_what_it_does_not_support_is_refused(x: Tensor, y: Tensor, loss: str, threat: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build("fmn(3)", "Search")(against(Net().eval(), build(loss, "Loss"), wrong, y), x, build(threat, "Threat"))
    with pytest.raises(SpecError, match="gamma"):
        build("fmn(3, gamma=1.0)", "Search")
