"""Laws of every threat in the catalog: no test is edited when one is added."""

from __future__ import annotations

import pytest
import torch

from hardsight.catalog import build, entries
from hardsight.errors import SpecError
from hardsight.threats.base import Threat

RADII = {"Linf": 8 / 255, "L2": 0.7, "L1": 9.0}
NAMES = [name for name, entry in entries().items() if entry.kind == "Threat"]


@pytest.fixture(params=NAMES)
def threat(request: pytest.FixtureRequest) -> Threat:
    norm = build(f"{request.param}(0.1)", "Threat").norm
    return build(f"{request.param}({RADII.get(norm, 0.1)})", "Threat")


@pytest.fixture
def x() -> torch.Tensor:
    values = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    values[0], values[1] = values[0].round(), 0.0  # images on the edge of the box
    return values


def allowed(threat: Threat, x_adv: torch.Tensor, x: torch.Tensor) -> bool:
    return bool((threat.size(x_adv - x) <= threat.eps * (1 + 1e-5) + 1e-7).all() and x_adv.min() >= 0 and x_adv.max() <= 1)


def test_projection_is_feasible_and_idempotent(threat: Threat, x: torch.Tensor) -> None:
    rng = torch.Generator().manual_seed(1)
    for scale in (0.001, 0.1, 3.0):
        there = threat.project(x + scale * torch.randn(x.shape, generator=rng), x)
        assert allowed(threat, there, x)
        assert torch.allclose(threat.project(there, x), there, atol=2e-6)


def test_projection_leaves_allowed_points_alone(threat: Threat, x: torch.Tensor) -> None:
    there = threat.inside(x, torch.Generator().manual_seed(3))
    assert torch.allclose(threat.project(there, x), there, atol=2e-6)


def test_random_points_are_allowed_and_follow_the_seed(threat: Threat, x: torch.Tensor) -> None:
    for draw in (threat.inside, threat.surface):
        one, two, other = (draw(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert allowed(threat, one, x)
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


def test_surface_is_at_eps_where_the_box_is_far(threat: Threat) -> None:
    x = torch.full((4, 3, 32, 32), 0.5)
    size = threat.size(threat.surface(x, torch.Generator().manual_seed(0)) - x)
    assert torch.allclose(size, torch.full_like(size, threat.eps), rtol=1e-3)


def test_steepest_is_a_unit_step_that_climbs(threat: Threat, x: torch.Tensor) -> None:
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    step = threat.steepest(grad)
    assert torch.allclose(threat.size(step), torch.ones(len(x)), atol=1e-4)
    gain, most = (grad * step).flatten(1).sum(1), threat.dual(grad)
    assert (gain > 0).all()
    assert (gain <= most * (1 + 1e-4)).all()
    assert not threat.steepest(torch.zeros_like(x)).any()


@pytest.mark.parametrize("spec", ["linf(0.1)", "l2(0.5)", "l1(5, share=0)"])
def test_steepest_reaches_the_dual_norm(spec: str, x: torch.Tensor) -> None:
    threat = build(spec, "Threat")
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    gain = (grad * threat.steepest(grad)).flatten(1).sum(1)
    assert torch.allclose(gain, threat.dual(grad), rtol=1e-4)


def test_zero_radius_is_the_image_itself(threat: Threat, x: torch.Tensor) -> None:
    nothing = build(f"{threat.spec.name}(0)", "Threat")  # type: ignore[attr-defined]
    assert torch.equal(nothing.project((x + 0.3).clamp(0, 1), x), x)


def test_l1_projection_is_the_nearest_point(x: torch.Tensor) -> None:
    threat = build("l1(5)", "Threat")
    there = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    near = threat.project(there, x)
    for seed in range(20):
        other = threat.project(near + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), x)
        assert ((there - near).flatten(1).norm(dim=1) <= (there - other).flatten(1).norm(dim=1) + 1e-5).all()


@pytest.mark.parametrize(
    ("spec", "told"),
    [("linf(-0.1)", "at least 0"), ("linf(8)", "8/255"), ("l2(-1)", "at least 0"), ("l1(3, share=2)", "share")],
)
def test_radii_that_cannot_be_meant(spec: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        build(spec, "Threat")
