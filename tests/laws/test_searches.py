"""Laws of every search in the catalog, and of attack strength, each with a model on which it must fail."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.threats.base import Threat
from hardsight.core.errors import SpecError
from hardsight.losses.objective import Objective, Reading, against, averaged, loss_and_grad
from hardsight.specs.catalog import build, entries
from tests.conftest import toy_images, toy_system, toy_target

SPEC_OF = {
    "best_of": "best_of([pgd(3), pgd(3, momentum=1)])",
    "restarts": "restarts(pgd(3), 2)",
    "eot": "eot(pgd(3), 2)",
    "square": "square(40)",
    "fab": "fab(20)",
    "fmn": "fmn(20)",
    "ddn": "ddn(20)",
    "alma": "alma(20)",
    "cw_l2": "cw_l2(4, 5)",
    "ead": "ead(3, 5)",
    "pdpgd": "pdpgd(20)",
    "sigma_zero": "sigma_zero(20)",
    "superdeepfool": "superdeepfool(10, rivals=4)",
    "alma_prox": "alma_prox(20)",
    "dense_adversary": "dense_adversary(20)",
}
SEARCHES = [SPEC_OF.get(name, name) for name, entry in entries().items() if entry.kind == "Search"]
EXTRA = [
    "pgd(4, early_exit=True)",
    "pgd(8, patience=2)",
    "pgd(4, momentum=1, start='clean')",
    "pgd(4, start='surface', keep='last')",
    "pgd(4, momentum=1, nesterov=True)",
]
THREATS = ["linf(8/255)", "l2(0.5)", "l1(5)", "l0_values(20)"]
USUAL = THREATS[:3]


def refused(search: Search, spec: str) -> str:
    """What the search says to a threat that it does not support; empty if it does."""
    try:
        for check in getattr(search, "checks", ()):
            check(build(spec, "Threat"))
    except SpecError as error:
        return str(error)
    return ""


@pytest.fixture(params=[*SEARCHES, *EXTRA])
def search(request: pytest.FixtureRequest) -> Search:
    return build(request.param, "Search")


@pytest.fixture
def threat(search: Search) -> Threat:
    """The first threat that the search supports."""
    return build(next(spec for spec in THREATS if not refused(search, spec)), "Threat")


def toy_objective(search: Search, count: int = 6) -> tuple[Objective, Tensor]:
    """The task's loss, or the margin if the search needs a signed loss."""
    system = toy_system(build("classify", "Task"))
    y = toy_target(system.task, count)
    signed = getattr(search, "signed", False) or getattr(search, "parted", False)
    loss = build("margin", "Loss") if signed else lambda o, t, p: system.task.loss(o, t)
    return against(system.output, loss, system.task.error, y), toy_images(count)


@pytest.mark.parametrize("spec", THREATS)
def test_result_is_allowed_and_no_worse_than_the_start(search: Search, spec: str) -> None:
    objective, x = toy_objective(search)
    threat = build(spec, "Threat")
    if said := refused(search, spec):
        with pytest.raises(SpecError, match=re.escape(said)):
            search(objective, x, threat, torch.Generator().manual_seed(0), x.clone())
        assert threat.norm in said
        return
    found = search(objective, x, threat, torch.Generator().manual_seed(0), x.clone())
    assert (threat.size(found.x_adv - x) <= threat.eps * (1 + 1e-5) + 1e-6).all()
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    before, after = objective(x), objective(found.x_adv)
    assert torch.allclose(after.loss, found.loss, atol=1e-5)
    if search.spec.get("keep", "best") == "best":  # type: ignore[attr-defined]
        assert after.error is not None
        assert before.error is not None
        assert (after.error >= before.error).all()


def test_result_follows_the_seed(search: Search, threat: Threat) -> None:
    objective, x = toy_objective(search)
    one, two = (search(objective, x, threat, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.x_adv, two.x_adv)


def test_images_do_not_depend_on_one_another(search: Search, threat: Threat) -> None:
    objective, x = toy_objective(search)
    start = threat.inside(x, torch.Generator().manual_seed(9))
    whole = search(objective, x, threat, torch.Generator().manual_seed(0), start)
    part = torch.tensor([4, 1])
    alone = search(objective[part], x[part], threat, torch.Generator().manual_seed(0), start[part])
    assert torch.allclose(alone.x_adv, whole.x_adv[part], atol=1e-6)
    assert torch.equal(alone.queries, whole.queries[part])


def test_forward_passes_are_counted(search: Search, threat: Threat) -> None:
    objective, x = toy_objective(search)
    seen = 0

    def read(x: Tensor, target: Tensor, progress: float) -> Reading:
        nonlocal seen
        seen += len(x)
        return objective.read(x, target, progress)

    found = search(replace(objective, read=read), x, threat, torch.Generator().manual_seed(0))
    assert int(found.queries.sum()) == seen
    assert int(found.queries.max()) <= search.passes


def test_coupled_objectives_are_not_indexed(search: Search, threat: Threat) -> None:
    objective, x = toy_objective(search)
    signed, judged = getattr(search, "signed", False), getattr(search, "judged", False)

    def read(x: Tensor, target: Any, progress: float) -> Reading:
        return Reading(x.flatten(1).std(0).mean().expand(len(x)), torch.zeros(len(x)) if judged else None)

    spread = Objective(read, coupled=True, signed=signed)
    with pytest.raises(ValueError, match="couples"):
        spread[torch.tensor([0])]
    found = search(spread, x, threat, torch.Generator().manual_seed(0))
    assert found.x_adv.shape == x.shape


@pytest.mark.parametrize("spec", USUAL)
def test_linear_model_is_solved(spec: str) -> None:
    """On a linear loss, away from the edge of the box, the optimum is eps times the dual norm; PGD nearly reaches it."""
    threat = build(spec, "Threat")
    x = torch.full((3, 3, 8, 8), 0.5)
    w = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    objective = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w)
    gain = build("pgd(100, 0.05)", "Search")(objective, x, threat, torch.Generator().manual_seed(0)).loss - objective(x).loss
    bound = threat.eps * threat.dual(w)
    if spec == "l1(5)":
        bound = 0.5 * w.flatten(1).abs().topk(10).values.sum(
            1
        )  # the pixel range lets each value move by 0.5, so ten of them share 5
    factor = 0.6 if spec == "l1(5)" else 0.99  # PGD spreads an L1 budget over too many values: the reason for APGD-L1
    assert (gain >= factor * bound).all(), gain / bound
    assert (gain <= bound * (1 + 1e-5)).all(), gain / bound


def test_weak_attack_is_distinguished_from_a_strong_one() -> None:
    """Negative control: with a saturated loss, PGD on cross-entropy finds nothing, though the model is as weak as before."""
    system = toy_system(build("classify", "Task"))
    x = toy_images(64)
    y = system.output(x).argmax(1)
    threat, rng = build("linf(16/255)", "Threat"), torch.Generator().manual_seed(0)
    hidden = lambda x: system.output(x) * 1e4  # noqa: E731
    ce, margin = build("ce", "Loss"), build("margin", "Loss")
    search = build("pgd(20, start='clean')", "Search")

    def broken(model: object, loss: object) -> float:
        return float(search(against(model, loss, system.task.error, y), x, threat, rng).error.mean())  # type: ignore[arg-type]

    assert broken(system.output, ce) > 0.2
    assert broken(hidden, ce) < broken(system.output, ce) / 2
    assert broken(hidden, margin) >= broken(system.output, ce) - 0.05


def test_patience_drops_images_without_progress_and_no_others() -> None:
    """A linear loss is at its maximum after 8 steps of a quarter from the worst start; after that it is constant."""
    x = torch.full((2, 3, 8, 8), 0.5)
    w = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    threat = build("linf(8/255)", "Threat")
    objective = Objective(lambda x, w, p: Reading((x * w).flatten(1).sum(1)), w)
    whole, short = (
        build(f"pgd(40, patience={patience})", "Search")(objective, x, threat, None, x - threat.eps * w.sign())
        for patience in (0, 3)
    )
    assert torch.equal(short.x_adv, whole.x_adv)
    assert torch.equal(short.loss, whole.loss)
    assert whole.queries.tolist() == [41, 41]
    assert short.queries.tolist() == [12, 12]  # 8 rises after the start, and 3 forward passes without one
    rising = Objective(lambda x, w, p: Reading((x * 0).flatten(1).sum(1) + 1.02 ** (40 * p)), w)
    assert build("pgd(40, patience=3)", "Search")(rising, x, threat).queries.tolist() == [41, 41]


@pytest.mark.parametrize("bf16", [False, True])
def test_a_large_batch_goes_in_pieces_and_a_coupled_one_whole(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """The pieces give the numbers of the whole batch; no piece is larger than allowed, except by a remainder."""
    objective, x = toy_objective(build("pgd", "Search"), 9)
    seen: list[int] = []

    def read(x: Tensor, target: Tensor, progress: float) -> Reading:
        seen.append(len(x))
        return objective.read(x, target, progress)

    watched = replace(objective, read=read)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole = loss_and_grad(watched, x)
        monkeypatch.setattr("hardsight.losses.objective.PIECE", 2 * x[0, 0].numel() // torch.get_num_threads())
        parts = loss_and_grad(watched, x)
        loss_and_grad(replace(watched, coupled=True), x)
        assert loss_and_grad(watched[torch.arange(0)], x[:0])[1].shape == x[:0].shape
    assert seen == [9, *([5, 4] if bf16 else [3, 3, 3]), 9, 0]
    for one, other in zip((*whole[0][:3], whole[1]), (*parts[0][:3], parts[1]), strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=0.02 if bf16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize(("spec", "clip"), [("masked(l1(5), [0, 0, 1, 1])", False), ("per_frame(l1(5))", True)])
def test_apgd_treats_a_confined_l1_as_l1(spec: str, clip: bool) -> None:
    """A region that is the whole image, and the only frame of a clip, change nothing."""
    objective, x = toy_objective(build("apgd", "Search"))
    read = replace(objective, read=lambda x, target, progress: objective.read(x[:, :, 0] if clip else x, target, progress))
    plain, same = (
        build("apgd(30)", "Search")(*given, torch.Generator().manual_seed(0), x[:, :, None] if clip and place else x)
        for place, given in enumerate(
            [(objective, x, build("l1(5)", "Threat")), (read, x[:, :, None] if clip else x, build(spec, "Threat"))]
        )
    )
    assert torch.allclose(same.x_adv.reshape(x.shape), plain.x_adv, atol=1e-6)


def test_apgd_in_a_region_of_l1_gains_more_than_pgd() -> None:
    objective, x = toy_objective(build("apgd", "Search"), 24)
    threat = build("masked(l1(5), [0, 0, 0.5, 1])", "Threat")
    losses = [
        build(name, "Search")(objective, x, threat, torch.Generator().manual_seed(0)).loss.mean()
        for name in ("pgd(40)", "apgd(40)")
    ]
    assert losses[1] > losses[0]


def test_draws_are_taken_one_after_another() -> None:
    """The mean of several forward passes has their mean gradient, and only one pass's graph is in memory at a time."""
    objective, x = toy_objective(build("pgd", "Search"), 4)
    alive, most = 0, 0

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            nonlocal alive, most
            alive, most = alive + 1, max(most, alive + 1)
            return x * next(factors)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            nonlocal alive
            alive -= 1
            return grad

    factors = iter([1.0, 3.0, 1.0, 3.0, 5.0])
    noisy = replace(objective, read=lambda x, t, p: Reading(Held.apply(x).flatten(1).sum(1)), draws=1)
    single = loss_and_grad(noisy, x)
    mean = loss_and_grad(averaged(noisy, 4), x)
    assert torch.allclose(mean[0].loss, 3 * single[0].loss)
    assert most == 1
