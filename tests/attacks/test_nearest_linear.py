"""Every search for minimal perturbations on a linear model, against the minimum in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardsight.attacks.search import proximal
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.losses.objective import Objective, against
from hardsight.specs.catalog import build

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}
CASES = [
    ("ddn(200)", "ce", "l2(1)", 1.01),
    ("alma(200)", "dlr", "l2(1)", 1.01),
    ("cw_l2(40, 6)", "margin", "l2(1)", 1.02),
    ("superdeepfool", "margin", "l2(1)", 1.001),
    ("pdpgd(500)", "margin", "l2(1)", 1.1),
    ("pdpgd(500)", "margin", "linf(1)", 1.1),
    ("alma_prox(200)", "dlr", "linf(1)", 1.1),
    ("sigma_zero(300)", "margin", "l0(1)", 1.25),
    ("sigma_zero(300)", "margin", "l0_values(1)", 1.25),
]


def linear(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the weights [K, N] of a linear classifier, and its labels."""
    rng = torch.Generator().manual_seed(1)
    x, w = 0.3 + 0.4 * torch.rand(count, 3, 8, 8, generator=rng), 0.4 * torch.randn(5, 192, generator=rng)
    return x, w, (x.flatten(1) @ w.T).argmax(1)


def wrong(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).float()


def reading(loss: str) -> tuple[Objective, Tensor]:
    x, w, y = linear()
    return against(lambda x: x.flatten(1) @ w.T, build(loss, "Loss"), wrong, y), x


def least(threat: Threat) -> Tensor:
    """[B]: the size of the smallest perturbation that reaches another class, by the dual norm, or by counting for L0."""
    x, w, y = linear()
    found = []
    for image, own in zip(x, y.tolist(), strict=True):
        each = []
        for slope in (w[other] - w[own] for other in range(5) if other != own):
            gap = -(image.flatten() @ slope)
            if threat.norm in DUAL:
                each.append(float(gap / slope.norm(p=DUAL[threat.norm])))
                continue
            room = (torch.where(slope.view_as(image) > 0, 1 - image, image) * slope.view_as(image).abs())[None]
            gains = threat.together(room).flatten().sort(descending=True).values.cumsum(0)  # type: ignore[attr-defined]
            each.append(int((gains <= gap).sum()) + 1)
        found.append(min(each))
    return torch.tensor(found)


@pytest.mark.parametrize(("search", "loss", "spec", "most"), CASES)
def test_linear_model_is_solved(search: str, loss: str, spec: str, most: float) -> None:
    threat = build(spec, "Threat")
    objective, x = reading(loss)
    found = build(search, "Search")(objective, x, threat, torch.Generator().manual_seed(0)).x_best_loss
    error, bound = objective(found).error, least(threat)
    assert error is not None
    assert (error == 1).all()
    share = threat.size(found - x) / bound
    assert (share >= 1 - 1e-4).all(), "nothing is closer than the closest hyperplane"
    assert share.mean() <= most, share.tolist()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_proximal_points_are_minima(norm: str) -> None:
    """No point near the result, within the pixel range, has a smaller value."""
    rng = torch.Generator().manual_seed(2)
    x, delta = (torch.rand(4, 3, 4, 4, generator=rng) for _ in range(2))
    delta, metric, weight = 2 * (delta - 0.5), torch.rand(x.shape, generator=rng) + 0.1, torch.tensor([0.01, 0.1, 0.5, 20.0])
    threat = build(f"{norm}(1)", "Threat")

    def value(point: Tensor) -> Tensor:
        return weight * threat.size(point) + (metric * (point - delta) ** 2).flatten(1).sum(1) / 2

    best = getattr(proximal, f"prox_{norm}")(delta, weight, metric, x)
    assert ((x + best >= -1e-6) & (x + best <= 1 + 1e-6)).all()
    assert (best[3] == 0).all() or norm == "l1"
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            near = best + size * (torch.randn(x.shape, generator=rng) if _ % 2 else -best * torch.rand((), generator=rng))
            assert (value(near.clamp(-x, 1 - x)) >= value(best) - 1e-4).all()


def test_bad_arguments_and_losses_are_refused() -> None:
    for spec, said in (
        ("ddn(0)", "steps must be at least 1"),
        ("alma(5, alpha=2.0)", "alpha between 0 and 1"),
        ("alma_prox(5, share=0.0)", "share above 0"),
        ("sigma_zero(5, tau=2.0)", "tau in"),
    ):
        with pytest.raises(SpecError, match=said):
            build(spec, "Search")
    for spec, said in (
        ("attack(sigma_zero, loss=ce)", "use attack"),
        ("attack(alma_prox, loss=ce)", "use pixel_dlr or pixel_margin"),
    ):
        with pytest.raises(SpecError, match=said):
            build(spec, "Attack")
    objective, x = reading("margin")
    with pytest.raises(SpecError, match="alone, not"):
        build("ddn(3)", "Search")(objective, x, build("linf(1/255)", "Threat"))
