"""Losses for masks and depth compared with their formulas, pixel by pixel; metrics with scikit-learn and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hardsight.attacks.aim import given
from hardsight.attacks.attack import Single
from hardsight.core.errors import SpecError
from hardsight.metrics import of
from hardsight.specs.catalog import build, entries
from tests.conftest import MASKS, toy_images, toy_system, toy_target

K, SIZE = len(MASKS), 5


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(3, K, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def mask() -> torch.Tensor:
    return toy_target(build("segment", "Task"), 3, SIZE)


def by_hand(logits: torch.Tensor, mask: torch.Tensor, weight) -> list[float]:
    found = []
    for b in range(len(logits)):
        total, count = 0.0, 0
        for i in range(SIZE):
            for j in range(SIZE):
                label = int(mask[b, i, j])
                if label == 255:
                    continue
                scores = [math.exp(float(v)) for v in logits[b, :, i, j]]
                share = [s / sum(scores) for s in scores]
                right = max(range(K), key=lambda k: share[k]) == label
                total += weight(share, label, right) * -math.log(share[label])
                count += 1
        found.append(total / count)
    return found


@pytest.mark.parametrize(("t", "steps"), [(0, 20), (7, 20), (19, 20)])
def test_segpgd_is_the_formula(logits: torch.Tensor, mask: torch.Tensor, t: int, steps: int) -> None:
    lam = t / (2 * steps)
    expected = by_hand(logits, mask, lambda share, label, right: 1 - lam if right else lam)
    mine = build("segpgd_ce", "Loss")(logits, mask, t / steps)
    assert np.allclose(mine.numpy(), expected, atol=1e-9)


def test_cospgd_is_the_formula(logits: torch.Tensor, mask: torch.Tensor) -> None:
    def cosine(share: list[float], label: int, right: bool) -> float:
        one_hot = [float(k == label) for k in range(K)]
        return sum(a * b for a, b in zip(share, one_hot, strict=True)) / math.sqrt(sum(a * a for a in share))

    mine = build("cospgd_ce", "Loss")(logits, mask, 0.5)
    assert np.allclose(mine.numpy(), by_hand(logits, mask, cosine), atol=1e-9)


def test_cospgd_holds_its_weight_fixed(logits: torch.Tensor, mask: torch.Tensor) -> None:
    one = logits.clone().requires_grad_(True)
    build("cospgd_ce", "Loss")(one, mask, 0.0).sum().backward()
    p = logits.softmax(1)
    hot = torch.nn.functional.one_hot(torch.where(mask == 255, 0, mask), K).movedim(-1, 1)
    weight = (p * hot).sum(1) / p.norm(dim=1)
    valid = mask != 255
    expected = (weight * valid)[:, None] * (p - hot) / valid.flatten(1).sum(1).view(-1, 1, 1, 1)
    assert one.grad is not None
    assert torch.allclose(one.grad, expected, atol=1e-9)


def test_miou_equals_torchmetrics_and_scikit_learn(logits: torch.Tensor, mask: torch.Tensor) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score
    from torchmetrics.classification import MulticlassJaccardIndex

    task = build("segment", "Task")
    found = of("segment").summary({k: v.numpy() for k, v in task.counts(logits, mask).items()})
    valid = mask != 255
    truth, seen = mask[valid].numpy(), logits.argmax(1)[valid].numpy()
    assert math.isclose(found["miou"], jaccard_score(truth, seen, average="macro"), abs_tol=1e-6)
    assert math.isclose(found["pixel_accuracy"], accuracy_score(truth, seen), abs_tol=1e-9)
    metric = MulticlassJaccardIndex(K, ignore_index=255)
    assert math.isclose(found["miou"], float(metric(logits.argmax(1), mask)), abs_tol=1e-6)


def test_depth_figures_are_the_formulas() -> None:
    task = build("depth", "Task")
    target = toy_target(task, 4)
    output = 0.2 + 9 * torch.rand(target.shape, generator=torch.Generator().manual_seed(5))
    found = of("depth").summary({k: v.numpy() for k, v in task.counts(output, target).items()})
    there = target > 0
    d, t = output[there].double().numpy(), target[there].double().numpy()
    ratio = np.maximum(d / t, t / d)
    expected = {
        "rmse": np.sqrt(((d - t) ** 2).mean()),
        "absrel": (np.abs(d - t) / t).mean(),
        "log10": np.abs(np.log10(d) - np.log10(t)).mean(),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.25**2).mean(),
        "delta3": (ratio < 1.25**3).mean(),
    }
    for key, value in expected.items():
        assert math.isclose(found[key], value, rel_tol=1e-6), key


@pytest.mark.parametrize(("spec", "most"), [("pixel_margin", None), ("pixel_margin(0)", 0.0), ("pixel_margin(1.5)", 1.5)])
def test_margin_of_pixels_is_the_formula(logits: torch.Tensor, mask: torch.Tensor, spec: str, most: float | None) -> None:
    expected = []
    for b in range(3):
        leads = []
        for i in range(SIZE):
            for j in range(SIZE):
                label = int(mask[b, i, j])
                if label != 255:
                    z = [float(v) for v in logits[b, :, i, j]]
                    lead = max(z[k] for k in range(K) if k != label) - z[label]
                    leads.append(lead if most is None else min(lead, most))
        expected.append(sum(leads) / len(leads))
    assert np.allclose(build(spec, "Loss")(logits, mask).numpy(), expected, atol=1e-9)


def test_a_pixel_misclassified_by_more_than_the_confidence_has_no_gradient() -> None:
    z = torch.tensor([[5.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2).requires_grad_(True)  # misclassified by 5, and by 1
    build("pixel_margin(2)", "Loss")(z, torch.ones(1, 1, 2, dtype=torch.int64)).sum().backward()
    assert z.grad is not None
    assert not z.grad[..., 0].any()
    assert z.grad[..., 1].abs().sum() == 1
    with pytest.raises(SpecError, match="at least 0"):
        build("pixel_margin(-1)")


@pytest.fixture
def depths() -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets in metres, float64, with holes that are symmetric in neither direction."""
    rng = torch.Generator().manual_seed(3)
    output, truth = (0.5 + 9 * torch.rand(3, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    truth[torch.rand(3, 4, 5, generator=rng) < 0.25] = 0
    return output, truth


def depth_by_hand(output: torch.Tensor, truth: torch.Tensor, formula) -> list[float]:
    """The mean of formula(d, truth, i, j) over the pixels for which it returns a number."""
    found = []
    for d, t in zip(output.tolist(), truth.tolist(), strict=True):
        values = [formula(d[i][j], t, i, j) for i in range(4) for j in range(5) if t[i][j] > 0]
        values = [value for value in values if value is not None]
        found.append(sum(values) / len(values))
    return found


def relative_to(wanted_at):
    """Minus the relative error to what `wanted_at` returns, where that is measured."""

    def formula(d: float, t: list[list[float]], i: int, j: int) -> float | None:
        wanted = wanted_at(t, i, j)
        return -abs(d - wanted) / wanted if wanted > 0 else None

    return formula


DEPTHS = {
    "depth_absrel": lambda d, t, i, j: abs(d - t[i][j]) / t[i][j],
    "depth_to(nearer, 2.0)": relative_to(lambda t, i, j: t[i][j] / 2),
    "depth_to(farther, 1.1)": relative_to(lambda t, i, j: t[i][j] * 1.1),
    "depth_to(flip_horizontal)": relative_to(lambda t, i, j: t[i][4 - j]),
    "depth_to(flip_vertical)": relative_to(lambda t, i, j: t[3 - i][j]),
}


@pytest.mark.parametrize("spec", DEPTHS)
def test_depth_losses_are_the_formulas(spec: str, depths: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert np.allclose(build(spec, "Loss")(*depths).numpy(), depth_by_hand(*depths, DEPTHS[spec]), atol=1e-12)


def test_rmse_as_a_loss_is_the_figure(depths: tuple[torch.Tensor, torch.Tensor]) -> None:
    task, values = build("depth", "Task"), build("depth_rmse", "Loss")(*depths)
    for place, value in enumerate(values.tolist()):
        counts = task.counts(depths[0][place : place + 1], depths[1][place : place + 1])
        assert math.isclose(value, of("depth").summary({k: v.numpy() for k, v in counts.items()})["rmse"], rel_tol=1e-6)


def test_mirroring_moves_the_holes() -> None:
    """In a row of four with a hole at its left end, the two pixels in the middle have a target; the ends have none."""
    truth, output = torch.tensor([[[0.0, 2.0, 4.0, 8.0]]]), torch.ones(1, 1, 4, requires_grad=True)
    value = build("depth_to(flip_horizontal)", "Loss")(output, truth)
    assert value.item() == pytest.approx(-(3 / 4 + 1 / 2) / 2)
    value.sum().backward()
    assert output.grad is not None
    assert output.grad.flatten().ne(0).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    "name", [n for n, e in entries().items() if e.kind == "Loss" and getattr(build(n), "targets", ()) == ("depth",)]
)
def test_what_is_not_measured_does_not_count(name: str, depths: tuple[torch.Tensor, torch.Tensor]) -> None:
    loss, (output, truth) = build(name, "Loss"), depths
    other = torch.where(truth > 0, output, 77.0).requires_grad_(True)
    values = loss(other, truth, 0.5)
    assert torch.equal(values, loss(output, truth, 0.5))
    values.sum().backward()
    assert other.grad is not None
    assert not other.grad[truth == 0].any()
    assert other.grad[truth > 0].any()


def test_targets_that_mean_nothing_are_refused() -> None:
    for spec in ("depth_to(nearer, 1.0)", "depth_to(factor=0.5)"):
        with pytest.raises(SpecError, match="above 1"):
            build(spec)


@pytest.mark.parametrize(("change", "sign"), [("nearer", -1), ("farther", 1)])
def test_depth_moves_towards_the_target(change: str, sign: int) -> None:
    task, threat = build("depth", "Task"), build("linf(16/255)", "Threat")
    system, x = toy_system(task), toy_images(6)
    truth = system.output(x).detach()
    found = build(f"attack(apgd(20), loss=depth_to({change}))", "Attack")(
        system, x, truth, threat, torch.Generator().manual_seed(0)
    )
    gap = sign * (system.output(found.x_adv) - truth)
    assert (gap > 0).float().mean() > 0.9
    for way in ("flip_horizontal", "flip_vertical"):
        loss = build(f"depth_to({way})", "Loss")
        there = build(f"attack(apgd(20), loss=depth_to({way}))", "Attack")(
            system, x, truth, threat, torch.Generator().manual_seed(0)
        )
        assert (loss(system.output(there.x_best_loss), truth) > loss(system.output(x), truth)).all()


def test_a_segmenter_is_moved_towards_a_class_and_a_map() -> None:
    task, threat = build("segment", "Task"), build("linf(24/255)", "Threat")
    system, x = toy_system(task), toy_images(6)
    mask = system.output(x).argmax(1)
    mask[:, :3] = 255
    rng = torch.Generator().manual_seed(0)
    wanted = int(mask[mask != 255].bincount(minlength=K).argsort()[-2])

    def share(points: torch.Tensor, target: torch.Tensor | int) -> float:
        return (system.output(points).argmax(1) == target)[mask != 255].float().mean().item()

    found = build(f"attack(pgd(40), loss=ce_to, aim=towards({wanted}))", "Attack")(system, x, mask, threat, rng)
    assert share(found.x_best_loss, wanted) > 2 * share(x, wanted)
    target_map = mask.roll(1, 0).where(mask.roll(1, 0) != 255, 0)
    mapped = Single(build("pgd(40)", "Search"), build("ce_to", "Loss"), aim=given(target_map))(system, x, mask, threat, rng)
    assert share(mapped.x_best_loss, target_map) > share(x, target_map) + 0.1
