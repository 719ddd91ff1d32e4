"""Laws of every threat in the catalog, on images and on clips: no test is edited when a threat is added.

Only a threat whose factory takes more than a radius needs a line in SPEC_OF.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardsight.attacks.search.compose import in_each
from hardsight.attacks.threats.base import Threat, scaled
from hardsight.core.errors import SpecError
from hardsight.losses.objective import Objective, against
from hardsight.specs.catalog import build, entries
from tests.conftest import toy_images, toy_system, toy_target

SPEC_OF = {
    "linf": "linf(8/255)",
    "l2": "l2(0.7)",
    "l1": "l1(9)",
    "l0": "l0(7)",
    "l0_values": "l0_values(12)",
    "patch": "patch(3)",
    "masked": "masked(l2(0.7), (0, 0, 0.5, 1))",
    "union": "union([linf(0.1), l2(0.7), l1(5)])",
    "per_frame": "per_frame(l2(0.5))",
}
EXTRA = [
    "patch(3, (0.5, 0.2))",
    "masked(linf(0.1), (0.25, 0.25, 1, 0.75), inverse=True)",
    "masked(l1(5), (0, 0, 1, 0.5))",
    "masked(l0(4), (0, 0, 0.5, 1), inverse=True)",
    "masked(patch(2), (0, 0, 0.5, 1))",
    "masked(flicker(0.1), (0, 0, 0.5, 1))",
    "masked(union([linf(0.1), l2(0.7)]), (0, 0, 0.5, 1))",
    "union([linf(8/255), l0(5)])",
    "per_frame(linf(0.1), 2)",
    "per_frame(patch(2), 3)",
    "per_frame(masked(l2(0.5), (0, 0, 0.5, 1)), 1)",
]
SPECS = [SPEC_OF.get(name, f"{name}(0.1)") for name, entry in entries().items() if entry.kind == "Threat"] + EXTRA
SHAPES = {"images": (6, 3, 8, 8), "clips": (4, 3, 5, 8, 8)}


def fits(spec: str, kind: str) -> bool:
    """Whether the threat applies to such images or clips; if not, it refuses them."""
    grey = torch.full(SHAPES[kind], 0.5)
    try:
        build(spec, "Threat").project(grey, grey)
    except SpecError:
        return False
    return True


CASES = [(spec, kind) for spec in SPECS for kind in SHAPES if fits(spec, kind)]


def test_a_threat_to_clips_alone_says_so() -> None:
    grey = torch.full(SHAPES["images"], 0.5)
    refused = [spec for spec in SPECS if (spec, "images") not in CASES]
    assert [spec for spec in SPECS if (spec, "clips") not in CASES] == []
    assert "flicker(0.1)" in refused
    assert "linf(8/255)" not in refused
    for spec in refused:
        for verb in ("project", "steepest"):
            with pytest.raises(SpecError, match="is a threat to clips"):
                getattr(build(spec, "Threat"), verb)(grey, grey)


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def threat(case: tuple[str, str]) -> Threat:
    return build(case[0], "Threat")


@pytest.fixture
def x(case: tuple[str, str]) -> Tensor:
    values = torch.rand(SHAPES[case[1]], generator=torch.Generator().manual_seed(0))
    values[0], values[1] = values[0].round(), 0.0  # images at the edge of the pixel range
    return values


@pytest.fixture
def grey(case: tuple[str, str]) -> Tensor:
    """Images far from the edge of the pixel range."""
    return torch.full((*SHAPES[case[1]][:-2], 16, 16), 0.5)


def drawn(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def sparse(threat: Threat) -> bool:
    return getattr(threat, "sparse", False)


def allowed(threat: Threat, x_adv: Tensor, x: Tensor) -> bool:
    return bool((threat.size(x_adv - x) <= threat.eps * (1 + 1e-5) + 1e-7).all() and x_adv.min() >= 0 and x_adv.max() <= 1)


def test_projection_is_feasible_and_idempotent(threat: Threat, x: Tensor) -> None:
    for scale in (0.001, 0.1, 3.0):
        there = threat.project(x + scale * drawn(x, 1), x)
        assert allowed(threat, there, x)
        assert torch.allclose(threat.project(there, x), there, atol=2e-6)


def test_not_everything_is_allowed(threat: Threat, x: Tensor) -> None:
    assert (threat.size(drawn(x, 1)) > 1.5 * threat.eps).all()


def test_projection_leaves_allowed_points_alone(threat: Threat, x: Tensor) -> None:
    for draw in (threat.inside, threat.surface):
        there = draw(x, torch.Generator().manual_seed(3))
        assert torch.allclose(threat.project(there, x), there, atol=2e-6)


def test_random_points_are_allowed_and_follow_the_seed(threat: Threat, x: Tensor) -> None:
    for draw in (threat.inside, threat.surface):
        one, two, other = (draw(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert allowed(threat, one, x)
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


def test_surface_is_at_eps_far_from_the_edge_of_the_box(threat: Threat, grey: Tensor) -> None:
    size = threat.size(threat.surface(grey, torch.Generator().manual_seed(0)) - grey)
    assert torch.allclose(size, torch.full_like(size, threat.eps), rtol=1e-3)


def test_steepest_climbs(threat: Threat, grey: Tensor) -> None:
    """A step of size 1; for a sparse threat one that, after projection, gains nearly all that the pixel range allows."""
    grad = drawn(grey, 4)
    step, most = threat.steepest(grad, grey), threat.dual(grad)
    gain = (grad * step).flatten(1).sum(1)
    assert (gain > 0).all()
    if sparse(threat):
        there = threat.project(grey + threat.eps * step, grey)
        gain = (grad * (there - grey)).flatten(1).sum(1)
        assert (gain >= 0.8 * 0.5 * threat.eps * most).all(), gain / most
    else:
        assert torch.allclose(threat.size(step), torch.ones(len(grey)), atol=1e-4)
        assert (gain <= most * (1 + 1e-4)).all()
    assert not threat.steepest(torch.zeros_like(grey)).any()


def test_dual_bounds_what_any_allowed_point_gains(threat: Threat, x: Tensor) -> None:
    grad = drawn(x, 4)
    uphill = threat.project(x + grad.sign(), x)
    for there in (
        uphill,
        threat.inside(x, torch.Generator().manual_seed(1)),
        threat.surface(x, torch.Generator().manual_seed(2)),
    ):
        gain = (grad * (there - x)).flatten(1).sum(1)
        assert (gain <= threat.eps * threat.dual(grad) * (1 + 1e-4) + 1e-5).all()


def test_zero_radius_is_the_image_itself(threat: Threat, x: Tensor) -> None:
    nothing = scaled(threat, 0.0)
    assert torch.equal(nothing.project((x + 0.3).clamp(0, 1), x), x)
    assert torch.equal(nothing.inside(x, torch.Generator().manual_seed(0)), x)
    assert not nothing.size(torch.zeros_like(x)).any()


def test_twice_the_radius_allows_more(threat: Threat, grey: Tensor) -> None:
    twice = scaled(threat, 2.0)
    rng = torch.Generator().manual_seed(0)
    assert allowed(twice, threat.surface(grey, rng), grey)
    assert (threat.size(twice.surface(grey, rng) - grey) > 1.2 * threat.eps).all()


def test_images_do_not_depend_on_one_another(threat: Threat, x: Tensor) -> None:
    part = torch.tensor([3, 1])
    there, grad = x + 0.3 * drawn(x, 1), drawn(x, 4)
    assert torch.allclose(threat.project(there[part], x[part]), threat.project(there, x)[part], atol=1e-6)
    assert torch.allclose(threat.steepest(grad[part], x[part]), threat.steepest(grad, x)[part], atol=1e-6)
    for verb in (threat.size, threat.dual):
        assert verb(grad).shape == (len(x),)
        assert torch.allclose(verb(grad[part]), verb(grad)[part], rtol=1e-5)


def toy_objective(kind: str) -> tuple[Objective, Tensor]:
    """A small classifier's cross-entropy; the logits of a clip are the mean over its frames."""
    system = toy_system(build("classify", "Task"))
    x = toy_images(6) if kind == "images" else toy_images(30).view(6, 5, 3, 16, 16).transpose(1, 2).contiguous()

    def output(x: Tensor) -> Tensor:
        if x.dim() == 4:
            return system.output(x)
        return system.output(x.transpose(1, 2).flatten(0, 1)).view(len(x), x.shape[2], -1).mean(1)

    return against(output, lambda o, t, p: system.task.loss(o, t), target=toy_target(system.task, 6)), x


def test_pgd_finds_more_than_as_many_random_points(case: tuple[str, str], threat: Threat) -> None:
    objective, x = toy_objective(case[1])
    search = in_each(build("pgd(20)", "Search"), threat)
    found = search(objective, x, threat, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = objective(x).loss
        draws = torch.stack([objective(threat.surface(x, torch.Generator().manual_seed(s))).loss for s in range(21)])
    assert allowed(threat, found.x_adv, x)
    assert (found.loss > before).all()
    assert found.loss.mean() > draws.amax(0).mean(), (before, found.loss, draws.amax(0))


@pytest.mark.parametrize("spec", ["linf(0.1)", "l2(0.5)", "l1(5, share=0)", "union([linf(0.1), l2(0.7), l1(5, share=0)])"])
def test_steepest_reaches_the_dual_norm(spec: str) -> None:
    threat, grad = build(spec, "Threat"), drawn(torch.zeros(6, 3, 8, 8), 4)
    gain = (grad * threat.steepest(grad)).flatten(1).sum(1)
    assert torch.allclose(gain, threat.dual(grad), rtol=1e-4)


def test_l1_projection_is_the_closest_point() -> None:
    threat, x = build("l1(5)", "Threat"), toy_images(6, 8)
    there = x + drawn(x, 5)
    near = threat.project(there, x)
    for seed in range(20):
        other = threat.project(near + 0.05 * drawn(x, seed), x)
        assert ((there - near).flatten(1).norm(dim=1) <= (there - other).flatten(1).norm(dim=1) + 1e-5).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linf(-0.1)", "at least 0"),
        ("linf(8)", "8/255"),
        ("l2(-1)", "at least 0"),
        ("l1(3, share=2)", "share"),
        ("l0(-1)", "counts pixels"),
        ("l0(0.5)", "'eps' should be int"),
        ("patch(3, (0.5, 2))", "the centre"),
        ("patch(-3)", "whole number"),
        ("flicker(8)", "8/255"),
        ("per_frame(l2(0.5), -1)", "counts frames"),
        ("masked(linf(0.1), (0.5, 0, 0.5, 1))", "top, left, bottom, right"),
        ("masked(linf(0.1), (0, 0, 2, 1))", "top, left, bottom, right"),
        ("masked(patch(2), (0, 0, 0.5, 1), inverse=True)", "rows and columns"),
        ("masked(pgd, (0, 0, 0.5, 1))", "a threat is wanted"),
        ("union([])", "at least one threat"),
    ],
)
def test_threats_that_cannot_be_meant(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec, "Threat")


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(5)"])
def test_a_few_images_at_a_time_are_the_same_images(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    threat, x = build(spec, "Threat"), toy_images(7)
    there, b = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))), torch.linspace(-3, 3, 7)
    verbs = [("project", (there, x)), ("to_hyperplane", (x, there - x, b))]
    if spec == "l1(5)":
        verbs.append(("largest", (there - x, torch.linspace(0, 1, 7))))
    for name, given in verbs:
        whole = getattr(threat, name)(*given)
        monkeypatch.setattr("hardsight.attacks.threats.base.FEW", 2 * x[0, 0].numel())
        parts = getattr(threat, name)(*given)
        monkeypatch.undo()
        assert torch.equal(parts, whole)
        assert torch.equal(parts[2], getattr(threat, name)(*(one[2:3] for one in given))[0])


@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)"])
def test_many_points_around_one_image_stay_whole(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    threat, x = build(spec, "Threat"), toy_images(1)
    there = x + 0.2 * torch.randn(7, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    whole = threat.project(there, x)
    monkeypatch.setattr("hardsight.attacks.threats.base.FEW", 2 * x[0, 0].numel())
    assert torch.equal(threat.project(there, x), whole)
