"""Threats of a shape: what they reach on a linear loss in closed form, closest points by brute force, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from hardsight.attacks.threats.linf import linf
from hardsight.attacks.threats.masked import masked, masked_by
from hardsight.attacks.threats.patch import patch
from hardsight.core.errors import ShapeError, SpecError
from hardsight.losses.objective import Objective, Reading, against
from hardsight.measure.evaluate import evaluate
from hardsight.measure.saving import to_bytes
from hardsight.specs.catalog import build, minimal
from hardsight.specs.syntax import show
from tests.conftest import toy_images, toy_system, toy_target

IMAGES, CLIPS = (3, 3, 8, 8), (3, 3, 5, 8, 8)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def windows(w: Tensor, side: int) -> Tensor:
    """[B]: the largest sum of |w| over a square, the same in every frame."""
    flat = w.abs().flatten(1, -3).sum(1)
    places = range(flat.shape[-1] - side + 1)
    return torch.stack([flat[:, i : i + side, j : j + side].sum((1, 2)) for i in places for j in places]).amax(0)


def frames(w: Tensor) -> Tensor:
    return w.transpose(1, 2).flatten(2)


OPTIMA: list[tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]] = [
    ("masked(linf(0.1), (0, 0, 0.5, 1))", IMAGES, lambda w: 0.1 * w[..., :4, :].abs().sum((1, 2, 3))),
    ("masked(linf(0.1), (0, 0, 0.5, 1))", CLIPS, lambda w: 0.1 * w[..., :4, :].abs().sum((1, 2, 3, 4))),
    ("masked(l2(0.7), (0, 0, 0.5, 1), True)", IMAGES, lambda w: 0.7 * w[..., 4:, :].flatten(1).norm(dim=1)),
    ("l0(7)", IMAGES, lambda w: 0.5 * w.abs().sum(1).flatten(1).topk(7).values.sum(1)),
    ("l0(7)", CLIPS, lambda w: 0.5 * w.abs().sum(1).flatten(1).topk(7).values.sum(1)),
    ("patch(3, (0, 1))", IMAGES, lambda w: 0.5 * w[..., :3, -3:].abs().sum((1, 2, 3))),
    ("patch(4, (0.5, 0.5))", CLIPS, lambda w: 0.5 * w[..., 2:6, 2:6].abs().sum((1, 2, 3, 4))),
    ("patch(3)", IMAGES, lambda w: 0.5 * windows(w, 3)),
    ("patch(3)", CLIPS, lambda w: 0.5 * windows(w, 3)),
    ("flicker(0.1)", CLIPS, lambda w: 0.1 * w.sum((3, 4)).abs().sum((1, 2))),
    ("masked(flicker(0.1), (0, 0, 0.5, 1))", CLIPS, lambda w: 0.1 * w[..., :4, :].sum((3, 4)).abs().sum((1, 2))),
    ("per_frame(l2(0.5))", CLIPS, lambda w: 0.5 * frames(w).norm(dim=2).sum(1)),
    ("per_frame(linf(0.1), 2)", CLIPS, lambda w: 0.1 * frames(w).abs().sum(2).topk(2).values.sum(1)),
    (
        "union([linf(0.1), l2(1.5)])",
        IMAGES,
        lambda w: torch.maximum(0.1 * w.flatten(1).abs().sum(1), 1.5 * w.flatten(1).norm(dim=1)),
    ),
]


@pytest.mark.parametrize(("spec", "shape", "optimum"), OPTIMA, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("search", ["pgd(60)", "pgd(60, start=clean)", "apgd(60)"])
def test_linear_loss_is_solved(search: str, spec: str, shape: tuple[int, ...], optimum: Callable[[Tensor], Tensor]) -> None:
    x, w = torch.full(shape, 0.5), drawn(shape)
    objective = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w)
    threat = build(spec, "Threat")
    found = build(search, "Search")(objective, x, threat, torch.Generator().manual_seed(0))
    share = (found.loss - objective(x).loss) / optimum(w)
    random = search == "pgd(60)" and getattr(threat, "sparse", False)  # it keeps some of the places where it started
    assert (share >= (0.9 if random else 0.97)).all(), share
    assert (share <= 1 + 1e-4).all(), share


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).flatten(1).norm(dim=1)


def test_l0_projection_is_the_closest_point() -> None:
    x, threat = toy_images(5, 3), build("l0(2)", "Threat")
    there = x + drawn(x.shape)
    best = torch.full((5,), torch.inf)
    for places in combinations(range(9), 2):
        other = x.flatten(2).clone()
        other[..., list(places)] = there.flatten(2)[..., list(places)].clamp(0, 1)
        best = torch.minimum(best, distance(other.view_as(x), there))
    assert torch.allclose(distance(threat.project(there, x), there), best, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (4, 3, 2, 6, 5)])
def test_patch_projection_is_the_closest_point(shape: tuple[int, ...]) -> None:
    x, threat = torch.rand(shape, generator=torch.Generator().manual_seed(1)), build("patch(2)", "Threat")
    there = x + drawn(x.shape)
    best = torch.full((4,), torch.inf)
    for i in range(5):
        for j in range(4):
            other = x.clone()
            other[..., i : i + 2, j : j + 2] = there[..., i : i + 2, j : j + 2].clamp(0, 1)
            best = torch.minimum(best, distance(other, there))
    assert torch.allclose(distance(threat.project(there, x), there), best, atol=1e-5)


def test_union_projection_is_the_closest_of_its_parts() -> None:
    x, parts = toy_images(6), ["linf(0.05)", "l2(0.7)", "l0(9)"]
    for scale in (0.02, 0.1, 1.0):
        there = x + scale * drawn(x.shape)
        each = torch.stack([distance(build(part, "Threat").project(there, x), there) for part in parts])
        found = build(f"union([{', '.join(parts)}])", "Threat").project(there, x)
        assert torch.allclose(distance(found, there), each.amin(0), atol=1e-6)


def test_a_patch_is_at_its_place_at_every_size() -> None:
    """Squares at one place are nested, so that the size of a change is the side of the smallest square that holds it."""
    for place in [(0.0, 0.0), (0.5, 0.5), (1.0, 0.3), (0.1, 0.9)]:
        x, smaller = torch.full((1, 3, 7, 9), 0.5), torch.zeros(1, 3, 7, 9, dtype=torch.bool)
        for side in range(1, 10):
            threat = patch(side, place)
            changed = threat.surface(x, torch.Generator().manual_seed(0)) != x
            assert (changed | ~smaller).all()
            assert int(threat.size(changed.float())) == side
            assert int(patch(1, place).size(changed.float())) == side
            smaller = changed
        assert changed.all()


def test_sizes_are_infinite_for_what_no_radius_allows() -> None:
    """The check of results can fail: a change at the wrong place, or of the wrong form, has no size that would be enough."""
    delta = torch.zeros(1, 3, 8, 8)
    delta[..., 7, 7] = 1e-3
    assert build("masked(linf(0.1), (0, 0, 0.5, 1))", "Threat").size(delta).isinf().all()
    assert build("masked(linf(0.1), (0, 0, 0.5, 1), True)", "Threat").size(delta) == pytest.approx(1e-3)
    assert build("patch(3, (0, 0))", "Threat").size(delta) == 8
    assert build("patch(3)", "Threat").size(delta) == 1
    clip = 0.01 * torch.ones(1, 3, 4, 8, 8)
    assert build("flicker(0.1)", "Threat").size(clip) == pytest.approx(0.01)
    clip[..., 0, 0] = -0.01
    assert build("flicker(0.1)", "Threat").size(clip).isinf().all()
    assert build("per_frame(linf(0.1), 3)", "Threat").size(clip).isinf().all()
    assert build("per_frame(linf(0.1), 4)", "Threat").size(clip) == pytest.approx(0.01)


def test_flicker_keeps_the_box_and_its_offset() -> None:
    """Clipped pixels do not pull the offset towards 0, and a black frame is lightened at once."""
    x = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0, :, 0], x[1, :, 1] = 1.0, 0.0
    threat = build("flicker(0.2)", "Threat")
    offset = (torch.rand(2, 3, 4, 1, 1, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.4
    there = (x + offset).clamp(0, 1)
    assert (there == 1).float().mean() > 0.1
    assert torch.allclose(threat.project(there, x), there, atol=1e-6)
    moved, wanted = threat.project(there + 0.01, x), (x + (offset + 0.01).clamp(-0.2, 0.2)).clamp(0, 1)
    assert (moved[1, :, 1] >= 0.01 - 1e-6).all()
    moved[1, :, 1] = wanted[1, :, 1]
    assert torch.allclose(moved, wanted, atol=2e-3)


def test_flicker_in_frames_that_are_mostly_clipped() -> None:
    """Nine pixels of ten hide most of the offset; and where those are black, no step tries to darken them."""
    x = torch.full((1, 3, 2, 10, 10), 0.99)
    x[..., 0, :] = 0.3
    threat = build("flicker(0.3)", "Threat")
    there = (x + 0.2).clamp(0, 1)
    assert torch.allclose(threat.project(there, x), there, atol=1e-6)
    steep = torch.linspace(0.55, 1, 100).view(1, 1, 1, 10, 10).expand(1, 3, 2, 10, 10)
    there = (steep + 0.4).clamp(0, 1)
    assert torch.allclose(build("flicker(0.5)", "Threat").project(there, steep), there, atol=1e-6)
    dark, grad = torch.zeros(1, 3, 2, 10, 10), torch.full((1, 3, 2, 10, 10), -1.0)
    dark[..., 0, :], grad[..., 0, :] = 0.3, 0.5
    assert (threat.steepest(grad) == -1).all()
    assert not threat.steepest(grad, dark).any()
    grad[..., 0, :] = -0.5
    assert (threat.steepest(grad, dark) == -1).all()
    assert not threat.steepest(grad, torch.zeros_like(dark)).any()


def test_a_free_patch_starts_at_random_places() -> None:
    x, threat = torch.full((64, 3, 8, 8), 0.5), patch(3)
    places = (threat.inside(x, torch.Generator().manual_seed(0)) != x).any(1).flatten(1).int().argmax(1)
    assert len(places.unique()) > 20


def test_masks_of_ones_own() -> None:
    x = toy_images(4, 8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 1:] = True
    by_mask, by_box = masked_by(linf(0.1), mask), masked(linf(0.1), (0.25, 0.125, 0.625, 1))
    there = x + drawn(x.shape)
    assert torch.equal(by_mask.project(there, x), by_box.project(there, x))
    assert not (by_mask.project(there, x) - x)[:, :, ~mask].any()
    assert by_mask.norm == "Linf in a mask of 21 pixels"
    assert getattr(by_mask, "spec", None) is None
    with pytest.raises(ShapeError, match=r"mask is \[8, 8\]"):
        by_mask.project(toy_images(4), toy_images(4))
    with pytest.raises(ShapeError, match=r"\[4, 8, 8\]"):
        masked_by(linf(0.1), mask.expand(4, 8, 8))
    with pytest.raises(SpecError, match="rows and columns"):
        masked_by(patch(2), mask)
    with pytest.raises(SpecError, match="no pixel"):
        masked(linf(0.1), (0, 0, 0.01, 1)).project(there, x)


def test_a_step_to_a_hyperplane_stays_in_the_region() -> None:
    x, w, b = toy_images(4, 8), drawn((4, 3, 8, 8)), torch.zeros(4)
    threat = build("masked(l2(0.7), (0, 0, 0.5, 1))", "Threat")
    step = threat.to_hyperplane(x, w, b)
    assert not step[..., 4:, :].any()
    reach = ((x + step) * w).flatten(1).sum(1)
    assert torch.allclose(reach, b, atol=1e-4)
    system = toy_system(build("classify", "Task"))
    toys = toy_images(6)
    labels = system.output(toys).argmax(1)
    signed = against(system.output, build("margin", "Loss"), system.task.error, labels)
    for spec in ("masked(linf(0.5), (0, 0, 0.5, 1))", "union([linf(0.1), l2(2)])"):
        threat = build(spec, "Threat")
        found = build("fab(20)", "Search")(signed, toys, threat, None)
        assert found.error.mean() >= 0.8
        assert (threat.size(found.x_adv - toys) <= threat.eps * (1 + 1e-4)).all()
    both = build("union([linf(0.1), l2(0.1)])", "Threat").to_hyperplane(x, w, b)
    each = [build(part, "Threat").to_hyperplane(x, w, b) for part in ("linf(0.1)", "l2(0.1)")]
    assert all(any(torch.equal(both[i], step[i]) for step in each) for i in range(4))
    for spec, shape in [("l0(3)", IMAGES), ("patch(3)", IMAGES), ("flicker(0.1)", CLIPS), ("per_frame(l2(1))", CLIPS)]:
        with pytest.raises(SpecError, match="FAB"):
            build(spec, "Threat").to_hyperplane(torch.zeros(shape), torch.ones(shape), torch.zeros(3))


def test_names_distinguish_threats() -> None:
    specs = [
        "linf(8/255)",
        "masked(linf(8/255), (0, 0, 0.5, 1))",
        "masked(linf(8/255), (0, 0, 0.5, 1), True)",
        "patch(3)",
        "patch(3, (0, 0))",
        "union([linf(8/255), l2(0.5)])",
        "union([linf(4/255), l2(0.5)])",
        "per_frame(linf(8/255))",
        "per_frame(linf(8/255), 1)",
    ]
    norms = [build(spec, "Threat").norm for spec in specs]
    assert len(set(norms)) == len(norms), norms
    assert norms[5] == "Linf 8/255 or L2 0.5"
    for spec in specs:
        assert build(show(minimal(spec)), "Threat").norm == build(spec, "Threat").norm


def test_unions_are_flattened_and_masks_go_to_their_parts() -> None:
    inner = build("masked(union([union([linf(0.1), l2(0.5)]), l1(5)]), (0, 0, 0.5, 1))", "Threat")
    assert [part.norm.split()[0] for part in inner.parts] == ["Linf", "L2", "L1"]
    assert all("in (0, 0, 0.5, 1)" in part.norm for part in inner.parts)


def test_union_sizes_are_relative_and_allow_a_radius_of_zero() -> None:
    threat = build("union([linf(0.1), l2(0)])", "Threat")
    delta = torch.zeros(3, 3, 8, 8)
    delta[1], delta[2] = 0.05, 0.2
    assert torch.allclose(threat.size(delta), torch.tensor([0.0, 0.5, 2.0]), atol=1e-4)


IMAGE_THREATS = [
    "l0(7)",
    "patch(4)",
    "patch(4, (0.5, 0.5))",
    "masked(linf(8/255), (0, 0, 0.5, 1))",
    "masked(l2(0.6), (0, 0, 0.5, 1), True)",
    "union([linf(4/255), l2(0.3), l1(6)])",
    "union([linf(0.01/255), l2(0)])",
]


@pytest.mark.parametrize("spec", IMAGE_THREATS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_results_and_files_stay_within_the_threat(spec: str, precision: str) -> None:
    system = toy_system(build("classify", "Task"))
    x, threat = (toy_images(6) * 255).round() / 255, build(spec, "Threat")
    y = toy_target(system.task, 6)
    attack = build("classpgd(steps=5)", "Attack")
    rows, _ = evaluate(system, attack, threat, x, y, ["i"] * 6, torch.Generator().manual_seed(0), precision)  # type: ignore[arg-type]
    assert (rows["size"] <= threat.eps * (1 + 1e-4) + 1e-6).all()
    found = threat.project(attack(system, x, y, threat, torch.Generator().manual_seed(0)).x_adv, x)
    saved = to_bytes(found, x, threat).float() / 255
    assert (threat.size(saved - x) <= threat.eps * (1 + 1e-4) + 1e-6).all()
    assert (saved != x).any() or "0.01/255" in spec
