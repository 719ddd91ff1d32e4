"""The five wrappers, two batch norms, and the named methods that combine them."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from hardsight.core import seeds
from hardsight.core.errors import DataError, SpecError
from hardsight.core.when import When
from hardsight.encoders import load_encoder
from hardsight.encoders.norms import Norms, norm_as
from hardsight.losses.objective import Objective, Reading
from hardsight.specs.catalog import build
from hardsight.training.criteria.asymmetric import InfoNCE
from hardsight.training.criteria.contrast import sup_con
from hardsight.training.methods.base import Learner
from hardsight.training.methods.clusters import kmeans
from hardsight.training.methods.mixed import high
from hardsight.training.methods.taro import targets
from tests.conftest import toy_card, toy_images
from tests.training.test_grid import ENCODER, begun, train

ATTACK = "adversary(pgd(2, keep=last))"
NAMED = {
    "rocl": "rocl(widths=(16, 8))",
    "acl": "acl(widths=(16, 8))",
    "dynacl": "dynacl(widths=(16, 8))",
    "air": "air(widths=(16, 8))",
    "advcl": "advcl(widths=(16, 8), radius=3)",
    "advcl teacher": f"advcl({ENCODER}, clusters=(2, 3), widths=(16, 8), radius=3)",
    "a_infonce": "a_infonce(widths=(16, 8), radius=3)",
    "a_infonce hard": "a_infonce(pull=None, share=1, hard=1, debias=0.12, widths=(16, 8), radius=3)",
    "clae": "clae(widths=(16, 8))",
    "taro": "taro(simsiam(widths=(16, 8), predictor=8))",
    "taro barlow": "taro(barlow(widths=(16, 8)))",
    "byorl": "byorl(byol(widths=(16, 8), predictor=16))",
    "dynacl_pp": "dynacl_pp(count=3)",
    **{
        f"{name} {mode}": f"{name}({mode}, widths=(16, 8), views=random_crops({count}))"
        for name, count in (("adv_simclr", 2), ("free_simclr", 2), ("adv_emp", 4), ("cf_amc_ssl", 4))
        for mode in ("corrected", "official")
    },
}


class Split:
    """Toy images as a training split."""

    def __len__(self) -> int:
        return 8

    def sample(self, place: int):
        from hardsight.data.base import Sample

        return Sample(str(place), (toy_images(8)[place] * 255).byte(), {})


def when(place: int = 0, **known: int) -> When:
    return When(seeds.generator("robust", place), place, 4, **known)


def grads(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: one.grad.clone() for name, one in learner.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.slow
def test_a_named_method_trains(name: str) -> None:
    learner, samples = begun(NAMED[name], images=8)
    learner.prepare(Split())
    before = {key: value.detach().clone() for key, value in learner.encoder.named_parameters()}
    plain = load_encoder(ENCODER).state_dict()
    losses = train(learner, samples, 4)
    assert all(math.isfinite(loss) for loss in losses), losses
    assert any(not torch.equal(value, before[key]) for key, value in learner.encoder.named_parameters())
    assert all(part.training for part in learner.modules())
    assert learner.encoder.state_dict().keys() == plain.keys()
    load_encoder(ENCODER).load_state_dict(learner.encoder.state_dict())


# Batch norms


def normed() -> tuple[torch.nn.Module, Norms, torch.Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    return net, Norms(net), toy_images(6)


def test_each_set_of_norms_has_its_own_statistics_and_gradients() -> None:
    net, norms, x = normed()
    alone = copy.deepcopy(net)
    with norm_as(norms, "clean"):
        found = net(2 * x)
    alone(2 * x)
    assert torch.equal(found, alone(2 * x))
    assert int(net[1].num_batches_tracked) == 0
    assert torch.equal(norms.sets["clean"][0].running_mean, alone[1].running_mean) is False  # alone saw it twice
    found.sum().backward()
    assert net[1].weight.grad is None
    assert norms.sets["clean"][0].weight.grad is not None
    assert net[0].weight.grad is not None
    net(x).sum().backward()
    assert int(net[1].num_batches_tracked) == 1
    assert net[1].weight.grad is not None


def test_norms_are_put_back_after_an_error_and_may_be_nested() -> None:
    net, norms, x = normed()
    net.eval()
    norms.sets["clean"][0].bias.data.fill_(3.0)
    norms.eval()
    own = net(x)
    with norm_as(norms, "clean"):
        clean = net(x)
        with norm_as(norms, "adversarial"):
            assert torch.equal(net(x), own)
        assert torch.equal(net(x), clean)
    assert not torch.equal(own, clean)
    with pytest.raises(RuntimeError, match="stop"), norm_as(norms, "clean"):
        raise RuntimeError("stop")
    assert torch.equal(net(x), own)
    with pytest.raises(SpecError, match="adversarial, clean"), norm_as(norms, "pgd"):
        pass


def test_norms_outlive_conversion_copies_and_compilation() -> None:
    net, norms, x = normed()
    both = torch.nn.ModuleList([net, norms]).eval()
    norms.sets["clean"][0].bias.data.fill_(3.0)
    with norm_as(norms, "clean"):
        clean = net(x)
    own = net(x)
    twin = copy.deepcopy(both)
    with norm_as(twin[1], "clean"):
        assert torch.equal(twin[0](x), clean)
        assert torch.equal(net(x), own)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(twin)
    assert isinstance(twin[0][1], torch.nn.SyncBatchNorm)
    assert isinstance(twin[1].sets["clean"][0], torch.nn.SyncBatchNorm)
    fast = torch.compile(net, backend="eager")
    assert torch.equal(fast(x), own)
    with norm_as(norms, "clean"):
        assert torch.equal(fast(x), clean)
    assert torch.equal(fast(x), own)


# Dual


def test_dual_is_a_share_of_each_stream() -> None:
    parts = {}
    for share in (0.0, 0.25, 1.0):
        learner, samples = begun(f"dual(simclr(width=16), {ATTACK}, share={share})")
        step = learner(samples, when())
        parts[share] = step.loss.item()
        assert step.logs["adversarial"] > step.logs["clean"]
    assert parts[0.25] == pytest.approx(0.75 * parts[0.0] + 0.25 * parts[1.0], rel=1e-5)


@pytest.mark.parametrize("norm", ["adversarial", "clean"])
def test_dual_exports_an_ordinary_encoder_with_the_norm_it_names(norm: str) -> None:
    learner, samples = begun(f"dual(simclr(width=16), {ATTACK}, norm={norm})")
    learner(samples, when())
    other = "clean" if norm == "adversarial" else "adversarial"
    inner = learner.inner
    stem = inner.encoder.body.stem[1]
    counts = {name: int(part.num_batches_tracked) for name, part in ((norm, stem), (other, learner.norms.sets[other][0]))}
    assert counts == {"adversarial": 1, "clean": 1}
    assert not torch.equal(stem.running_mean, learner.norms.sets[other][0].running_mean)
    assert len([key for key in learner.state_dict() if key.endswith("stem.0.weight")]) == 1


def test_the_slow_copys_other_norms_follow_too() -> None:
    learner, samples = begun(
        f"dual(byol(widths=(16, 8), predictor=16, momentum=0.5), {ATTACK})".replace("0.5", "constant(0.5)")
    )
    train(learner, samples, 1)
    (slow,), (fast,) = learner.norms.under("slow.0"), learner.norms.under("encoder")
    start = load_encoder(ENCODER).body.stem[1].weight
    assert not torch.equal(fast[0].weight, start)
    assert torch.allclose(slow[0].weight, (start + fast[0].weight) / 2, atol=1e-6)


# Extra


def test_extra_is_the_mean_over_pairs_or_one_loss() -> None:
    learner, samples = begun(f"extra(simclr(width=16), {ATTACK}, by=pairs)")
    together, _ = begun(f"extra(simclr(width=16), {ATTACK})")
    pairs = learner(samples, when()).loss
    views = learner.draw(samples, when())
    assert torch.isfinite(pairs)
    assert len(views) == 2
    again, _ = begun(f"extra(simclr(width=16), {ATTACK}, again=2)")
    more = again(samples, when()).loss
    assert more.item() > together(samples, when()).loss.item()


def test_extra_refuses_what_takes_another_number_of_views() -> None:
    with pytest.raises(SpecError, match=r"extra gives dynacl|has its own training step"):
        begun(f"extra(dynacl(widths=(16, 8)), {ATTACK})")
    learner = build("simclr(width=16)", "Method").begin(load_encoder(ENCODER), toy_card(), 8)
    learner.sees = 2

    class Two:
        def begin(self, *parts: object) -> Learner:
            return learner

    two = Two()
    from hardsight.training.methods.robust.adversary import adversary
    from hardsight.training.methods.robust.extra import Extra

    two.spec = build("simclr").spec  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match=r"extra gives simclr 3 views, and it takes 2; by=pairs"):
        Extra(two, adversary(which="first"), "together", 0.0).begin(load_encoder(ENCODER), toy_card(), 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(("by", "views"), [("together", 2), ("pairs", 2)])
def test_extra_refuses_a_method_of_one_view(by: str, views: int) -> None:
    with pytest.raises(SpecError, match=f"extra gives mae {views} views, and it takes 1"):
        build(f"extra(mae, by={by})", "Method").begin(load_encoder("timm:test_vit(pretrained=False)"), toy_card(), 8)


@pytest.mark.parametrize("wrapper", ["replace", "dual", "extra", "free", "trajectory", "taro", "byorl"])
@pytest.mark.parametrize("method", ["deacl", "replace(simclr)", "free(simclr)"])
def test_a_wrapper_refuses_what_reads_no_views_of_its_own(wrapper: str, method: str) -> None:
    name = method.split("(")[0]
    with pytest.raises(SpecError, match=rf"{wrapper} cannot wrap {name}"):
        begun(f"{wrapper}({method})")


def test_small_crops_are_left_as_they_are() -> None:
    learner, samples = begun("swav(views=multicrop(2, 2, sizes=(16, 8)))")
    views = learner.draw(samples, when())
    adversary = build(ATTACK, "Adversary")
    moved = adversary(learner, views, lambda v: learner.read(v, samples, when()).loss, when())
    assert [torch.equal(one, two) for one, two in zip(views, moved, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize(("which", "left"), [("first", [False, True]), ("last", [True, False]), ("all", [False, False])])
def test_which_views_are_moved(which: str, left: list[bool]) -> None:
    learner, samples = begun("simclr(width=16)")
    views = learner.draw(samples, when())
    adversary = build(f"adversary(pgd(1, keep=last), which={which})", "Adversary")
    moved = adversary(learner, views, lambda v: learner.read(v, samples, when()).loss, when())
    assert [torch.equal(one, two) for one, two in zip(views, moved, strict=True)] == left


# Free and trajectory


def test_free_replays_the_same_views_and_stays_allowed() -> None:
    learner, samples = begun("free(simclr(width=16), replays=3)")
    seen = []
    inner = learner.inner
    read = inner.read
    inner.read = lambda views, samples, when: (seen.append(torch.cat(views).detach().clone()), read(views, samples, when))[1]
    train(learner, samples, 2)
    assert len(seen) == 6
    clean = [torch.cat(inner.draw(samples, When(seeds.generator("grid", place), place, 2))) for place in (0, 1)]
    for number, x in enumerate(seen):
        assert (x - clean[number // 3]).abs().max() <= 8 / 255 + 1e-6
        assert x.min() >= 0
        assert x.max() <= 1
    assert torch.equal(seen[0], clean[0])
    assert not torch.equal(seen[3], clean[1])  # the second batch starts from the first one's perturbation


def test_free_resumes_from_a_checkpoint() -> None:
    whole, samples = begun("free(simclr(width=16), replays=2)")
    train(whole, samples, 1)
    other, _ = begun("free(simclr(width=16), replays=2)")
    other.load_state_dict(whole.state_dict())
    assert train(whole, samples, 1) == train(other, samples, 1)


def test_free_needs_its_backward_pass() -> None:
    learner, samples = begun("free(simclr(width=16))")
    learner(samples, when())
    with pytest.raises(SpecError, match="the images have no gradient"):
        learner.after_backward(when())


def test_a_trajectorys_gradient_scales_as_its_loss() -> None:
    whole, samples = begun("trajectory(simclr(width=16), steps=2)")
    half, _ = begun("trajectory(simclr(width=16), steps=2)")
    whole(samples, when()).loss.backward()
    (0.5 * half(samples, when()).loss).backward()
    for name, grad in grads(half).items():
        assert torch.allclose(2 * grad, grads(whole)[name], atol=1e-7), name


def test_a_trajectory_of_no_steps_is_the_method() -> None:
    stepless, samples = begun("trajectory(simclr(width=16), steps=0)")
    plain, _ = begun("simclr(width=16)")
    stepless(samples, when()).loss.backward()
    plain(samples, when()).loss.backward()
    for one, two in zip(stepless.inner.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


# Criteria, clusters, targets, frequencies


def embeddings(views: int, count: int = 5, dim: int = 6) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(3)
    return tuple(torch.randn(count, dim, generator=rng, dtype=torch.float64).requires_grad_(True) for _ in range(views))


@pytest.mark.parametrize("views", [2, 3, 4])
def test_info_nce_is_the_unlabelled_sup_con(views: int) -> None:
    z = embeddings(views)
    wanted = sup_con(z, torch.arange(5), 0.5)
    assert torch.allclose(InfoNCE(0.5)(z, None, None, torch.empty(0)), wanted)
    assert torch.allclose(InfoNCE(0.5, pull=0.5)(z, None, None, torch.empty(0)), wanted)


def test_an_inferior_positive_pulls_the_clean_view_less() -> None:
    def reach(pull: float) -> tuple[float, float]:
        z = embeddings(2)
        loss = InfoNCE(0.5, pull)(z, None, None, torch.empty(0)).sum()
        return tuple(float(grad.norm()) for grad in torch.autograd.grad(loss, z, allow_unused=True))  # type: ignore[return-value]

    adversarial, clean = zip(*(reach(pull) for pull in (0.0, 0.2, 0.5)), strict=True)
    assert clean[0] == pytest.approx(0, abs=1e-12)
    assert clean[0] < clean[1] < clean[2]
    assert adversarial[0] > adversarial[1] > adversarial[2]


def test_hard_negatives_are_the_formula() -> None:
    z, temperature, hard, debias = embeddings(3), 0.5, 1.0, 0.12
    flat = F.normalize(torch.cat(z), dim=1)
    total = torch.zeros(5, dtype=torch.float64)
    for a, b in itertools.permutations(range(3), 2):
        for i in range(5):
            anchor = flat[a * 5 + i]
            alike = [torch.exp(anchor @ other / temperature) for other in flat]
            positives = [alike[v * 5 + i] for v in range(3) if v != a]
            negatives = torch.stack([alike[v * 5 + j] for v in range(3) for j in range(5) if j != i])
            pos, many = sum(positives) / 2, len(negatives)
            heavy = negatives**hard
            rest = (heavy * negatives).sum() / heavy.mean()
            rest = max((rest - debias * many * pos) / (1 - debias), torch.tensor(many * math.exp(-1 / temperature)))
            total[i] -= torch.log(alike[b * 5 + i] / (pos + rest)) / 6
    found = InfoNCE(temperature, hard=hard, debias=debias)(z, None, None, torch.empty(0))
    assert torch.allclose(found, total)


def test_kmeans_finds_the_clusters() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 4
    x = torch.eye(4)[truth] * 10 + torch.randn(60, 4, generator=rng)
    found = kmeans(x, 4, torch.Generator().manual_seed(1))
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 4
    assert torch.equal(found, kmeans(x, 4, torch.Generator().manual_seed(1)))
    assert len(set(kmeans(x, 60, rng).tolist())) == 60
    with pytest.raises(DataError, match="61 clusters of 60 images"):
        kmeans(x, 61, rng)


def test_pseudo_labels_come_before_the_first_step() -> None:
    for name in ("advcl teacher", "dynacl_pp"):
        learner, samples = begun(NAMED[name])
        with pytest.raises(SpecError, match="no pseudo-labels"):
            learner(samples, when())


def test_the_second_stage_probes_first_and_then_hardens() -> None:
    learner, samples = begun("dynacl_pp(count=3, head=0.5)", images=8)
    learner.prepare(Split())
    statistics = {name: one.clone() for name, one in learner.encoder.named_buffers()}
    step = learner(samples, when(0))
    step.loss.backward()
    assert step.logs == {"stage": 1.0}
    assert all(one.grad is None for one in learner.encoder.parameters())
    assert all(torch.equal(one, statistics[name]) for name, one in learner.encoder.named_buffers())
    step = learner(samples, when(3))
    step.loss.backward()
    assert step.logs["firm"] > 0
    assert all(one.grad is not None for one in learner.encoder.parameters())


def test_high_frequencies_are_the_released_masks() -> None:
    x = toy_images(2).double()
    shifted = torch.fft.fftshift(torch.fft.fftn(x, dim=(-2, -1)), dim=(-2, -1))
    mask = torch.tensor([[math.hypot(i - 8, j - 8) >= 3 for j in range(16)] for i in range(16)])
    wanted = torch.fft.ifftn(torch.fft.ifftshift(shifted * mask, dim=(-2, -1)), dim=(-2, -1)).real
    assert torch.allclose(high(x, 3), wanted, atol=1e-6)
    assert high(torch.ones(1, 3, 16, 16), 1).abs().max() < 1e-6


def test_targets_are_alike_and_uncertain_and_never_oneself() -> None:
    pooled = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    same = torch.zeros(4, 3)
    assert targets(pooled, same, 1, 0).tolist() == [1, 0, 3, 2]
    sure = torch.tensor([[0.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0], [1.0, 0, 0]])
    assert targets(pooled, sure, 0, 1).tolist() == [3, 0, 0, 0]


def test_byorls_target_is_of_clean_views() -> None:
    learner, samples = begun("byorl(byol(widths=(16, 8), predictor=16), adversary(pgd(3, keep=last)))")
    calm, _ = begun("byorl(byol(widths=(16, 8), predictor=16), adversary(pgd(3, keep=last), linf(0)))")
    plain, _ = begun("byol(widths=(16, 8), predictor=16)")
    assert calm(samples, when()).loss.item() == pytest.approx(plain(samples, when()).loss.item(), rel=1e-4)
    assert learner(samples, when()).loss > calm(samples, when()).loss


def test_batch_norm_in_train_mode_sees_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack inside training may not cut a batch whose statistics couple its images; in eval mode it may."""
    net, seen = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), []
    net.register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    objective = Objective(lambda x, target, progress: Reading(net(x).square().flatten(1).sum(1)))
    monkeypatch.setattr("hardsight.losses.objective.PIECE", 1)
    for mode, least in (("train", 12), ("eval", 1)):
        build(f"adversary(pgd(2, early_exit=True), mode={mode})", "Adversary").on(net, toy_images(12), objective, when())
        assert min(seen) == least
        seen.clear()
