"""Criteria against explicit loops of their formulas, what they remember, and what they do in several processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.specs.schedules import constant, ramp
from hardsight.training.criteria.cluster import Swapped, sinkhorn
from hardsight.training.criteria.coding import Coding, coding_rate
from hardsight.training.criteria.contrast import NTXent, SupCon, nt_xent
from hardsight.training.criteria.decorrelate import CrossCorrelation, Regularized
from hardsight.training.criteria.distill import Centred
from hardsight.training.criteria.gather import alone, gather, own, world
from hardsight.training.criteria.keys import InBatch, Queued
from hardsight.training.criteria.pairs import among, mean
from hardsight.training.criteria.predict import Aligned, Regressed

B, D, V = 6, 5, 3
LABEL = torch.tensor([0, 1, 0, 2, 1, 0])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def embeddings(count: int = V, seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(numbers(count, B, D, seed=seed))


def at(epoch: int) -> When:
    return When(torch.Generator(), epoch=epoch, epochs=10)


class Case:
    """A criterion, and whether it computes statistics over the batch; both branches have the same number of views."""

    def __init__(self, make: Callable[[], Any], whole: bool = False) -> None:
        self.make, self.whole = make, whole

    def loss(self, online: tuple[Tensor, ...], target: tuple[Tensor, ...], label: Tensor = LABEL) -> Tensor:
        criterion: Any = self.build()
        return criterion(online, target, label, torch.arange(len(label)))

    def build(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            criterion: Any = self.make()
        if isinstance(criterion, torch.nn.Module):
            criterion.double()
        if isinstance(criterion, Queued):
            criterion.queue.copy_(F.normalize(criterion.queue))
        criterion_at = getattr(criterion, "at", None)
        return criterion_at(at(0)) if criterion_at else criterion


CASES = {
    "formula": Case(lambda: lambda online, target, label, places: mean([nt_xent(*pair, 0.3) for pair in among(online)])),
    "nt_xent": Case(lambda: NTXent(0.3)),
    "sup_con": Case(lambda: SupCon(0.3)),
    "queued": Case(lambda: Queued(0.3, 4, D)),
    "in_batch": Case(lambda: InBatch(0.3)),
    "regressed": Case(Regressed),
    "aligned": Case(Aligned),
    "cross_correlation": Case(lambda: CrossCorrelation(0.1), whole=True),
    "regularized": Case(lambda: Regularized(25, 25, 1), whole=True),
    "swapped": Case(lambda: Swapped(D, 7, queue=4)),
    "centred": Case(lambda: Centred(D, 0.1, constant(0.05))),
    "coding": Case(lambda: Coding(200, 0.2)),
}


@pytest.mark.parametrize("name", CASES)
def test_one_number_an_image_and_the_order_of_the_batch_does_not_count(name: str) -> None:
    online, target = embeddings(), embeddings(seed=1)
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = CASES[name].loss(online, target)
    turned = CASES[name].loss(tuple(z[turn] for z in online), tuple(z[turn] for z in target), LABEL[turn])
    assert loss.shape == (B,)
    assert torch.allclose(turned, loss[turn], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_views_is_read_and_each_gets_a_gradient(name: str, count: int) -> None:
    online = tuple(z.requires_grad_() for z in embeddings(count))
    loss = CASES[name].loss(online, tuple(z.detach() for z in embeddings(count, seed=1)))
    grads = torch.autograd.grad(loss.mean(), online)
    assert all(float(grad.abs().max()) > 1e-8 for grad in grads)


@pytest.mark.parametrize("name", CASES)
def test_a_single_view_is_refused(name: str) -> None:
    target = () if name == "queued" else embeddings(1)
    with pytest.raises(SpecError, match="there is only 1"):
        CASES[name].loss(embeddings(1), target)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.whole])
def test_a_batch_of_one_has_no_statistics(name: str) -> None:
    one = tuple(z[:1] for z in embeddings())
    with pytest.raises(SpecError, match="this batch has 1 image; it needs at least 2"):
        CASES[name].loss(one, one, LABEL[:1])


def cosine(one: Tensor, two: Tensor) -> float:
    return float(one @ two / one.norm() / two.norm())


def test_nt_xent_of_three_views_is_the_mean_over_their_pairs() -> None:
    views, total = embeddings(), torch.zeros(B)
    for v, w in ((0, 1), (0, 2), (1, 2)):
        both = [*views[v], *views[w]]
        for i in range(2 * B):
            alike = {j: math.exp(cosine(both[i], both[j]) / 0.3) for j in range(2 * B) if j != i}
            total[i % B] -= math.log(alike[(i + B) % (2 * B)] / sum(alike.values())) / 6
    for name in ("formula", "nt_xent"):
        assert torch.allclose(CASES[name].loss(views, ()).float(), total, rtol=1e-5)


def test_sup_con_is_the_formula_and_nt_xent_where_all_labels_differ() -> None:
    views = embeddings()
    every = [(z, int(y), i) for view in views for i, (z, y) in enumerate(zip(view, LABEL, strict=True))]
    total = torch.zeros(B, dtype=torch.float64)
    for a, (one, label, image) in enumerate(every):
        rest = [(math.exp(cosine(one, other) / 0.3), y) for b, (other, y, _) in enumerate(every) if b != a]
        logs = [math.log(alike / sum(r for r, _ in rest)) for alike, y in rest if y == label]
        total[image] -= sum(logs) / len(logs) / V
    assert torch.allclose(CASES["sup_con"].loss(views, ()), total, rtol=1e-10)
    all_different = CASES["sup_con"].loss(views[:2], (), torch.arange(B))
    assert torch.allclose(all_different, CASES["nt_xent"].loss(views[:2], ()), rtol=1e-10)


def test_sup_con_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="SupCon needs labels"):
        SupCon(0.1)(embeddings(), None, None, torch.arange(B))


def test_queued_is_the_formula() -> None:
    criterion = CASES["queued"].build()
    online, target = embeddings(2), embeddings(1, seed=1)
    total = torch.zeros(B, dtype=torch.float64)
    for query in online:
        for i in range(B):
            own_key = math.exp(cosine(query[i], target[0][i]) / 0.3)
            others = sum(math.exp(cosine(query[i], key) / 0.3) for key in criterion.queue)
            total[i] -= math.log(own_key / (own_key + others)) / 2
    assert torch.allclose(criterion(online, target, None, torch.arange(B)), total, rtol=1e-10)


def test_the_queue_is_written_over_from_its_oldest_key_on() -> None:
    criterion = Queued(0.2, 5, 2)
    before = criterion.queue.clone()
    keys = torch.tensor([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    short = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    criterion.keep(criterion.remember((), (keys,)))
    assert torch.allclose(criterion.queue, torch.cat([short, before[3:]]))
    assert int(criterion.place) == 3
    criterion.keep(criterion.remember((), (keys,)))
    assert torch.allclose(criterion.queue, torch.stack([short[2], short[1], short[2], short[0], short[1]]))
    assert int(criterion.place) == 1


def test_in_batch_is_the_formula() -> None:
    online, target = embeddings(2), embeddings(2, seed=1)
    total = torch.zeros(B, dtype=torch.float64)
    for v in range(2):
        for i in range(B):
            alike = [math.exp(cosine(online[v][i], target[1 - v][j]) / 0.3) for j in range(B)]
            total[i] -= 2 * 0.3 * math.log(alike[i] / sum(alike))
    assert torch.allclose(CASES["in_batch"].loss(online, target), total, rtol=1e-10)


def test_predictions_are_compared_with_other_views_alone_and_targets_get_no_gradient() -> None:
    online, target = embeddings(2), tuple(z.requires_grad_() for z in embeddings(2, seed=1))
    still = [z.detach() for z in target]
    both = torch.tensor([[cosine(online[v][i], still[1 - v][i]) for i in range(B)] for v in range(2)], dtype=torch.float64)
    far = torch.stack([((F.normalize(online[v]) - F.normalize(target[1 - v])) ** 2).sum(1) for v in range(2)]).sum(0)
    assert torch.allclose(CASES["regressed"].loss(online, target), far, rtol=1e-10)
    assert torch.allclose(CASES["aligned"].loss(online, target), -both.mean(0), rtol=1e-10)
    assert not CASES["aligned"].loss(online, target).requires_grad


def test_cross_correlation_is_the_formula() -> None:
    views, losses = embeddings(), []
    standard = [(z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in views]
    for v, w in ((0, 1), (0, 2), (1, 2)):
        total = 0.0
        for i in range(D):
            for j in range(D):
                c = sum(float(standard[v][b, i] * standard[w][b, j]) for b in range(B)) / B
                total += (c - 1) ** 2 if i == j else 0.1 * c**2
        losses.append(total)
    assert torch.allclose(CASES["cross_correlation"].loss(views, ()), torch.tensor(sum(losses) / 3, dtype=torch.float64))


def test_regularized_is_the_formula() -> None:
    views = embeddings(2)
    near = ((views[0] - views[1]) ** 2).mean(1)
    narrow = repeated = 0.0
    for z in views:
        narrow += sum(max(0.0, 1 - math.sqrt(float(z[:, d].var()) + 1e-4)) for d in range(D)) / D / 2
        covariance = torch.cov(z.T)
        repeated += sum(float(covariance[i, j]) ** 2 for i in range(D) for j in range(D) if i != j) / D
    assert torch.allclose(CASES["regularized"].loss(views, ()), 25 * near + 25 * narrow + repeated, rtol=1e-10)


def test_sinkhorn_shares_images_out_evenly() -> None:
    scores = numbers(12, 4)
    codes = sinkhorn(scores, eps=0.5, rounds=200)
    assert torch.allclose(codes.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.allclose(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    plan = (scores / 0.5).exp()
    for _ in range(3):
        plan = plan / plan.sum(0)
        plan = plan / plan.sum(1, keepdim=True)
    assert torch.allclose(sinkhorn(scores, eps=0.5, rounds=3), plan)


def test_swapped_is_the_formula_and_reads_its_queue_once_full() -> None:
    criterion = Swapped(D, 7, queue=8).double()
    online = embeddings(3)
    target = tuple(z.detach() for z in online[:2])

    def scores(z: Tensor) -> Tensor:
        return F.normalize(z) @ criterion.prototypes.weight.detach().T

    def formula(codes: list[Tensor]) -> Tensor:
        total = torch.zeros(B, dtype=torch.float64)
        for w in range(2):
            for v in range(3):
                if v != w:
                    total -= (codes[w] * (scores(online[v]) / 0.1).log_softmax(1)).sum(1) / 4
        return total

    def loss() -> Tensor:
        return criterion(online, target, None, torch.arange(B)).detach()

    plain = formula([sinkhorn(scores(z)) for z in target])
    assert torch.allclose(loss(), plain)
    criterion.keep(criterion.remember(online, target))
    assert int(criterion.stored) == B
    assert torch.allclose(loss(), plain)
    criterion.keep(criterion.remember(online, target))
    assert int(criterion.stored) == 8
    short = [F.normalize(z) for z in target]
    assert torch.allclose(criterion.queue, torch.stack([torch.cat([z, z])[:8] for z in short]))
    balanced = formula([sinkhorn(scores(torch.cat([z, z, z])[: B + 8]))[:B] for z in target])
    assert torch.allclose(loss(), balanced)
    assert not torch.allclose(balanced, plain, rtol=1e-3)


def test_prototypes_are_of_length_one_again_after_a_step() -> None:
    criterion = Swapped(D, 7)
    with torch.no_grad():
        criterion.prototypes.weight.mul_(3)
    criterion.keep(criterion.remember((), (torch.ones(2, D), torch.ones(2, D))))
    assert torch.allclose(criterion.prototypes.weight.norm(dim=1), torch.ones(7))


def test_centred_is_the_formula_at_the_temperature_of_its_epoch() -> None:
    criterion = Centred(D, 0.1, ramp(0.04, 0.07, 4)).double()
    criterion.centre.copy_(numbers(D, seed=5))
    online, target = embeddings(3), embeddings(2, seed=1)
    for epoch, sharp in enumerate((0.04, 0.05, 0.06, 0.07, 0.07)):
        total = torch.zeros(B, dtype=torch.float64)
        for w in range(2):
            wanted = ((target[w] - criterion.centre) / sharp).softmax(1)
            for v in range(3):
                total -= (wanted * (online[v] / 0.1).log_softmax(1)).sum(1) / 4 * (v != w)
        assert torch.allclose(criterion.at(at(epoch))(online, target, None, torch.arange(B)), total, rtol=1e-10)


def test_the_centre_follows_the_mean_of_the_target() -> None:
    criterion = Centred(2, 0.1, constant(0.04), share=0.75)
    target = (torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 8.0]]))
    criterion.keep(criterion.remember((), target))
    assert criterion.centre.tolist() == [0.25, 0.75]
    criterion.keep(criterion.remember((), target))
    assert criterion.centre.tolist() == [0.25 * 0.75 + 0.25, 0.75 * 0.75 + 0.75]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coding_rate_has_its_gradient_under_autocast_too(dtype: torch.dtype) -> None:
    z = F.normalize(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    exact, low = z.clone().requires_grad_(), z.to(dtype).requires_grad_()
    wanted = torch.autograd.grad(coding_rate(exact, 0.2).sum(), exact)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rate = coding_rate(low, 0.2)
    found = torch.autograd.grad(rate.sum(), low)[0]
    assert rate.dtype == torch.float32
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("count", "dim"), [(6, 20), (20, 6)])
def test_coding_rate_is_the_determinant_in_either_form(count: int, dim: int) -> None:
    z = numbers(3, count, dim)
    for one, rate in zip(z, coding_rate(z, 0.2), strict=True):
        whole = torch.eye(dim, dtype=torch.float64) + dim / (count * 0.2) * sum(torch.outer(row, row) for row in one)
        assert float(rate) == pytest.approx(0.5 * float(torch.logdet(whole)), rel=1e-12)


def test_coding_is_the_formula() -> None:
    views = [F.normalize(z) for z in embeddings(4)]
    middle = torch.stack(views).mean(0)
    near = torch.tensor([sum(cosine(z[i], middle[i]) for z in views) / 4 for i in range(B)], dtype=torch.float64)
    rate = sum(float(torch.logdet(torch.eye(D, dtype=torch.float64) + D / (B * 0.2) * z.T @ z)) / 2 for z in views) / 4
    assert torch.allclose(CASES["coding"].loss(embeddings(4), ()), -200 * near - rate, rtol=1e-10)


def trained(name: str, rank: int, share: int) -> list[Tensor]:
    """Gradients of a linear map in two steps of a criterion, averaged over processes as DDP does, and its memory."""
    criterion: Any = CASES[name].make()
    criterion = criterion.double() if isinstance(criterion, torch.nn.Module) else criterion
    x = numbers(4, B, D, seed=9)[:, rank * share : (rank + 1) * share]
    weight = numbers(D, D, seed=8).requires_grad_()
    found = []
    for step in range(2):
        online = tuple((one + step) @ weight for one in x[:2])
        target = tuple(one @ weight.detach() for one in x[2:])
        criterion_at = criterion.at(at(step)) if hasattr(criterion, "at") else criterion
        loss = criterion_at(online, target, LABEL[rank * share : (rank + 1) * share], torch.arange(share)).mean()
        (grad,) = torch.autograd.grad(loss, weight)
        if dist.is_initialized():
            dist.all_reduce(grad)
            grad /= dist.get_world_size()
        found.append(grad)
        kept = criterion.remember(online, target) if hasattr(criterion, "remember") else None
        if kept is not None:
            criterion.keep(kept)
            found += [value.clone() for value in criterion.buffers()]
    return found


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name in CASES:
        torch.manual_seed(3)
        found[name] = trained(name, rank, B // 2)
    with alone():
        found["alone"] = [torch.tensor(world()), gather(torch.ones(3)), own(torch.ones(3))]
        found["nt_xent alone"] = trained("nt_xent", rank, B // 2)
    if rank == 0:
        with alone():  # the other process computes nothing here: a criterion that waited for it would never return
            CASES["nt_xent"].loss(embeddings(), ())
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_that_holds_the_whole_batch(tmp_path: Path) -> None:
    processes.start_processes(one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[attr-defined]
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in CASES:
        torch.manual_seed(3)
        for whole, left, right in zip(trained(name, 0, B), one[name], two[name], strict=True):
            scale = float(whole.abs().max())
            assert torch.equal(left, right), name
            assert torch.allclose(left, whole, rtol=1e-10, atol=1e-12 * scale), name
    torch.manual_seed(3)
    assert not torch.allclose(one["nt_xent alone"][0], trained("nt_xent", 0, B)[0], rtol=1e-2)
    assert int(one["alone"][0]) == 1
    assert one["alone"][1].tolist() == [1, 1, 1]
    assert two["alone"][2].tolist() == [0, 1, 2]
