"""Where a paper's code differs from its text: the corrected behaviour, and each quirk of `official`, against explicit loops.

The loops below do what the released codes do, step by step, on the learner's own network; so a method that agrees with one
has no other differences from it than those in its docstring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.when import When
from hardsight.encoders.norms import norm_as
from hardsight.specs.catalog import build
from hardsight.training.methods.air import kl_sum
from hardsight.training.methods.base import Learner, Samples
from hardsight.training.methods.taro import targets
from tests.training.test_grid import begun

EPS, ALPHA = 8 / 255, 1e-2


def when(replay: int = 0, place: int = 0) -> When:
    return When(seeds.generator("quirks", place), place, 4, replay=replay)


def network(inner: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: inner.projector(inner.encoder(x).pooled)


def gradients(inner: Any) -> list[Tensor]:
    return [one.grad.clone() for one in inner.parameters() if one.grad is not None]


def close(one: list[Tensor], two: list[Tensor], atol: float = 1e-6) -> bool:
    """Equal up to `atol` times the largest value."""
    greatest = max(1.0, *(float(a.abs().max()) for a in two))
    return len(one) == len(two) and all(torch.allclose(a, b, atol=atol * greatest) for a, b in zip(one, two, strict=True))


def watched(learner: Any) -> list[tuple[Tensor, ...]]:
    """Records the views that the inner learner gets from now on."""
    read, kept = learner.inner.read, []

    def seen(views: tuple[Tensor, ...], samples: Samples, at: When) -> Any:
        kept.append(tuple(view.detach().clone() for view in views))
        return read(views, samples, at)

    learner.inner.read = seen
    return kept


# ACL: PGD_contrastive of VITA-Group/Adversarial-Contrastive-Learning


def acl_nt_xent(z: Tensor, t: float = 0.5) -> Tensor:
    """Its loss of interleaved views: rows 2i and 2i + 1 are a pair."""
    unit = F.normalize(z, dim=1)
    alike = torch.exp(unit @ unit.T / t)
    partner = torch.arange(len(z))
    partner[::2] += 1
    partner[1::2] -= 1
    chance = alike[partner].diag() / (alike.sum(0) - torch.exp(torch.tensor(1 / t)))
    return -torch.log(chance).mean()


def test_acls_inner_attack_is_the_released_one() -> None:
    """To 1e-6, on images so far from 0 and 1 that the unclamped random start of the release makes no difference."""
    learner: Any
    learner, samples = begun("acl(widths=(16, 8))")
    views = tuple(0.1 + 0.8 * view for view in learner.draw(samples, when()))
    x = torch.cat(views)
    start = x + (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(4)) - 1) * EPS
    inner = learner.inner

    def raised(v: tuple[Tensor, ...]) -> Tensor:
        return inner.read(v, samples, when()).loss

    with norm_as(learner.norms, "adversarial"):
        found = torch.cat(learner.adversary(learner, views, raised, when(), start=start.chunk(2)))
        learner.eval()
        delta = (start - x).requires_grad_(True)
        order = torch.arange(len(x)).view(2, -1).T.flatten()  # one view of an image after the other
        for _ in range(5):
            loss = acl_nt_xent(network(inner)((x + delta)[order]))
            (grad,) = torch.autograd.grad(loss, delta)
            with torch.no_grad():
                delta = (delta + 2 / 255 * grad.sign()).clamp(-EPS, EPS)
                delta = ((x + delta).clamp(0, 1) - x).requires_grad_(True)
    assert (found - (x + delta).detach()).abs().max() < 1e-6
    assert (found - x).abs().max() > 0.9 * EPS


def test_acls_loss_is_half_of_each_stream() -> None:
    learner: Any
    learner, samples = begun("acl(widths=(16, 8), adversary=adversary(pgd(1, keep=last), linf(0)))")
    x = torch.stack(learner.draw(samples, when()), 1).flatten(0, 1)
    twin = copy.deepcopy(learner)
    with norm_as(twin.norms, "adversarial"):
        hard = acl_nt_xent(network(twin.inner)(x)).item()
    with norm_as(twin.norms, "clean"):
        calm = acl_nt_xent(network(twin.inner)(x)).item()
    assert learner(samples, when()).loss.item() == pytest.approx((calm + hard) / 2, rel=1e-4)


# CF-AMC-SSL: softsys4ai/CF-AMC-SSL


def emp_loss(z: Tensor, crops: int, eps: float) -> Tensor:
    """200 times the similarity loss and the total coding rate in its d x d form, of crops one after the other."""
    unit = F.normalize(z, dim=1)
    parts = unit.chunk(crops)
    mean = torch.stack(parts).mean(0)
    near = torch.stack([F.cosine_similarity(part, mean, dim=1).mean() for part in parts]).mean()
    count, dim = parts[0].shape
    rates = torch.stack([torch.logdet(torch.eye(dim) + dim / (count * eps) * part.T @ part) / 2 for part in parts])
    return -200 * near - rates.mean()


def released_free(inner: Learner, batches: list[Tensor], replays: int, clamp: bool) -> tuple[list[float], Tensor]:
    """main_empssl_free_adv.py: its losses and its last perturbation; clamp: the corrected behaviour."""
    optimizer = torch.optim.SGD([one for one in inner.parameters() if one.requires_grad], lr=1e-3)
    delta, losses = torch.zeros_like(batches[0]), []
    for data in batches:
        if clamp:
            delta = (data + delta).clamp(0, 1) - data
        for _ in range(replays):
            optimizer.zero_grad()
            delta.requires_grad_(True)
            loss = emp_loss(network(inner)(data + delta), 4, 0.2)
            loss.backward()
            optimizer.step()
            assert delta.grad is not None
            with torch.no_grad():
                moved = (delta + ALPHA * delta.grad.sign()).clamp(-EPS, EPS)
                delta = (data + moved).clamp(0, 1) - data
            losses.append(loss.item())
    return losses, delta


def ours_free(learner: Learner, batches: list[Samples]) -> list[float]:
    optimizer = torch.optim.SGD([one for one in learner.parameters() if one.requires_grad], lr=1e-3)
    losses = []
    for place, samples in enumerate(batches):
        for replay in range(learner.replays):
            step = learner(samples, when(replay, place))
            optimizer.zero_grad()
            step.loss.backward()
            learner.after_backward(when(replay, place))
            optimizer.step()
            losses.append(step.loss.item())
    return losses


FREE = "free(emp(mode=official, widths=(16, 8), views=random_crops(4)), replays=2, first={})"


@pytest.mark.parametrize(("first", "clamp"), [("loose", False), ("clamped", True)])
def test_the_free_step_is_the_released_one(first: str, clamp: bool) -> None:
    """To 1e-6 over two batches of two replays; `loose` is the released code, `clamped` the corrected one."""
    learner: Any
    learner, samples = begun(FREE.format(first))
    twin = copy.deepcopy(learner.inner)
    batches = [torch.cat(twin.draw(samples, when(0, place))) for place in range(2)]
    losses, delta = released_free(twin, batches, 2, clamp)
    assert ours_free(learner, [samples, samples]) == pytest.approx(losses, rel=1e-6)
    assert (learner.delta - delta).abs().max() < 1e-6
    for one, other in zip(learner.inner.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_quirk_the_first_replay_leaves_the_pixel_box() -> None:
    seen = {}
    for first in ("loose", "clamped"):
        learner, samples = begun(FREE.format(first))
        kept = watched(learner)
        stark = samples._replace(x=(samples.x > 0.5).float())
        ours_free(learner, [samples, stark, samples])
        seen[first] = [bool((x.min() < 0) | (x.max() > 1)) for x in map(torch.cat, kept)]
    assert not any(seen["clamped"])
    assert any(seen["loose"])
    assert not any(seen["loose"][1::2])  # the second replay of each batch is clamped in the release too


def released_attack(x: Tensor, loss_of: Callable[[Tensor], Tensor], steps: int = 5) -> Tensor:
    """pgd_linf of main_empssl_adv.py and main_simclr_adv.py: its backward passes leave their gradients in the weights."""
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        loss_of(x + delta).backward()
        assert delta.grad is not None
        with torch.no_grad():
            delta.data = (delta + ALPHA * delta.grad.sign()).clamp(-EPS, EPS)
            delta.data = (x + delta.data).clamp(0, 1) - x
        delta.grad.zero_()
    return delta.detach()


def test_quirks_accumulate_attack_grads_and_attack_bn() -> None:
    """Official EMP-SSL: the release's statistics and its gradient, a sum of six, to 1e-6; corrected: one of each."""
    grads, statistics = {}, {}
    for mode in ("official", "corrected"):
        learner: Any
        learner, samples = begun(f"adv_emp({mode}, widths=(16, 8), views=random_crops(4))")
        twin = copy.deepcopy(learner.inner)
        x = torch.cat(twin.draw(samples, when()))
        learner(samples, when()).loss.backward()
        grads[mode] = gradients(learner.inner)
        statistics[mode] = int(learner.encoder.body.stem[1].num_batches_tracked)
        if mode == "official":
            net = network(twin)
            delta = released_attack(x, lambda x, net=net: emp_loss(net(x), 4, 0.2))
            emp_loss(net(x + delta), 4, 0.2).backward()
            assert close(grads[mode], gradients(twin))
            for one, other in zip(learner.encoder.buffers(), twin.encoder.buffers(), strict=True):
                assert torch.allclose(one.float(), other.float(), atol=1e-6)
    assert statistics == {"official": 6, "corrected": 1}
    size = {mode: torch.cat([grad.flatten() for grad in found]).norm() for mode, found in grads.items()}
    assert size["official"] > 2 * size["corrected"]


def test_quirk_attack_bn_alone() -> None:
    moved = {}
    for buffers in ("still", "moved"):
        learner: Any
        learner, samples = begun(f"replace(simclr(width=16), adversary(pgd(3, keep=last), mode=train, buffers={buffers}))")
        learner(samples, when())
        moved[buffers] = int(learner.encoder.body.stem[1].num_batches_tracked)
    assert moved["still"] == 1
    assert moved["moved"] > 3


def simclr_loss(one: Tensor, two: Tensor, temperature: float = 0.07) -> Tensor:
    z = F.normalize(torch.cat([one, two]), dim=1)
    alike = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(alike, torch.arange(len(z)).roll(len(one)))


def test_quirk_simclr_attack_pair_is_oneself() -> None:
    """In the attack, official compares the perturbed second view with its own clean copy, corrected with the first view."""
    learner: Any
    learner, samples = begun("adv_simclr(official, widths=(16, 8))")
    twin = copy.deepcopy(learner.inner)
    one, two = twin.draw(samples, when())
    net = network(twin)

    def pair(clean: Tensor, x: Tensor) -> Tensor:
        ours, theirs = net(torch.cat([clean, x])).chunk(2)
        return simclr_loss(ours, theirs)

    delta = released_attack(two, lambda x: pair(two, x))
    pair(one, two + delta).backward()
    learner(samples, when()).loss.backward()
    assert close(gradients(learner.inner), gradients(twin), atol=1e-5)
    faced = {}
    for mode in ("official", "corrected"):
        learner, samples = begun(f"adv_simclr({mode}, widths=(16, 8))")
        kept = watched(learner)
        learner(samples, when())
        faced[mode] = kept
    assert all(torch.equal(views[0], two) for views in faced["official"][:5])
    assert torch.equal(faced["official"][5][0], one)
    assert all(torch.equal(views[0], one) for views in faced["corrected"])
    assert torch.equal(faced["official"][0][1], two)
    assert torch.equal(faced["corrected"][0][1], two)


@pytest.mark.parametrize("name", ["adv_emp", "cf_amc_ssl"])
def test_quirk_tcr_eps_is_squared(name: str) -> None:
    losses = {}
    for mode, eps in (("official", 0.2), ("corrected", 0.04)):
        learner: Any
        learner, samples = begun(f"{name}({mode}, widths=(16, 8), views=random_crops(4))")
        views = learner.inner.draw(samples, when())
        losses[mode] = learner.inner.read(views, samples, when()).loss.mean().item()
        wanted = emp_loss(network(learner.inner)(torch.cat(views)), 4, eps).item()
        assert losses[mode] == pytest.approx(wanted, rel=1e-4)
    assert losses["official"] > losses["corrected"] + 1


# TARO and AIR


def test_quirk_an_image_may_be_its_own_target() -> None:
    pooled = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    same = torch.zeros(3, 3)
    assert targets(pooled, same, 1, 0).tolist()[0] != 0
    assert targets(pooled, same, 1, 0, "possible").tolist()[0] == 0
    assert build("taro(mode=official)", "Method").own == "possible"
    assert build("taro", "Method").own == "excluded"


def test_quirk_airs_divergence_misses_a_logarithm() -> None:
    one = torch.tensor([0.2, 0.3, 0.5])
    two = torch.tensor([0.1, 0.6, 0.3])
    assert float(kl_sum(one, one, "corrected")) == pytest.approx(0, abs=1e-7)
    assert float(kl_sum(one, two, "corrected")) == pytest.approx(float((two * (two / one).log()).sum()), rel=1e-6)
    released = F.kl_div(one, two.log(), log_target=True, reduction="sum")
    assert float(kl_sum(one, two, "official")) == pytest.approx(float(released), rel=1e-6)
    assert abs(float(kl_sum(one, one, "official"))) > 0.1


# The learning rate


@pytest.mark.parametrize("replays", [2, 3])
def test_quirk_lr_bounce(replays: int) -> None:
    """The release's scheduler, built for one step per batch and advanced at every replay, against the schedule `bounce`."""
    batches, weight = 12, torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=batches, eta_min=0)
    steps = batches * replays
    official, corrected = build(f"bounce({replays})", "Schedule"), build("cosine", "Schedule")
    rates, straight = [], []
    for step in range(steps):
        at = When(seeds.generator("rate"), step, steps)
        assert official(at) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-6)
        rates.append(official(at))
        straight.append(corrected(at))
        optimizer.step()
        scheduler.step()
    assert straight == sorted(straight, reverse=True)
    assert rates != sorted(rates, reverse=True)
    assert rates[-1] > 0.9 if replays == 2 else rates[-1] < 0.1
