"""Segmentation and depth as in the papers and done right: windows, heads, metrics, and the quirks that must be avoided."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders.base import Encoder
from hardsight.losses.depth import gradient_gap, silog
from hardsight.measure.evaluate import evaluate
from hardsight.metrics import of
from hardsight.metrics.worst import counts_for
from hardsight.probes import bank as banks
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.tasks.base import System, Task
from hardsight.tasks.depth import median_scaled
from hardsight.tasks.heads import last_four, spread_four
from hardsight.tasks.windows import slide, starts
from tests.conftest import MASKS, toy_encoder, toy_images, toy_system, toy_target

K = len(MASKS)
HEADS = ["segment(head=linear4)", "segment(head=fcn)", "segment(head=deeplab)", "depth(head=linear4)"]


def task_of(spec: str) -> Any:
    return build(spec, "Task")


def figures(task: Task, output: Tensor, target: Tensor) -> dict[str, float]:
    return of(task.name).summary({key: value.detach().numpy() for key, value in task.counts(output, target).items()})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("side", "window", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 6]),
        (10, 10, 3, [0]),
        (10, 99, 3, [0]),
        (11, 4, 3, [0, 3, 6, 7]),
        (5, 4, 4, [0, 1]),
    ],
)
def test_windows_cover_a_side_and_end_with_it(side: int, window: int, stride: int, expected: list[int]) -> None:
    assert starts(side, window, stride) == expected
    assert {p for start in expected for p in range(start, min(start + window, side))} == set(range(side))


@pytest.mark.parametrize("window", ["16", "(16, 16)", "(99, 40)"])
def test_a_window_that_is_the_whole_image_changes_nothing(window: str) -> None:
    whole, x = toy_system(task_of("segment")), toy_images(3)
    assert torch.equal(toy_system(task_of(f"segment(window={window})")).output(x), whole.output(x))


@pytest.mark.parametrize("sides", [(9, 13), (12, 12), (7, 30)])
def test_overlaps_are_means_of_logits(sides: tuple[int, int]) -> None:
    """Each window has one constant logit: a pixel gets the mean over the windows that contain it, computed by hand."""
    x, window, stride, values = torch.zeros(2, 3, *sides), (5, 6), (3, 4), []

    def run(crop: Tensor) -> Tensor:
        values.append(float(len(values) ** 2))
        return torch.full((len(crop), K, *crop.shape[-2:]), values[-1])

    found = slide(x, run, window, stride)
    corners = [(i, j) for i in starts(sides[0], 5, 3) for j in starts(sides[1], 6, 4)]
    assert len(values) == len(corners), "one forward pass per window (quirk D1)"
    for i in range(sides[0]):
        for j in range(sides[1]):
            over = [v for v, (a, b) in zip(values, corners, strict=True) if a <= i < a + 5 and b <= j < b + 6]
            assert found[0, 0, i, j] == pytest.approx(sum(over) / len(over))


def test_constant_logits_stay_what_they_are() -> None:
    logits = torch.randn(1, K, 1, 1, generator=rng())
    found = slide(torch.zeros(2, 3, 17, 23), lambda x: logits.expand(len(x), K, *x.shape[-2:]), (6, 7), (4, 2))
    assert torch.allclose(found, logits.expand(2, K, 17, 23), atol=1e-6)


def test_a_system_of_windows_is_its_windows_put_together() -> None:
    system, x = toy_system(task_of("segment(window=(8, 12), stride=(5, 12))")), toy_images(2, 18)
    total, count = torch.zeros(2, K, 18, 18), torch.zeros(18, 18)
    for i in (0, 5, 10):
        for j in (0, 6):
            total[:, :, i : i + 8, j : j + 12] += system.head(system.encoder(x[:, :, i : i + 8, j : j + 12]))
            count[i : i + 8, j : j + 12] += 1
    assert torch.allclose(system.output(x), total / count, atol=1e-6)
    assert not torch.allclose(system.output(x), toy_system(task_of("segment")).output(x), atol=1e-2)
    alone = torch.cat([system.output(one[None]) for one in x])
    assert torch.allclose(system.output(x), alone, atol=1e-6), "any batch size (quirk D2)"


def test_windows_are_part_of_what_is_attacked() -> None:
    system, x = toy_system(task_of("segment(window=8)")), toy_images(4, 18).requires_grad_(True)
    mask = system.output(x).argmax(1)
    mask[:, :2] = 255
    system.task.loss(system.output(x), mask).sum().backward()
    assert x.grad is not None
    assert x.grad[:, :, 4:].abs().amax(1).gt(0).float().mean() > 0.99
    encoder, head = system.encoder.double(), system.head.double()
    point = toy_images(1, 9).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: slide(z, lambda w: head(encoder(w)), (5, 8), (4, 5))[:, :1, ::4], point)


@pytest.mark.parametrize("attack", ["segpgd(8)", "cospgd(8)", "attack(pgd(8), loss=ce)"])
def test_attacks_pass_through_windows(attack: str) -> None:
    system, x, threat = (
        toy_system(task_of("segment(window=8, stride=6)")),
        toy_images(4, 18),
        build("linf(16/255)", "Threat"),
    )
    mask = system.output(x).argmax(1)
    mask[:, :2] = 255
    rows, _ = evaluate(system, build(attack, "Attack"), threat, x, mask, ["i"] * 4, rng())
    noise, _ = evaluate(system, build("pgd(0)", "Attack"), threat, x, mask, ["i"] * 4, rng())
    assert (rows["error"] > noise["error"] + 0.05).all()
    assert (rows["counts.labelled"].sum(1) == 16 * 18).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("segment(stride=4)", "without a window"),
        ("segment(window=8, stride=9)", "at most the window"),
        ("segment(window=0)", "at least 1"),
        ("segment(window=8, stride=0)", "at least 1"),
    ],
)
def test_windows_that_leave_gaps_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec)


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return build("tiny", "Encoder")


@pytest.fixture(scope="module")
def scenes() -> Any:
    return open_data("made(size=32, train=32, test=16)")


@pytest.mark.parametrize("spec", HEADS)
@pytest.mark.slow
def test_heads_learn_and_a_seed_fixes_them(spec: str, tiny: Encoder, scenes: Any) -> None:
    one, two = (fit_probe(tiny, spec, scenes, "probe(epochs=6, batch=16)", seed=1) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(one.head.state_dict().values(), two.head.state_dict().values(), strict=True)
    )
    untrained = fit_probe(tiny, spec, scenes, "probe(epochs=1, batch=32, lr=1e-9)", seed=1)
    momenta = {part.momentum for part in one.head.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    assert momenta == ({0.1} if spec in ("segment(head=fcn)", "segment(head=deeplab)") else {None})
    batch = load(scenes.split("train"), list(range(16)))
    x, y = pixels(batch.images, "cpu"), batch.target[one.task.target]
    assert one.task.loss(one.output(x), y).mean() < 0.8 * untrained.task.loss(untrained.output(x), y).mean()
    assert not any(part.training or isinstance(part, nn.Dropout) for part in one.head.modules())
    alone = torch.cat([one.output(image[None]) for image in x[:4]])
    assert torch.allclose(one.output(x)[:4], alone, atol=1e-4), "a trained batch norm does not depend on the batch"


@pytest.mark.parametrize("spec", ["segment(head=linear4)", "depth(head=linear4)"])
def test_a_bank_that_keeps_nothing_trains_the_same_head(
    spec: str, tiny: Encoder, scenes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = fit_probe(tiny, spec, scenes, "probe(epochs=1, batch=16)").head.state_dict()
    monkeypatch.setattr(banks, "CACHE_BYTES", 0)
    recomputed = fit_probe(tiny, spec, scenes, "probe(epochs=1, batch=16)").head.state_dict()
    assert all(torch.allclose(kept[name], recomputed[name], atol=1e-5) for name in kept)


def test_four_layers_are_the_encoders_own(tiny: Encoder, scenes: Any) -> None:
    head = task_of("segment(head=linear4)").head(tiny, scenes.card)
    assert head.layers == (0, 1, 2, 3)
    assert head.linear.in_channels == 16 + 32 + 80 + 144
    x = toy_images(2, 32)
    bank = Bank(tiny, scenes.split("train"), [0, 1], True, layers=head.layers)
    features = bank.batch(torch.tensor([0, 1]), True)[0]
    assert features.dense is None
    assert [one.shape[1] for one in features.layers] == [16, 32, 80, 144]
    system = System(tiny, head.eval(), task_of("segment(head=linear4)"))
    first = system.output(x)
    assert first.shape[-2:] == (32, 32)
    head.linear.weight.data[:, :16] = 0
    assert not torch.allclose(system.output(x), first)

    class Deep(nn.Module):
        body = type("Body", (), {"depth": 12})()

    assert last_four(Deep()) == (8, 9, 10, 11)  # type: ignore[arg-type]
    assert spread_four(Deep()) == (2, 5, 8, 11)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="has 1"):
        last_four(toy_encoder())


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
def test_deep_heads_are_torchvisions(kind: str, tiny: Encoder, scenes: Any) -> None:
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead
    from torchvision.models.segmentation.fcn import FCNHead

    mine = task_of(f"segment(head={kind})").head(tiny, scenes.card).eval()
    classes = len(scenes.card.mask_classes)
    theirs = (FCNHead if kind == "fcn" else DeepLabHead)(tiny.card.dense_dim, classes).eval()
    theirs.load_state_dict(mine.net.state_dict())
    features = tiny(toy_images(2, 32))
    expected = F.interpolate(theirs(features.dense), (32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(mine(features), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_miou_with_absent_classes_equals_torchmetrics_and_scikit_learn(seed: int) -> None:
    from sklearn.metrics import jaccard_score
    from torchmetrics.classification import MulticlassJaccardIndex

    logits = torch.randn(5, K, 9, 7, generator=rng(seed))
    logits[:, 2] = -99  # never predicted
    mask = torch.randint(0, K, (5, 9, 7), generator=rng(seed + 9))
    mask[mask == 4] = 0  # absent, but predicted
    mask[mask == 2] = 1  # neither
    mask[torch.rand(mask.shape, generator=rng(seed)) < 0.3] = 255
    found = figures(task_of("segment"), logits, mask)["miou"]
    assert found == pytest.approx(float(MulticlassJaccardIndex(K, ignore_index=255)(logits.argmax(1), mask)), abs=1e-6)
    valid = mask != 255
    assert found == pytest.approx(jaccard_score(mask[valid], logits.argmax(1)[valid], average="macro"), abs=1e-6)


@pytest.fixture
def depths() -> tuple[Tensor, Tensor]:
    """Outputs and targets of images with very different errors and unmeasured pixels; the last image has no measured one."""
    output, truth = (0.5 + 9 * torch.rand(5, 48, 64, generator=rng(seed)) for seed in (3, 4))
    truth[torch.rand(truth.shape, generator=rng(5)) < 0.25] = 0
    output[0] = truth[0] + 0.1
    truth[4] = 0
    return output, truth


def by_hand(d: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    gap = np.log(d) - np.log(t)
    return math.sqrt(((d - t) ** 2).mean()), math.sqrt((gap**2).mean() - gap.mean() ** 2)


def test_means_over_images_are_the_formulas(depths: tuple[Tensor, Tensor]) -> None:
    output, truth = depths
    task, found = task_of("depth"), figures(task_of("depth"), output, truth)
    images = [by_hand(output[i][truth[i] > 0].double().numpy(), truth[i][truth[i] > 0].double().numpy()) for i in range(4)]
    assert found["image_rmse"] == pytest.approx(np.mean([rmse for rmse, _ in images]), rel=1e-6)
    assert found["silog"] == pytest.approx(np.mean([gap for _, gap in images]), rel=1e-6)
    assert figures(task, 3 * truth.clamp_min(1), truth)["silog"] >= 0
    assert figures(task, 3 * truth, truth)["silog"] == pytest.approx(0, abs=1e-3), "silog ignores a common factor"
    counts = {key: value.numpy() for key, value in task.counts(output, truth).items()}
    old = {key: value for key, value in counts.items() if "image" not in key}
    assert of("depth").summary(old) == {key: found[key] for key in list(found)[:6]}, "older counts can still be read"
    rows = {f"{place}.{key}": value for place in ("counts", "members.a", "members.b") for key, value in old.items()}
    assert counts_for(rows, of("depth"), "silog").keys() == old.keys()
    assert counts_for(rows, of("depth"), "rmse").keys() == old.keys()


def test_alignment_is_by_the_ratio_of_medians(depths: tuple[Tensor, Tensor]) -> None:
    output, truth = depths
    task, plain = task_of("depth(align=median)"), task_of("depth")
    valid, found = truth > 0, median_scaled(output, truth)
    for i in range(4):
        factor = np.median(truth[i][valid[i]].numpy()) / np.median(output[i][valid[i]].numpy())
        assert torch.allclose(found[i], output[i] * float(factor), rtol=1e-5)
    assert torch.equal(found[4], output[4])
    expected = math.sqrt(float((found - truth)[valid].double().square().mean()))
    assert figures(task, output, truth)["rmse"] == pytest.approx(expected, rel=1e-6)
    factors = torch.tensor([0.3, 1.0, 2.0, 7.0, 1.0]).view(-1, 1, 1)
    assert figures(task, truth * factors, truth)["rmse"] == pytest.approx(0, abs=1e-5)
    assert task.error(truth * factors, truth).max() < 1e-5
    assert plain.error(truth * factors, truth).max() > 0.5
    broken = torch.full_like(output, float("nan"))
    assert task.error(broken[:4], truth[:4]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("crop", "sides", "inner"),
    [
        ("eigen", (480, 640), (slice(45, 471), slice(41, 601))),
        ("eigen", (240, 320), (slice(22, 235), slice(20, 300))),
        ("eigen", (48, 64), (slice(4, 47), slice(4, 60))),
        ("garg", (375, 1242), (slice(153, 371), slice(44, 1197))),
    ],
)
def test_crops_are_the_papers(crop: str, sides: tuple[int, int], inner: tuple[slice, slice]) -> None:
    truth = torch.ones(1, *sides)
    found = task_of(f"depth(crop={crop})").measured(truth)
    expected = torch.zeros_like(truth)
    expected[(0, *inner)] = 1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("spec", ["depth(crop=eigen)", "depth(high=5.0)", "depth(crop=eigen, high=5.0, align=median)"])
def test_what_does_not_count_counts_nowhere(spec: str, depths: tuple[Tensor, Tensor]) -> None:
    """Not in the loss, the error or the metrics, not in a loss that an attack maximizes, not in the number of pixels."""
    (output, truth), task = depths, task_of(spec)
    inner = task.measured(truth)
    outside = (truth > 0) & (inner == 0)
    assert outside.any() and (inner > 0).any()
    other = torch.where(outside, 77.0, output)
    for read in (task.loss, task.error):
        assert torch.equal(read(other, truth), read(output, truth))
    assert figures(task, other, truth) == figures(task, output, truth)
    assert task.counts(output, truth)["pixels"].tolist() == (inner > 0).flatten(1).sum(1).tolist()
    system, x = toy_system(task), toy_images(5, 64)[:, :, :48]
    for loss in ("depth_loss", "depth_absrel", "depth_rmse"):
        attack = build(f"attack(pgd(1), loss={loss})", "Attack")
        one, two = (attack.objective(system, x, y)(x) for y in (truth, inner))
        assert torch.equal(one.loss, two.loss)
        assert one.error is not None and two.error is not None
        assert torch.equal(one.error, two.error)


# the quirks of the code released with paper 002 (SSL robustness across tasks), each emulated and shown to differ from ours


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(3, K, 6, 6, generator=rng(1))


@pytest.fixture
def mask() -> Tensor:
    return torch.randint(0, K, (3, 6, 6), generator=rng(2))


def slope(loss: Any, point: Tensor) -> Tensor:
    leaf = point.clone().requires_grad_(True)
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def test_quirk_a1_the_background_is_attacked(logits: Tensor, mask: Tensor) -> None:
    mask[:, 0] = 255
    quirk = slope(lambda z: F.cross_entropy(z, torch.where(mask == 255, 0, mask), ignore_index=0), logits)
    for name in ("segpgd_ce", "cospgd_ce"):
        ours = slope(lambda z, name=name: build(name, "Loss")(z, mask, 0.5), logits)
        assert not quirk.abs().sum(1)[mask == 0].any()
        assert ours.abs().sum(1)[mask == 0].gt(0).all()
        assert not ours.abs().sum(1)[mask == 255].any()


def apart(z: Tensor, mask: Tensor, weight: float) -> Tensor:
    """Quirk A2's loss: separate means over the correct and over the misclassified pixels of a whole batch."""
    pixel, right = F.cross_entropy(z, mask, reduction="none", ignore_index=255), z.argmax(1) == mask
    wrong = ~right & (mask != 255)
    return (1 - weight) * pixel[right].mean() + weight * pixel[wrong].mean()


def test_quirk_a2_every_pixel_has_the_same_share(mask: Tensor) -> None:
    """One pixel correct, all others misclassified: at the last step each has weight 1/2, also the single one."""
    z = 4 * F.one_hot((mask + 1) % K, K).movedim(-1, 1).float()[:1]
    z[:, :, 0, 0] = 2 * F.one_hot(mask[:1, 0, 0], K).float()
    quirk = slope(lambda one: apart(one, mask[:1], 0.5), z).norm(dim=1)[0]
    ours = slope(lambda one: build("segpgd_ce", "Loss")(one, mask[:1], 1.0), z).norm(dim=1)[0]
    own = slope(lambda one: F.cross_entropy(one, mask[:1], reduction="sum"), z).norm(dim=1)[0]
    assert torch.allclose(ours / own, torch.full_like(own, 0.5 / 36))
    assert (quirk / own)[0, 0] == pytest.approx(0.5, rel=1e-5)
    assert (quirk / own)[1, 1] == pytest.approx(0.5 / 35, rel=1e-4)


@pytest.mark.parametrize("case", ["all right", "all wrong", "all ignored"])
def test_quirk_a3_an_empty_set_is_no_nan(case: str, mask: Tensor) -> None:
    z = 9 * F.one_hot(mask if case == "all right" else (mask + 1) % K, K).movedim(-1, 1).float()
    mask = torch.full_like(mask, 255) if case == "all ignored" else mask
    assert torch.isnan(apart(z, mask, 0.25))
    for name in ("segpgd_ce", "cospgd_ce", "pixel_margin"):
        loss = build(name, "Loss")
        assert torch.isfinite(loss(z, mask, 0.5)).all()
        assert torch.isfinite(slope(lambda one, loss=loss: loss(one, mask, 0.5), z)).all()


def test_quirk_a4_windows_average_logits_and_not_probabilities(mask: Tensor) -> None:
    """A confident model: on averaged probabilities the cross-entropy varies by at most 1, and has zero gradient."""
    z = 20 * F.one_hot((mask + 1) % K, K).movedim(-1, 1).float()
    at = lambda turn: lambda one: slide(one, turn, (4, 4), (2, 2))  # noqa: E731
    quirk, ours = at(lambda part: part.softmax(1)), at(lambda part: part)
    pixel = lambda out: F.cross_entropy(out, mask, reduction="none")  # noqa: E731
    assert pixel(quirk(z)).max() - pixel(quirk(z.flip(1))).min() <= 1 + 1e-6
    assert pixel(ours(z)).max() > 15
    zero, steep = (slope(lambda one, out=out: pixel(out(one)).sum(), z).abs().amax(1) for out in (quirk, ours))
    assert zero.max() < 1e-6
    assert steep.min() > 0.5


@pytest.mark.parametrize("name", ["segment", "depth"])
def test_quirks_a5_and_b1_nothing_attacked_is_the_clean_image(name: str) -> None:
    system, x = toy_system(task_of(name)), toy_images(4)
    target = toy_target(system.task, 4)
    clean = system.output(x)
    rows, _ = evaluate(system, build(system.task.attack, "Attack"), build("linf(0)", "Threat"), x, target, ["i"] * 4, rng())
    for key, value in system.task.counts(clean, target).items():
        assert np.array_equal(rows[f"counts.{key}"], value.detach().numpy())
    system.encoder.mean.zero_()
    system.encoder.std.fill_(1)  # as if the attacked image were not normalized
    assert not torch.allclose(system.output(x), clean, atol=0.1)


def test_quirk_b2_not_every_pixel_is_pushed_one_way(depths: tuple[Tensor, Tensor]) -> None:
    output, truth = depths[0][1:4], depths[1][1:4].clamp_min(0.3)

    def warm(d: Tensor) -> Tensor:
        return (0.15 * (d.log() - truth.log()).mean((1, 2)).square()).sqrt()

    one_way = slope(warm, output).sign().flatten(1)
    assert (one_way.amin(1) == one_way.amax(1)).all()
    for loss in (lambda d: silog(d, truth), lambda d: build("depth_loss", "Loss")(d, truth)):
        ours = slope(loss, output).flatten(1)
        assert ((ours > 0).any(1) & (ours < 0).any(1)).all()


def test_quirk_b3_clean_and_attacked_are_measured_on_the_same_pixels() -> None:
    system, x = toy_system(task_of("depth(high=6.0)")), toy_images(4)
    target = toy_target(system.task, 4)
    valid = (target > 0) & (target <= 6)
    rows, seen = evaluate(
        system, build("depthpgd(3)", "Attack"), build("linf(8/255)", "Threat"), x, target, ["i"] * 4, rng(), gallery=4
    )
    assert rows["counts.pixels"].tolist() == valid.flatten(1).sum(1).tolist()
    assert rows["counts.pixels"].tolist() == system.task.counts(system.output(x), target)["pixels"].tolist()
    assert seen is not None
    gap = torch.from_numpy(seen["answer"]) - target
    ours, quirk = gap[valid].square().mean().sqrt(), gap.square().mean().sqrt()
    assert of("depth").summary({k[7:]: v for k, v in rows.items() if k.startswith("counts.")})["rmse"] == pytest.approx(
        float(ours), rel=1e-4
    )
    assert abs(float(quirk - ours)) > 0.1


def test_quirk_b4_the_headline_is_the_sets_rmse(depths: tuple[Tensor, Tensor]) -> None:
    output, truth = depths
    found, metric = figures(task_of("depth"), output, truth), of("depth")
    pooled = (output - truth)[truth > 0].square().mean().sqrt()
    assert found[metric.headline] == pytest.approx(float(pooled), rel=1e-5)
    assert found["image_rmse"] < 0.95 * found["rmse"]
    assert metric.labels["rmse"][0] != metric.labels["image_rmse"][0]


def test_quirk_b5_the_root_has_a_slope_at_no_error() -> None:
    truth = 1 + torch.rand(2, 6, 6, generator=rng())

    def rootless(d: Tensor) -> Tensor:
        gap = d.log() - truth.log()
        return (gap.var((1, 2), correction=0) + 0.15 * gap.mean((1, 2)).square()).sqrt()

    assert not torch.isfinite(slope(rootless, truth)).all()
    assert torch.isfinite(slope(lambda d: silog(d, truth), truth)).all()


def test_quirk_c_neighbours_are_those_of_the_image() -> None:
    """Theirs is zero for gaps that vary only along the width; ours is zero for gaps that vary only between images."""

    def theirs(gap: Tensor) -> Tensor:
        return sum((gap[::s, ::s].diff(dim=d).abs().mean() for s in (1, 2, 4, 6) for d in (0, 1)), torch.zeros(()))

    truth = torch.ones(12, 16, 16)
    width = torch.linspace(1, 3, 16).expand(12, 16, 16)
    image = torch.linspace(1, 3, 12)[:, None, None].expand(12, 16, 16)
    assert theirs(width.log()) == 0
    assert theirs(image.log()) > 0.05
    assert gradient_gap(width, truth).min() > 0.05
    assert gradient_gap(image, truth).max() < 1e-6
    assert torch.allclose(gradient_gap(width, truth), gradient_gap(width.mT, truth))
