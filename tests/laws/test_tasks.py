"""Laws of every task in the catalog, and of attacks on a system."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardsight.attacks.attack import Attack
from hardsight.core import tree
from hardsight.core.errors import DataError, SpecError
from hardsight.losses.places import Places
from hardsight.measure.evaluate import evaluate
from hardsight.metrics import of
from hardsight.specs.catalog import build, entries
from hardsight.tasks.base import Task
from tests.conftest import CLASSES, MASKS, toy_card, toy_encoder, toy_images, toy_system, toy_target

TASKS = [name for name, entry in entries().items() if entry.kind == "Task"]
COUNT = 6


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return build(request.param, "Task")


def perfect(task: Task, target: Any) -> Any:
    if task.name == "detect":
        return predicting(target)
    if task.name == "depth":
        return torch.where(target > 0, target, 1.0)
    classes = len(CLASSES if task.name == "classify" else MASKS)
    hot = torch.nn.functional.one_hot(torch.where(target == 255, 0, target), classes).float()
    return 20 * (hot if hot.dim() == 2 else hot.movedim(-1, 1))


def predicting(target: list[dict[str, Tensor]]) -> Places:
    """An output that predicts these boxes, each at its own place, and nothing else."""
    count = sum(len(one["labels"]) for one in target)
    classes, sides = torch.full((len(target), count, len(CLASSES)), -20.0), torch.ones(len(target), count, 4)
    place = 0
    for image, one in enumerate(target):
        for (x1, y1, x2, y2), label in zip(one["boxes"].tolist(), one["labels"].tolist(), strict=True):
            classes[image, place, label] = 20.0
            sides[image, place] = torch.tensor([0.5 - x1, 0.5 - y1, x2 - 0.5, y2 - 0.5])
            place += 1
    cells = torch.tensor([[0.0, 0, 1, 1]]).expand(count, 4)
    return Places(classes, sides, torch.full((len(target), count), 20.0), cells, (count,), (16, 16))


def broken_like(output: Any) -> Any:
    """An output of that shape in which all values are NaN."""
    if isinstance(output, Places):
        return replace(output, classes=torch.full_like(output.classes, float("nan")))
    return torch.full_like(output, float("nan"))


def numbers(counts: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy() for key, value in counts.items()}


def test_a_perfect_output_has_no_error(task: Task) -> None:
    target = toy_target(task, COUNT)
    output = perfect(task, target)
    assert not task.error(output, target).any()
    metric = of(task.name)
    found = metric.summary(numbers(task.counts(output, target)))
    assert found[metric.headline] == pytest.approx(1.0 if metric.better == "higher" else 0.0, abs=1e-6)


def test_losses_and_errors_are_per_image(task: Task) -> None:
    system, target = toy_system(task), toy_target(task, COUNT)
    output = system.output(toy_images(COUNT))
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    for read in (task.loss, task.error):
        whole = read(output, target)
        assert whole.shape == (COUNT,)
        assert torch.allclose(read(output[order], tree.take(target, order)), whole[order], atol=1e-6)
    assert ((task.error(output, target) >= 0) & (task.error(output, target) <= 1)).all()


def test_counts_add(task: Task) -> None:
    system, target = toy_system(task), toy_target(task, COUNT)
    output = system.output(toy_images(COUNT))
    whole, metric = numbers(task.counts(output, target)), of(task.name)
    parts = [numbers(task.counts(output[i : i + 2], target[i : i + 2])) for i in (0, 2, 4)]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    assert metric.summary(joined) == pytest.approx(metric.summary(whole))
    low, high = metric.interval(whole)
    assert low <= metric.summary(whole)[metric.headline] <= high


@pytest.mark.parametrize("name", [name for name in TASKS if build(name, "Task").target in ("mask", "depth")])
def test_what_is_not_labelled_does_not_count(name: str) -> None:
    task = build(name, "Task")
    system, target = toy_system(task), toy_target(task, COUNT)
    output = system.output(toy_images(COUNT))
    changed = output.clone()
    changed[
        (target == (255 if task.name == "segment" else 0))[:, None].expand_as(output) if output.dim() == 4 else target == 0
    ] = 7.0
    for key, value in task.counts(output, target).items():
        assert torch.equal(value, task.counts(changed, target)[key]), key
    assert torch.equal(task.error(output, target), task.error(changed, target))
    assert torch.allclose(task.loss(output, target), task.loss(changed, target))


def test_data_without_the_target_are_refused(task: Task) -> None:
    with pytest.raises(DataError, match=f"needs data with a {task.target}"):
        task.head(toy_encoder(), replace(toy_card(), targets=()))


def test_padding_is_undone(task: Task) -> None:
    """An image whose sides are not multiples of the stride: the output has the image's own size."""
    system = toy_system(task)
    output = system.output(toy_images(2, 18))
    if task.name == "detect":
        assert output.size == (18, 18)
        assert (output.cells[:, 2:].amax(0) >= 18).all()
        assert all((one["boxes"] <= 18).all() for one in task.answer(output))
    elif task.name != "classify":
        assert output.shape[-2:] == (18, 18)


ATTACKS = ["task", "embed(steps=4)", "embed(steps=4, distance=cosine)", "pgd(4)", "restarts(pgd(3), 2)"]


def attack_of(task: Task, text: str) -> Attack:
    return build(task.attack if text == "task" else text, "Attack")


@pytest.mark.parametrize("text", ATTACKS)
@pytest.mark.parametrize("spec", ["linf(8/255)", "l2(0.6)", "l1(6)"])
def test_attacks_raise_the_loss_within_the_threat(task: Task, text: str, spec: str) -> None:
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    if task.name == "classify" or task.name == "segment":
        target = system.output(x).argmax(1)
    elif task.name == "detect":
        target = task.answer(system.output(x))
    else:
        target = system.output(x).detach()
    threat = build(spec, "Threat")
    rows, _ = evaluate(system, attack_of(task, text), threat, x, target, ["i"] * COUNT, torch.Generator().manual_seed(0))
    assert (rows["size"] <= threat.eps * (1 + 1e-4)).all()
    assert rows["size"].min() > 0.2 * threat.eps
    with torch.no_grad():
        found = attack_of(task, text)(system, x, target, threat, torch.Generator().manual_seed(0))
        noise = threat.surface(x, torch.Generator().manual_seed(3))
        assert task.loss(system.output(found.x_adv), target).mean() > task.loss(system.output(noise), target).mean()


def test_attacks_leave_no_trace(task: Task) -> None:
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    system.encoder.train()
    system.encoder.body.requires_grad_(True)
    before = {name: value.clone() for name, value in system.encoder.state_dict().items()}
    attack_of(task, "task")(system, x, target, build("linf(8/255)", "Threat"))
    assert system.encoder.training
    assert all(p.requires_grad and p.grad is None for p in system.encoder.body.parameters())
    for name, value in system.encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_results_do_not_depend_on_the_batch(task: Task) -> None:
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    threat = build("linf(8/255)", "Threat")
    attack = build("pgd(5, start='clean')", "Attack")
    whole = attack(system, x, target, threat).x_adv
    parts = torch.cat([attack(system, x[i : i + 1], target[i : i + 1], threat).x_adv for i in range(COUNT)])
    assert torch.allclose(whole, parts, atol=1e-6)


def test_bf16_search_is_evaluated_in_float32(task: Task) -> None:
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    threat = build("linf(8/255)", "Threat")
    rows, _ = evaluate(
        system, attack_of(task, "task"), threat, x, target, ["i"] * COUNT, torch.Generator().manual_seed(0), "bf16"
    )
    assert rows["error"].dtype == np.float32
    assert (rows["size"] <= threat.eps + 1e-6).all()


def test_cascade_keeps_the_worst(task: Task) -> None:
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    threat = build("linf(8/255)", "Threat")
    one, two = build("pgd(3, start='clean')", "Attack"), build(task.attack, "Attack")
    both = build(f"cascade([attack(pgd(3, start='clean')), {task.attack}])", "Attack")
    rng = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    error = both(system, x, target, threat, rng()).error
    for member in (one, two):
        found = member(system, x, target, threat, rng())
        assert (error >= task.error(system.output(found.x_adv), target) - 1e-6).float().mean() >= 0.8
    assert both.passes >= one.passes + two.passes


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 3, 16, 16), 1.5), "pixels lie in"),
        (torch.full((1, 3, 16, 16), -2.0), "normalization"),
        (torch.full((1, 3, 16, 16), float("nan")), "pixels lie in"),
        (torch.zeros(3, 16, 16), "[B, 3, H, W]"),
    ],
)
def test_pixels_that_are_none(x: Tensor, message: str) -> None:
    system = toy_system(build("classify", "Task"))
    with pytest.raises(DataError) as caught:
        build("pgd(1)", "Attack")(system, x, torch.zeros(1, dtype=torch.int64), build("linf(0.1)", "Threat"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("attack(pgd, where=pooled)", "aim=itself"),
        ("attack(pgd, where=dense, aim=itself)", "needs a loss"),
        ("attack(pgd, loss=ce, where=pooled, aim=itself)", "not an embedding"),
        ("attack(pgd, aim=itself)", "need where"),
        ("attack(pgd(start='clean'), loss=far_l2, where=embedding, aim=itself)", "has no gradient"),
        ("attack(best_of([pgd(start='clean')]), loss=far_l2, where=embedding, aim=itself)", "has no gradient"),
        ("restarts(best_of([pgd(3, start='clean')]), 2)", "repeat"),
        ("pgd(3, keep='last', early_exit=True)", "exclude each other"),
        ("pgd(3, keep='last', patience=2)", "patience=2 exclude each other"),
        ("pgd(patience=-1)", "0 to switch it off"),
        ("best_of([1, 2])", "'searches' should be"),
        ("cascade(['x'])", "'members' should be"),
        ("probe(batch=1)", "at least 2"),
        ("probe(weight_decay=-1.0)", "at least 0"),
        ("best_of([])", "at least one search"),
        ("cascade([])", "at least one attack"),
        ("restarts(pgd(3, start='clean'), 2)", "repeat"),
        ("restarts(pgd(3), 0)", "at least 1"),
        ("pgd(-1)", "at least 0"),
        ("probe(epochs=0)", "above 0"),
        ("depth(bins=1)", "at least 2"),
    ],
)
def test_compositions_that_mean_nothing(spec: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec)
    assert message in str(caught.value)


def test_a_saturated_or_broken_output_is_no_hit(task: Task) -> None:
    """Ties are decided as in `error`, and outputs that are not finite are wrong."""
    target = toy_target(task, COUNT)
    output = perfect(task, target)
    broken = broken_like(output)
    assert (task.error(broken, target) == 1).all()
    if task.name == "segment":
        assert not task.counts(broken, target)["intersection"].any()
    if task.name == "classify":
        same = torch.zeros_like(output)
        hits = task.counts(same, target)["hits"]
        assert torch.equal(hits, 1 - task.error(same, target).int())
        assert not task.counts(broken, target)["hits"].any()


def test_depth_attack_keeps_the_point_of_highest_rmse() -> None:
    task = build("depth", "Task")
    system, target, x = toy_system(task), toy_target(task, COUNT), toy_images(COUNT)
    threat = build("linf(16/255)", "Threat")
    rmse = []
    for keep in ("best", "last"):
        found = build(f"attack(pgd(15, keep='{keep}'), loss=depth_loss)", "Attack")(
            system, x, target, threat, torch.Generator().manual_seed(0)
        )
        counts = task.counts(system.output(found.x_adv), target)
        rmse.append((counts["squared"] / counts["pixels"]).detach())
    assert (rmse[0] >= rmse[1] - 1e-9).all()


def test_images_misclassified_only_in_bf16_are_attacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image misclassified in bf16 leaves the search early; if float32 finds it still correct, it is attacked again."""
    from hardsight.attacks.search.base import Best
    from hardsight.losses.objective import AttackResult

    system = toy_system(build("classify", "Task"))
    x = toy_images(COUNT)
    target, threat = system.output(x).argmax(1), build("linf(64/255)", "Threat")
    full, calls = build("classpgd(steps=20)", "Attack"), []

    class Hasty:
        fits, passes = full.fits, full.passes

        def __call__(self, system, x, y, threat, rng=None) -> AttackResult:
            calls.append(len(x))
            if len(calls) > 1:
                return full(system, x, y, threat, rng)
            return Best(x).result()._replace(error=torch.ones(len(x)))  # claims success on all images, and changes none

    rows, _ = evaluate(system, Hasty(), threat, x, target, ["i"] * COUNT, torch.Generator().manual_seed(0), "bf16")  # type: ignore[arg-type]
    alone, _ = evaluate(system, full, threat, x, target, ["i"] * COUNT, torch.Generator().manual_seed(0))
    assert calls == [COUNT, COUNT]
    assert rows["error"].mean() == alone["error"].mean() > 0


@pytest.mark.parametrize(("correct", "times"), [(0.004, 1), (0.02, 2)])
def test_an_image_that_is_wrong_except_for_a_few_pixels_is_not_attacked_again(correct: float, times: int) -> None:
    """A mask's error is 1 when its last pixel is wrong: one pixel right in float32 justifies no new search, many do."""
    from hardsight.attacks.search.base import Best

    task, calls = build("segment", "Task"), []
    system, x = toy_system(task), toy_images(1, 64)
    seen = system.output(x).argmax(1)
    target = (seen + 1) % 4
    spared = torch.arange(64 * 64).view(1, 64, 64) < correct * 64 * 64
    target = torch.where(spared, seen, target)

    class Sure:
        passes = 1

        def __call__(self, system, x, y, threat, rng=None):
            calls.append(len(x))
            return Best(x).result()._replace(error=torch.ones(len(x)))  # claims success on all images, and changes nothing

    rows, _ = evaluate(system, Sure(), build("linf(1/255)", "Threat"), x, target, ["i"], precision="bf16")  # type: ignore[arg-type]
    assert rows["error"][0] == pytest.approx(1 - float(spared.float().mean()))
    assert len(calls) == times


@pytest.mark.parametrize(
    ("grid", "covered", "size"), [((4, 4), (16, 16), (16, 16)), ((3, 5), (50, 40), (47, 39)), ((7, 7), (3, 3), (3, 2))]
)
def test_pixels_by_products_are_the_interpolated_ones(grid: Any, covered: Any, size: Any) -> None:
    from hardsight.encoders.base import Features
    from hardsight.tasks.base import to_pixels

    cells = torch.randn(2, 5, *grid, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    features = Features(cells, cells, (), None, size, covered)
    found = []
    for inside in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            pixels = to_pixels(cells if inside else cells.float(), features)
        found.append((pixels, torch.autograd.grad(pixels.square().sum(), cells)[0].float()))
    (plain, slope), (product, other) = found
    assert product.shape == (2, 5, *size)
    assert product.dtype == torch.float32
    assert torch.allclose(product, plain, atol=1e-6)
    assert torch.allclose(slope, other, rtol=2**-7)


@pytest.mark.parametrize("kind", ["drawn", "tied", "equal", "infinite"])
def test_right_pixels_are_argmaxs(kind: str) -> None:
    from hardsight.losses.base import IGNORE, right_pixels

    rng = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 4, 9, 7, generator=rng), torch.randint(0, 4, (3, 9, 7), generator=rng)
    logits = {
        "drawn": logits,
        "tied": logits.round(),
        "equal": torch.zeros_like(logits),
        "infinite": torch.where(logits > 1, torch.inf, -torch.inf),
    }[kind]
    target[:, :2] = IGNORE
    before = logits.clone()
    right = right_pixels(logits, target)
    assert torch.equal(right, logits.max(1).indices == target)
    assert 0 < right.float().mean() < 1
    assert torch.equal(logits, before)
    logits[:, :, 5], logits[:, 1, 6], target[0, 7, 0], target[0, 7, 1] = torch.nan, torch.nan, 9, -1
    right = (logits.max(1).indices == target) & ~logits.isnan().any(1)
    assert torch.equal(right_pixels(logits, target), right)
    assert torch.equal(right_pixels(logits, target.byte()), right)
    assert right_pixels(logits[:0], target[:0]).shape == (0, 9, 7)


def test_own_classifier_must_have_the_datas_classes() -> None:
    with pytest.raises(DataError, match="0 classes"):
        build("classify(head=own)", "Task").head(toy_encoder(), toy_card())


def test_mask_ids_above_the_classes_are_named() -> None:
    task = build("segment", "Task")
    system, x = toy_system(task), toy_images(1)
    with pytest.raises(DataError, match="id 9"):
        task.counts(system.output(x), torch.full((1, 16, 16), 9))
