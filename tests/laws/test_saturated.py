"""A law of the searches for minimal perturbations: black and white pixels, which cannot move further, hide nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hardsight.attacks.threats.base import Threat
from hardsight.losses.objective import against
from hardsight.specs.catalog import build
from tests.parity.test_fab import wrong
from tests.parity.test_pgd import Net

COUNT, SIDE, CLASSES = 12, 16, 4


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.1 * torch.randn(CLASSES, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def images(share: float, edge: float = 0.0) -> Tensor:
    """Images in which about that share of the values is black or white, or `edge` away from it."""
    rng = torch.Generator().manual_seed(0)
    drawn = [torch.rand(COUNT, 3, SIDE, SIDE, generator=rng) for _ in range(3)]
    return torch.where(drawn[0] < share, (drawn[1] < 0.5) * (1 - 2 * edge) + edge, 0.1 + 0.8 * drawn[2])


def sizes(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, spec: str) -> Tensor:
    """[B]: the size of the minimal perturbation of each image; infinite if none was found."""
    found = build(spec, "Search")(against(net, build("margin", "Loss"), wrong, y), x, threat).x_best_loss
    return torch.where(wrong(net(found), y) >= 1, threat.size(found - x), torch.inf)


def exact(net: Linear, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """[B]: the smallest step within the pixel range to the boundary with any other class."""
    each = []
    for other in range(CLASSES):
        w = (net.weight[other] - net.weight[y]).view_as(x)
        step = threat.to_hyperplane(x, w, 0.5 * w.flatten(1).sum(1))
        each.append(torch.where(y == other, torch.inf, threat.size(step)))
    return torch.stack(each).amin(0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.03, 0.1, 1.0])
@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.5)", "l1(8)"])
@pytest.mark.slow
def test_each_search_finds_what_there_is_at_any_share_of_saturated_values(spec: str, share: float) -> None:
    """On a linear model the minimum is known; on a network it is what FAB finds."""
    threat, x = build(spec, "Threat"), images(share)
    net = Linear()
    y = net(x).argmax(1)
    least = exact(net, x, y, threat)
    for search in ("fmn(100)", "fab(40)"):
        found = sizes(net, x, y, threat, search)
        assert (found >= least - 1e-5).all(), search
        assert (found <= least * 1.2 + 1e-3).all(), (search, found / least)  # of some images the way to another class
        assert (found / least).median() <= 1.02, (search, found / least)
    net = Net().eval()
    y = net(x).argmax(1)
    found, known = (sizes(net, x, y, threat, search) for search in ("fmn(100)", "fab(40)"))
    assert torch.isfinite(found).all()
    assert found.median() <= 1.02 * known.median()
    assert known.median() <= 1.02 * found.median()


def test_values_next_to_the_edge_hide_nothing_either() -> None:
    """One grey level away from black and white, as scans are after resizing."""
    threat, x, net = build("l2(0.5)", "Threat"), images(0.5, 1 / 255), Linear()
    y = net(x).argmax(1)
    share = sizes(net, x, y, threat, "fmn(100)") / exact(net, x, y, threat)
    assert torch.isfinite(share).all()
    assert share.median() <= 1.02
