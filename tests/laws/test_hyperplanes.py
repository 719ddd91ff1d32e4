"""Laws of `to_hyperplane`: the step reaches the hyperplane or the corner of the pixel range, and no step is shorter.

For every threat in the catalog that is built from a radius alone and has such a step; other threats are covered by their own
tests.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import HardsightError
from hardsight.specs.catalog import build, entries


def supported() -> list[str]:
    """The names of threats that have a step to a hyperplane; the others raise an error that names them."""
    found, one = [], torch.full((1, 3, 8, 8), 0.5)
    for name, entry in entries().items():
        if entry.kind == "Threat":
            try:
                build(f"{name}(0.1)", "Threat").to_hyperplane(one, one, torch.ones(1))
            except HardsightError:
                continue
            found.append(name)
    return found


NAMES = supported()


@pytest.fixture(params=NAMES)
def threat(request: pytest.FixtureRequest) -> Threat:
    return build(f"{request.param}(0.1)", "Threat")


def test_the_norms_are_among_them() -> None:
    assert {"linf", "l2", "l1"} <= set(NAMES)


def images() -> tuple[Tensor, Tensor]:
    """x and w [8, 3, 8, 8]: at the edge of the pixel range, with values that cannot help, with values that help equally."""
    rng = torch.Generator().manual_seed(0)
    x, w = torch.rand(8, 3, 8, 8, generator=rng), torch.randn(8, 3, 8, 8, generator=rng)
    x[0], x[1] = x[0].round(), 0.0
    w[2, 0], w[3] = 0.0, w[3].sign()
    return x, w


def at(x: Tensor, w: Tensor) -> Tensor:
    return (x * w).flatten(1).sum(1)


def corner(x: Tensor, w: Tensor, way: Tensor) -> Tensor:
    """The step to the corner of the pixel range that is farthest in direction way * w."""
    ahead = way.view(-1, 1, 1, 1) * w
    return torch.where(ahead > 0, 1 - x, torch.where(ahead < 0, -x, 0.0))


def reachable(threat: Threat, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """x, w and a b at `share` of the way to the farthest corner, upwards for some images and downwards for others."""
    x, w = images()
    way = torch.tensor([1.0, 1, 1, -1, 1, -1, 1, -1])
    return x, w, at(x, w) + share * at(corner(x, w, way), w)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.7, 0.99])
def test_step_reaches_the_hyperplane_within_the_box(threat: Threat, share: float) -> None:
    x, w, b = reachable(threat, share)
    there = x + threat.to_hyperplane(x, w, b)
    assert there.min() >= 0
    assert there.max() <= 1
    assert torch.allclose(at(there, w), b, atol=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_no_feasible_step_is_shorter(threat: Threat, share: float) -> None:
    """No other point of the hyperplane within the pixel range is closer, whether sampled far away or close by."""
    x, w, b = reachable(threat, share)
    step = threat.to_hyperplane(x, w, b)
    size, rng, tried = threat.size(step), torch.Generator().manual_seed(1), 0
    for scale in (0.01, 0.1, 1.0):
        for _ in range(10):
            near = (x + step + scale * torch.randn(x.shape, generator=rng)).clamp(0, 1)
            other = near
            for _ in range(30):  # back onto the hyperplane, and into the pixel range again
                gap = (b - at(other, w)) / w.flatten(1).square().sum(1)
                other = (other + gap.view(-1, 1, 1, 1) * w).clamp(0, 1)
            on = (at(other, w) - b).abs() < 1e-4
            tried += int(on.sum())
            assert (threat.size(other - x)[on] >= size[on] - 1e-4 * (1 + size[on])).all()
    assert tried > 100  # enough points were tested


def test_away_from_the_box_the_step_is_the_distance_over_the_dual_norm(threat: Threat) -> None:
    """The closed form, and a negative control: no step of that size gains more than this one."""
    x, w = torch.full((4, 3, 8, 8), 0.5), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    need = 0.01 * threat.dual(w)
    step = threat.to_hyperplane(x, w, at(x, w) + need)
    assert torch.allclose(threat.size(step), need / threat.dual(w), rtol=1e-3)
    other = threat.surface(torch.full_like(x, 0.5), torch.Generator().manual_seed(3)) - 0.5
    other = other / threat.size(other).view(-1, 1, 1, 1) * threat.size(step).view(-1, 1, 1, 1)
    assert (at(other, w) < need).all()


def test_out_of_reach_is_the_closest_corner(threat: Threat) -> None:
    x, w = images()
    for way in (torch.ones(8), -torch.ones(8)):
        far = corner(x, w, way)
        step = threat.to_hyperplane(x, w, at(x, w) + 3 * at(far, w) + way)
        assert torch.equal(step, far)


def test_no_step_where_none_is_needed_or_none_helps(threat: Threat) -> None:
    x, w = images()
    assert not threat.to_hyperplane(x, w, at(x, w)).any()
    assert not threat.to_hyperplane(x, torch.zeros_like(w), torch.ones(8)).any()


def test_images_do_not_depend_on_one_another(threat: Threat) -> None:
    x, w, b = reachable(threat, 0.3)
    whole = threat.to_hyperplane(x, w, b)
    for image in range(8):
        one = slice(image, image + 1)
        assert torch.allclose(threat.to_hyperplane(x[one], w[one], b[one]), whole[one], atol=1e-6)
