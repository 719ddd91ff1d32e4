"""SEA's losses compared with the formulas, written out pixel by pixel; and the effect of tracking a loss by another.

Compared with the code released with the preprint and with the paper (not included here, since it has no licence), the
gradients of all of them, and of the preprint's balanced cross-entropy, `segpgd_ce`, were equal to 4e-18 in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.losses.base import fits
from hardsight.specs.catalog import build
from tests.conftest import MASKS, toy_images, toy_system

K, SIZE, IGNORE = len(MASKS), 5, 255
WEIGHTS = (0.5, 0.1, 2.0, 0.3, 1.0, 0.7)


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(3, K, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def mask(logits: Tensor) -> Tensor:
    """About half of the pixels right, some without a class, and an image in which one class occurs once."""
    rng = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, K, (3, SIZE, SIZE), generator=rng)
    chosen = torch.where(torch.rand(3, SIZE, SIZE, generator=rng) < 0.5, logits.argmax(1), drawn)
    chosen[torch.rand(3, SIZE, SIZE, generator=rng) < 0.2] = IGNORE
    chosen[2][chosen[2] == 4] = 3
    chosen[2, 2, 2] = 4
    return chosen


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def divergence(one: list[float], other: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(one, other, strict=True) if p)


def masked_ce(z: list[float], y: int, right: bool, image: list[int]) -> float:
    return -math.log(softmax(z)[y]) if right else 0.0


def weighted(z: list[float], y: int, right: bool, image: list[int]) -> float:
    return WEIGHTS[y] * masked_ce(z, y, right, image)


def balanced(z: list[float], y: int, right: bool, image: list[int]) -> float:
    """The mean over classes of means over their pixels, written as the weight of one pixel times the number of pixels."""
    return len(image) / len(set(image)) / image.count(y) * masked_ce(z, y, right, image)


def jensen_shannon(z: list[float], y: int, right: bool, image: list[int]) -> float:
    p, one_hot = softmax(z), [float(k == y) for k in range(K)]
    middle = [(a + b) / 2 for a, b in zip(p, one_hot, strict=True)]
    return (divergence(p, middle) + divergence(one_hot, middle)) / 2


def cosine(z: list[float], y: int, right: bool, image: list[int]) -> float:
    return -z[y] / math.sqrt(sum(score * score for score in z))


def spherical(z: list[float], y: int, right: bool, image: list[int]) -> float:
    return cosine(z, y, right, image) if right else 0.0


FORMULAS = {
    "sea_masked_ce": masked_ce,
    "sea_balanced": balanced,
    f"sea_balanced({list(WEIGHTS)})": weighted,
    "sea_js": jensen_shannon,
    "sea_spherical": spherical,
    "sea_spherical(masked=False)": cosine,
}


def by_hand(logits: Tensor, mask: Tensor, formula: Callable, held: Tensor | None = None) -> list[float]:
    """The mean of a formula over each image's pixels with a class; held: the logits that decide which pixels are right."""
    found = []
    for scores, classes, reference in zip(logits, mask, logits if held is None else held, strict=True):
        image = [int(label) for label in classes.flatten() if label != IGNORE]
        total = 0.0
        for i in range(SIZE):
            for j in range(SIZE):
                y = int(classes[i, j])
                if y != IGNORE:
                    right = max(range(K), key=lambda k, at=reference[:, i, j]: float(at[k])) == y
                    total += formula([float(score) for score in scores[:, i, j]], y, right, image)
        found.append(total / len(image))
    return found


@pytest.mark.parametrize("spec", FORMULAS)
def test_values_are_the_formulas(spec: str, logits: Tensor, mask: Tensor) -> None:
    mine = build(spec, "Loss")(logits, mask, 0.5)
    assert np.allclose(mine.numpy(), by_hand(logits, mask, FORMULAS[spec]), rtol=1e-6 if "balanced" in spec else 1e-12)


@pytest.mark.parametrize("spec", FORMULAS)
def test_gradients_are_the_formulas_slopes_with_the_mask_held(spec: str, logits: Tensor, mask: Tensor) -> None:
    moved = logits.clone().requires_grad_(True)
    build(spec, "Loss")(moved, mask, 0.5).sum().backward()
    assert moved.grad is not None
    rng = torch.Generator().manual_seed(2)
    for _ in range(4):
        way, step = torch.randn(logits.shape, generator=rng, dtype=torch.float64), 1e-5
        there, here = (by_hand(logits + sign * step * way, mask, FORMULAS[spec], held=logits) for sign in (1, -1))
        slopes = [(a - b) / (2 * step) for a, b in zip(there, here, strict=True)]
        assert np.allclose((moved.grad * way).flatten(1).sum(1).numpy(), slopes, rtol=1e-5, atol=1e-8)


def test_the_preprints_balanced_cross_entropy_is_segpgds(logits: Tensor, mask: Tensor) -> None:
    for t, steps in ((0, 300), (90, 300), (299, 300)):
        share = t / 2 / steps

        def formula(z: list[float], y: int, right: bool, image: list[int], share: float = share) -> float:
            return (1 - share if right else share) * -math.log(softmax(z)[y])

        mine = build("segpgd_ce", "Loss")(logits, mask, t / steps)
        assert np.allclose(mine.numpy(), by_hand(logits, mask, formula), rtol=1e-6)


def pixel(*scores: float) -> Tensor:
    """One pixel's logits, as [1, K, 1, 1], float32, with requires_grad."""
    return torch.tensor(scores).view(1, -1, 1, 1).requires_grad_(True)


def slope_at(spec: str, z: Tensor, label: int) -> Tensor:
    return torch.autograd.grad(build(spec, "Loss")(z, torch.full((1, 1, 1), label)).sum(), z)[0]


@pytest.mark.parametrize("spec", ["sea_masked_ce", "sea_balanced", "sea_spherical", "sea_js"])
def test_misclassified_pixels_have_no_gradient(spec: str) -> None:
    wrong, right = pixel(30.0, -30.0, 0.0), pixel(0.3, 0.5, 0.0)
    assert slope_at(spec, wrong, 1).abs().max() < 1e-6
    assert slope_at("ce", wrong, 1).abs().max() > 0.9
    assert slope_at(spec, right, 1).abs().max() > 0.05


def test_the_divergence_is_finite_where_the_softmax_underflows() -> None:
    """The sum over classes, as released, is 0 times minus infinity here."""
    for label in (0, 1):
        z = pixel(200.0, 0.0, 0.0)
        assert torch.isfinite(slope_at("sea_js", z, label)).all()
        value = build("sea_js", "Loss")(z, torch.full((1, 1, 1), label))
        assert value.item() == pytest.approx(label * math.log(2), abs=1e-6)
    share = pixel(200.0, 0.0, 0.0).softmax(1)
    middle = (share + torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)) / 2
    assert torch.isnan(torch.nn.functional.kl_div(middle.log(), share, reduction="sum"))


def test_spherical_keeps_its_gradient_where_a_model_is_confident() -> None:
    confident = pixel(200.0, 1.0, 0.0)
    assert slope_at("sea_masked_ce", confident, 0).abs().max() == 0
    assert slope_at("sea_spherical", confident, 0).abs().max() > 1e-6


def test_half_precision_counts_pixels_right() -> None:
    """bfloat16 cannot represent 257: the weights are counted in float32 for logits of any dtype."""
    logits = torch.zeros(1, 2, 40, 40)
    logits[:, 0] = 1.0
    mask = torch.zeros(1, 40, 40, dtype=torch.int64)
    mask[0, 0, 0] = 1
    whole, half = (build("sea_balanced", "Loss")(z, mask).float() for z in (logits, logits.bfloat16()))
    assert torch.allclose(whole, half, rtol=1e-2)


def test_a_table_of_another_length_is_refused(logits: Tensor, mask: Tensor) -> None:
    with pytest.raises(SpecError, match="2 weights for 6 classes"):
        build("sea_balanced([1.0, 2.0])", "Loss")(logits, mask)


def test_tracked_has_one_losss_value_and_the_others_gradient(logits: Tensor, mask: Tensor) -> None:
    found, grads = [], []
    for spec in ("tracked(segpgd_ce, by=ce)", "ce", "segpgd_ce"):
        z = logits.clone().requires_grad_(True)
        values = build(spec, "Loss")(z, mask, 0.4)
        found.append(values.detach())
        grads.append(torch.autograd.grad(values.sum(), z)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(grads[0], grads[2])
    assert not torch.allclose(grads[0], grads[1])
    assert build("tracked", "Loss").targets == ("mask",)


def test_tracked_losses_must_read_the_same_target() -> None:
    with pytest.raises(SpecError, match="no target in common"):
        build("tracked(sea_js, by=depth_loss)")
    with pytest.raises(SpecError, match="no aim in common"):
        build("tracked(ce_to, by=ce)")
    both = build("tracked(ce_to, by=ce_to)", "Loss")
    assert both.pair
    assert fits(both, "mask")
    assert fits(both, "label")


def test_apgd_is_stronger_if_its_loss_does_not_decrease_with_success() -> None:
    """Misclassified pixels lower the masked loss, so untracked APGD returns to points with fewer of them."""
    task = build("segment", "Task")
    system, x = toy_system(task), toy_images(12)
    target, threat = system.output(x).argmax(1), build("linf(16/255)", "Threat")
    errors = [
        build(f"attack(apgd(25), loss={loss})", "Attack")(system, x, target, threat, torch.Generator().manual_seed(0))
        .error.mean()
        .item()
        for loss in ("sea_masked_ce", "tracked(sea_masked_ce)")
    ]
    assert errors[1] > errors[0]
