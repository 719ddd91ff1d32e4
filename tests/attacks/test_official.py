"""Paper 002's released evaluation: each function written out step by step, and that each quirk is in `official=...` only.

The loops do what layer6ai-labs/ssl-robustness does, for one image at a time, as its dense evaluation runs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.official import as_run, mirrored
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.encoders.base import Encoder
from hardsight.losses import released
from hardsight.measure.cells import without_quirks
from hardsight.measure.checks.base import Case
from hardsight.measure.evaluate import evaluate
from hardsight.measure.plan import plan
from hardsight.metrics import counts_in, of
from hardsight.specs.catalog import build
from hardsight.specs.quirks import QUIRKS, switched
from hardsight.specs.recipe import from_dict
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system, toy_target

EPS, STEP, STEPS = 8 / 255, 2 / 255, 20
WINDOW = "window=8, stride=4"
SWITCHES = [(quirk.name, task) for quirk in QUIRKS for task in quirk.tasks]


def case_of(spec: str, count: int = 1) -> tuple[System, Tensor, Any]:
    system = toy_system(build(spec, "Task"))
    return system, toy_images(count), toy_target(system.task, count)


def found(system: System, x: Tensor, y: Any, attack: str = "") -> Tensor:
    run = as_run(build(attack or system.task.attack, "Attack"), system)
    return run.attack(run.under, x, y, linf(EPS), torch.Generator().manual_seed(5)).x_adv


def start(x: Tensor, clamped: bool = True) -> Tensor:
    begun = x + (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 1) * EPS
    return begun.clamp(0, 1) if clamped else begun


def climbed(x: Tensor, begun: Tensor, loss: Any) -> Tensor:
    """The released loop: the sign of the gradient, then delta clamped to the pixels' range and to eps."""
    x_adv = begun
    for step in range(STEPS):
        x_adv = x_adv.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(loss(x_adv, step), x_adv)
        delta = (x_adv.detach() + STEP * grad.sign()).clamp(0, 1) - x
        x_adv = x + delta.clamp(-EPS, EPS)
    return x_adv


def averaged_softmax(system: System, x: Tensor) -> Tensor:
    """Its sliding windows of 8 at stride 4, averaged after the softmax."""
    total = torch.zeros(len(x), 6, 16, 16)
    count = torch.zeros(16, 16)
    for top in (0, 4, 8):
        for left in (0, 4, 8):
            crop = x[..., top : top + 8, left : left + 8]
            part = system.head(system.encoder(crop)).softmax(1)
            padded = F.pad(part, (left, 8 - left, top, 8 - top))
            total = total + padded
            count[top : top + 8, left : left + 8] += 1
    return total / count


def test_segpgd_is_the_released_loop() -> None:
    system, x, mask = case_of(f"segment({WINDOW}, official=[A1, A2, A4, A6])")
    mask = torch.where(mask == 255, 0, mask)  # as its converters write masks

    def loss(x_adv: Tensor, step: int) -> Tensor:
        logits = averaged_softmax(system, x_adv)
        right = logits.argmax(1) == mask
        pixels, share, total = logits.permute(0, 2, 3, 1), step / (2 * STEPS), torch.zeros(())
        for chosen, weight in ((right, 1 - share), (~right, share)):
            if bool((mask[chosen] != 0).any()):  # else its mean is NaN, with a gradient of zero
                total = total + weight * F.cross_entropy(pixels[chosen], mask[chosen], ignore_index=0)
        return total

    assert (found(system, x, mask) - climbed(x, start(x), loss)).abs().max() < 1e-5


def sig(output: Tensor, target: Tensor, warm: bool) -> Tensor:
    valid = target > 0
    g = torch.log(output[valid] + 0.001) - torch.log(target[valid] + 0.001)
    return torch.sqrt(0.15 * g.mean() ** 2) if warm else torch.sqrt(torch.var(g) + 0.15 * g.mean() ** 2)


def slopes(output: Tensor, target: Tensor) -> Tensor:
    total = torch.zeros(())
    for scale in (1, 2, 4, 6):
        small, truth = output[::scale, ::scale], target[::scale, ::scale]
        mask = truth > 0
        g = (torch.log(small + 0.001) - torch.log(truth + 0.001)) * mask
        batch = ((g[:-2] - g[2:]).abs() * (mask[:-2] & mask[2:])).sum()
        height = ((g[:, :-2] - g[:, 2:]).abs() * (mask[:, :-2] & mask[:, 2:])).sum()
        total = total + (batch + height) / mask.sum()
    return total


@pytest.mark.parametrize(("quirks", "warm"), [("[A6, B2, B5, C]", True), ("[A6, B5, C]", False)])
def test_depthpgd_is_the_released_loop(quirks: str, warm: bool) -> None:
    system, x, depth = case_of(f"depth(official={quirks})")

    def loss(x_adv: Tensor, step: int) -> Tensor:
        output = system.head(system.encoder(x_adv))
        return sig(output, depth, warm) + 0.5 * slopes(output, depth)

    assert (found(system, x, depth) - climbed(x, start(x), loss)).abs().max() < 1e-5


def test_the_training_loss_of_depth_differs_over_batch_and_height() -> None:
    system, x, depth = case_of("depth(official=[B5, C])", 9)
    output = system.output(x)
    assert torch.allclose(released.gradients(output, depth), slopes(output, depth).expand(9), atol=1e-5)
    assert slopes(output, depth) != slopes(output[:1], depth[:1])
    wide = output[:1, :1].expand(1, 16, 16)
    assert released.gradients(wide, torch.ones(1, 16, 16)) < 1e-6  # a map that varies in width alone has none
    each = torch.stack([sig(one, truth, False) for one, truth in zip(output, depth, strict=True)])
    assert torch.allclose(system.task.loss(output, depth), each + 0.5 * slopes(output, depth), atol=1e-5)


def test_downstream_pgd_is_the_released_loop() -> None:
    system, x, label = case_of("classify(official=all)", 4)

    def loss(x_adv: Tensor, step: int) -> Tensor:
        logits = system.head(system.encoder(x_adv))
        scale = torch.maximum(logits, torch.ones_like(logits)).max(1, keepdim=True)[0].detach()
        return F.cross_entropy(logits / scale, label)

    assert (found(system, x, label) - climbed(x, start(x, clamped=False), loss)).abs().max() < 1e-5


@pytest.mark.parametrize("spec", ["classify(official=all)", "segment(official=all)", "depth(official=all)"])
def test_embed_attack_is_the_released_loop(spec: str) -> None:
    system, x, y = case_of(spec)
    read = system.pooled if system.task.reads == "pooled" else system.dense
    clean = read(x).detach()

    def loss(x_adv: Tensor, step: int) -> Tensor:
        return F.mse_loss(read(x_adv), clean)

    assert (found(system, x, y, "embed") - climbed(x, start(x, clamped=False), loss)).abs().max() < 1e-5


def rows_of(spec: str, attack: str = "", count: int = 3) -> tuple[dict[str, Any], Tensor, System]:
    system, x, y = case_of(spec, count)
    rng = torch.Generator().manual_seed(5)
    chosen = build(attack or system.task.attack, "Attack")
    ids = [f"image {at}" for at in range(count)]
    threat = linf(0.0 if attack == "clean" else EPS)
    return evaluate(system, chosen, threat, x, y, ids, rng)[0], y, system


def figure(rows: dict[str, Any], name: str, key: str) -> float:
    return of(name).summary(counts_in(rows))[key]


@pytest.mark.parametrize(("spec", "quirk"), [("segment", "A5"), ("depth", "B1")])
def test_attacked_images_are_evaluated_without_normalization(spec: str, quirk: str) -> None:
    system, x, y = case_of(f"{spec}(official={quirk})", 2)
    card = system.encoder.card
    bare = Encoder(system.encoder.body, type(card)(**{**card.__dict__, "mean": (0.0,) * 3, "std": (1.0,) * 3})).eval()
    x_adv = linf(EPS).project(found(system, x, y), x)
    judge = as_run(build(system.task.attack, "Attack"), system).judge
    assert torch.allclose(judge.output(x_adv), system.head(bare(x_adv)), atol=1e-4)
    assert as_run(build("embed", "Attack"), system).judge.task.bare is None  # type: ignore[attr-defined]


def released_segmentation(predicted: Tensor, mask: Tensor, classes: int) -> tuple[float, float]:
    """(mean "accuracy", mean IoU) of its get_macc_miou."""
    both, union, right, seen = (np.zeros(classes - 1) for _ in range(4))
    for answer, truth in zip(predicted.numpy(), mask.numpy(), strict=True):
        answer = answer * (truth > 0)
        for k in range(1, classes):
            hit, guess, label = ((answer == k) & (truth == k)).sum(), (answer == k).sum(), (truth == k).sum()
            both[k - 1] += hit
            union[k - 1] += guess + label - hit
            right[k - 1] += hit
            seen[k - 1] += guess
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(right / seen)), float(np.nanmean(both / union))


def test_segmentation_figures_are_the_released_ones() -> None:
    rows, mask, system = rows_of("segment(official=[D4, D5])", "clean", 4)
    predicted = system.output(toy_images(4)).argmax(1)
    accuracy, miou = released_segmentation(predicted, torch.where(mask == 255, 0, mask), 6)
    assert figure(rows, "segment", "miou") == pytest.approx(miou, abs=1e-6)
    assert figure(rows, "segment", "class_accuracy") == pytest.approx(accuracy, abs=1e-6)


def test_windows_are_averaged_after_the_softmax() -> None:
    system, x, _ = case_of(f"segment({WINDOW}, official=D3)", 2)
    assert torch.allclose(system.output(x), averaged_softmax(system, x), atol=1e-5)


def test_reduced_images_are_compared_at_their_size() -> None:
    rows, mask, system = rows_of("segment(official=D6)", "clean")
    half = toy_images(3)[..., ::2, ::2]
    truth, plain = mask[..., ::2, ::2], toy_system(build("segment", "Task"))
    wanted = of("segment").summary({k: v.numpy() for k, v in plain.task.counts(plain.output(half), truth).items()})
    assert figure(rows, "segment", "miou") == pytest.approx(wanted["miou"], abs=1e-6)


def test_depth_figures_are_the_released_ones() -> None:
    """Clean: each image's RMSE over measured pixels. Attacked: over all pixels. Both: their mean."""
    rows, depth, system = rows_of("depth(official=[B3, B4])", "clean")
    output = system.output(toy_images(3)).detach()
    clean = [float(F.mse_loss(a[t > 0], t[t > 0]).sqrt()) for a, t in zip(output, depth, strict=True)]
    assert figure(rows, "depth", "rmse") == pytest.approx(np.mean(clean), rel=1e-5)
    rows, depth, system = rows_of("depth(official=[A6, B3, B4])", "embed")
    rng = torch.Generator().manual_seed(5)
    run = as_run(build("embed", "Attack"), system)
    x_adv = run.attack(run.under, toy_images(3), depth, linf(EPS), rng).x_adv
    attacked = [float(F.mse_loss(a, t).sqrt()) for a, t in zip(system.output(x_adv).detach(), depth, strict=True)]
    assert figure(rows, "depth", "rmse") == pytest.approx(np.mean(attacked), rel=1e-4)


def test_pixels_without_a_class_are_trained_as_class_0() -> None:
    system, x, mask = case_of("segment(official=F2)", 2)
    output, filled = system.output(x), torch.where(mask == 255, 0, mask)
    wanted = torch.stack([F.cross_entropy(output[at : at + 1], filled[at : at + 1]) for at in range(2)])
    assert torch.allclose(system.task.loss(output, mask), wanted, atol=1e-5)
    assert not torch.allclose(toy_system(build("segment", "Task")).task.loss(output, mask), wanted)


def chosen_by(task: str) -> list[list[int]]:
    """The images of the clean cell, of EmbedAttack's and of the task's attack."""
    grid = {"tasks": [task], "data": ["made(test=60)"], "attacks": ["clean", "embed", "task"], "eps": ["1/255"]}
    return [one.places for one in plan(from_dict({"encoders": ["tiny"], "count": 20, **grid}, "test", "test")).resolved]


def test_a_quirk_changes_no_random_number() -> None:
    assert without_quirks("segment(window=8, official=[A1, D5])") == without_quirks("segment(window=8)")


@pytest.mark.parametrize(("quirk", "task"), SWITCHES)
def test_the_default_has_no_quirk(quirk: str, task: str) -> None:
    """With the switch at least one of clean, EmbedAttack and the task's attack, or the training loss, is another."""
    window = f"{WINDOW}, " if task == "segment" else ""
    plain, changed = f"{task}({window.rstrip(', ')})", f"{task}({window}official={quirk})"
    if quirk == "E1":
        places = chosen_by(plain), chosen_by(changed)
        assert places[0][0] == places[0][1] == places[0][2] == places[1][0]
        assert len({tuple(each) for each in places[1]}) == 3
        return
    if quirk == "E2":
        runs = [as_run(build("classpgd", "Attack"), toy_system(build(spec, "Task"))) for spec in (plain, changed)]
        logits, label = 3 * torch.eye(5)[:2], torch.tensor([0, 1])
        plain_loss, scaled = (run.attack.loss(logits, label) for run in runs)  # type: ignore[attr-defined]
        assert torch.equal(plain_loss, F.cross_entropy(logits, label, reduction="none")) and bool(
            (scaled > plain_loss).all()
        )
        return
    x, y = toy_images(3), toy_target(build(task, "Task"), 3)
    output = toy_system(build(plain, "Task")).output(x).detach()
    if quirk == "B5":  # at no error at all the default's gradient is finite
        exact, slope = torch.where(y > 0, y, 1.0), []
        for spec in (plain, changed):
            value = exact.clone().requires_grad_(True)
            slope.append(torch.autograd.grad(build(spec, "Task").loss(value, y).sum(), value)[0].isfinite().all())
        assert slope == [True, False]
        return
    losses = [build(spec, "Task").loss(output, y) for spec in (plain, changed)]
    moved = not torch.equal(*losses)
    for attack in ("clean", "embed", "") if not moved else ():
        one, other = (rows_of(spec, attack)[0] for spec in (plain, changed))
        moved = moved or one.keys() != other.keys() or any(not np.array_equal(one[key], other[key]) for key in one)
    if quirk in ("A6", "E3"):
        points = [found(toy_system(build(spec, "Task")), x, y, "embed") for spec in (plain, changed)]
        moved = moved or not torch.equal(*points)
        if quirk == "A6" and not moved:  # the last point is the best: then of the attack's loss at a large step
            points = [found(toy_system(build(s, "Task")), x, y, "attack(pgd(20, step=2.0))") for s in (plain, changed)]
            moved = not torch.equal(*points)
    assert moved


def test_an_evaluation_without_quirks_runs_what_it_is_given() -> None:
    for spec in ("classify", "segment", "depth"):
        system, attack = toy_system(build(spec, "Task")), build("embed", "Attack")
        run = as_run(attack, system)
        assert run.attack is attack and run.under is system and run.judge is system


def test_images_are_mirrored_with_their_depth() -> None:
    task, ids = build("depth(official=F5)", "Task"), [f"image {at}" for at in range(16)]
    x, y = toy_images(16), torch.rand(16, 16, 16)
    flipped, depth = mirrored(task, x, y, ids, build("embed", "Attack"))
    turned = torch.tensor([not torch.equal(a, b) for a, b in zip(x, flipped, strict=True)])
    assert 0 < int(turned.sum()) < 16
    assert torch.equal(flipped[turned], x[turned].flip(-1)) and torch.equal(depth[turned], y[turned].flip(-1))
    assert torch.equal(depth[~turned], y[~turned])


@pytest.mark.parametrize(
    ("spec", "check", "verdict"),
    [
        ("segment", "at_zero", "pass"),
        ("segment(official=A5)", "at_zero", "fail"),
        ("depth(official=B1)", "at_zero", "fail"),
        ("depth", "at_zero", "pass"),
        ("depth(official=B3)", "at_zero", "fail"),
        ("segment", "logits", "pass"),
        ("segment(official=A4)", "logits", "fail"),
        ("segment(official=D3)", "logits", "pass"),
    ],
)
def test_the_audit_reports_what_contradicts_it(spec: str, check: str, verdict: str) -> None:
    system, x, y = case_of(spec, 2)
    case = Case(system, build(system.task.attack, "Attack"), linf(EPS), x, y)
    assert build(check, "Check")(case).verdict == verdict


def test_a_wrong_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(SpecError, match="no switch: a crash"):
        switched("E4", "classify")
    with pytest.raises(SpecError, match="official=A5 of segment"):
        build("depth(official=A5)", "Task")
    with pytest.raises(SpecError, match="it has A1"):
        build("segment(official=Z9)", "Task")
    assert "A7" not in switched("all", "segment") and "A7" in switched(("all", "A7"), "segment")
    assert build("segment(official=[A1, D5])", "Task").bugs == {"A1", "D5"}


def test_every_quirk_is_listed_with_its_place() -> None:
    names = [quirk.name for quirk in QUIRKS]
    assert len(set(names)) == len(names)
    assert all(quirk.at and quirk.does and bool(quirk.tasks) != bool(quirk.why) for quirk in QUIRKS)
