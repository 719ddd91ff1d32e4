"""Criteria compared with lightly's, in double precision and with gradients; and the two forms of the coding rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hardsight.core.when import When
from hardsight.specs.schedules import constant
from hardsight.training.criteria.cluster import Swapped, sinkhorn
from hardsight.training.criteria.coding import Coding, coding_rate
from hardsight.training.criteria.contrast import NTXent, sup_con
from hardsight.training.criteria.decorrelate import CrossCorrelation, Regularized
from hardsight.training.criteria.distill import Centred
from hardsight.training.criteria.keys import Queued
from hardsight.training.criteria.predict import Aligned, Regressed

B, D = 16, 24
PLACES = torch.arange(B)


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("lightly.loss", reason="compares with lightly, which is no dependency: pip install lightly")


def leaves(count: int, dim: int = D, seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, dim, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(count))


def same(mine: Tensor, other: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """The two losses and their gradients are equal to rounding."""
    assert float(mine.detach()) == pytest.approx(float(other.detach()), rel=1e-12)
    for one, two in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(other, inputs), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12 * float(two.abs().max()))


def test_nt_xent(theirs: Any) -> None:
    views = leaves(2)
    same(NTXent(0.3)(views, None, None, PLACES).mean(), theirs.NTXentLoss(0.3)(*views), views)


def test_moco_is_nt_xent_with_a_memory_bank(theirs: Any) -> None:
    (query,), (key,) = leaves(1), leaves(1, seed=1)
    mine = Queued(0.2, 64, D).double()
    other = theirs.NTXentLoss(0.2, memory_bank_size=(64, D)).double()
    mine.queue.copy_(other.memory_bank.bank.T if len(other.memory_bank.bank) == D else other.memory_bank.bank)
    other.memory_bank.bank = other.memory_bank.bank.double()
    same(mine((query,), (key.detach(),), None, PLACES).mean(), other(query, key.detach()), (query,))


def test_byol_and_simsiam(theirs: Any) -> None:
    online, target = leaves(2), tuple(z.detach() for z in leaves(2, seed=1))
    cosine = theirs.NegativeCosineSimilarity()

    def other() -> Tensor:
        return (cosine(online[0], target[1]) + cosine(online[1], target[0])) / 2

    same(Aligned()(online, target, None, PLACES).mean(), other(), online)
    same(Regressed()(online, target, None, PLACES).mean(), 4 + 4 * other(), online)


def test_barlow_twins(theirs: Any) -> None:
    views = leaves(2)
    same(CrossCorrelation(0.0051)(views, None, None, PLACES).mean(), theirs.BarlowTwinsLoss(0.0051)(*views), views)


def test_vicreg(theirs: Any) -> None:
    views = leaves(2)
    same(Regularized(25, 25, 1)(views, None, None, PLACES).mean(), theirs.VICRegLoss()(*views), views)


@pytest.mark.parametrize("queue", [0, 20])
def test_swav(theirs: Any, queue: int) -> None:
    views = leaves(4)
    mine = Swapped(D, 10, queue=queue).double()
    mine.queue.copy_(F.normalize(torch.randn(2, queue, D), dim=-1))
    mine.stored.fill_(queue)
    weight = mine.prototypes.weight
    scores = [F.normalize(z, dim=1) @ weight.T for z in views]
    others = [one @ weight.T for one in mine.queue] if queue else None
    loss = mine(views, tuple(z.detach() for z in views[:2]), None, PLACES).mean()
    same(loss, theirs.SwaVLoss()(scores[:2], scores[2:], others)[0], (*views, weight))


def test_dino_with_its_centre(theirs: Any) -> None:
    """At a temperature that float32 represents exactly, since lightly rounds it to float32."""
    online, target = leaves(4), tuple(z.detach() for z in leaves(2, seed=1))
    mine, other = Centred(D, 0.1, constant(0.0625)).double(), theirs.DINOLoss(D, student_temp=0.1).double()
    reading = mine.at(When(torch.Generator()))
    for _ in range(3):
        loss = reading(online, target, None, PLACES).mean()
        same(loss, other(list(target), list(online), teacher_temp=0.0625), online)
        mine.keep(mine.remember(online, target))
        assert torch.allclose(mine.centre, other.center.flatten(), atol=1e-12)


def test_emp_ssl_except_for_the_sign_that_lightly_gives_the_coding_rate(theirs: Any) -> None:
    """lightly 1.6.0 adds the coding rate, so training lowers it; the authors (tsb0601/EMP-SSL, loss.py) subtract it."""
    views = leaves(5)
    short = [F.normalize(z, dim=1) for z in views]
    rate = coding_rate(torch.stack(short), 0.2).mean()
    same(Coding(200, 0.2)(views, None, None, PLACES).mean(), theirs.EMPSSLLoss()(short) - 2 * rate, views)


def test_sup_con_of_labels_that_differ_is_lightlys_nt_xent(theirs: Any) -> None:
    views = leaves(2)
    same(sup_con(views, PLACES, 0.3).mean(), theirs.NTXentLoss(0.3)(*views), views)


def test_sinkhorn(theirs: Any) -> None:
    other = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    scores = F.normalize(leaves(1)[0].detach(), dim=1)
    assert torch.allclose(sinkhorn(scores), other(scores), rtol=1e-12)


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        tensors = [part for part in tree_leaves(returned) if isinstance(part, Tensor)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors)])
        return returned


def test_the_coding_rate_equals_its_large_form_and_never_builds_it() -> None:
    """D = 1024, B = 128, with the gradient. What that saves in seconds, `benchmarks/performance/training.py coding` prints."""
    z = F.normalize(torch.randn(128, 1024, dtype=torch.float64), dim=1).requires_grad_()
    large = torch.logdet(torch.eye(1024, dtype=torch.float64) + 1024 / (128 * 0.2) * z.T @ z) / 2
    with Largest() as seen:
        small = coding_rate(z, 0.2)
        (gradient,) = torch.autograd.grad(small, z)
    assert seen.numel == z.numel()
    assert float(small.detach()) == pytest.approx(float(large.detach()), rel=1e-9)
    assert torch.allclose(gradient, torch.autograd.grad(large, z)[0], rtol=1e-6, atol=1e-10)
