"""Detection: the assignment of locations to boxes, the error, attacks on detectors, and invalid boxes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hardsight.core.errors import DataError, MissingDependency, ShapeError, SpecError
from hardsight.core.tree import each, move, take
from hardsight.data import open_data
from hardsight.data.base import Data, Sample
from hardsight.data.feed import choose, load, stack
from hardsight.encoders import load_encoder
from hardsight.losses.objective import still
from hardsight.losses.places import Places, assign
from hardsight.measure.bench import Bench
from hardsight.measure.evaluate import evaluate
from hardsight.measure.plan import plan
from hardsight.measure.saving import attack_folder
from hardsight.metrics import of
from hardsight.metrics.detect import TRUE, row
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.report.results import grid as grid_of
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.tasks.base import System
from hardsight.tasks.detect import decode
from hardsight.tasks.pyramid import FcosHead, grid
from tests.conftest import CLASSES, toy_card, toy_encoder, toy_images, toy_system, toy_target

NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
LABELLED = ("detection", "mislabel", "dag")
LOSSES = [*LABELLED, "vanish", "fabricate"]


def truth(*boxes: tuple[float, float, float, float, int]) -> dict[str, Tensor]:
    table = torch.tensor(boxes).view(-1, 5)
    return {"boxes": table[:, :4].float(), "labels": table[:, 4].long()}


def predicting(*boxes: tuple[float, float, float, float, int, float], size: int = 64) -> Places:
    """The output for one image that predicts these boxes: x1 y1 x2 y2, class, score."""
    classes, sides = torch.full((1, len(boxes), 3), -20.0), torch.zeros(1, len(boxes), 4)
    for place, (x1, y1, x2, y2, label, score) in enumerate(boxes):
        classes[0, place, label] = torch.logit(torch.tensor(score**2))
        sides[0, place] = torch.tensor([0.5 - x1, 0.5 - y1, x2 - 0.5, y2 - 0.5])
    cells = torch.tensor([[0.0, 0, 1, 1]]).expand(len(boxes), 4)
    return Places(classes, sides, torch.full((1, len(boxes)), 20.0), cells, (len(boxes),), (size, size))


def blank(images: int = 1, classes: int = 3, size: int = 64) -> Places:
    cells = [grid((size // stride, size // stride), stride, stride) for stride in (8, 16, 32)]
    count = sum(len(one) for one in cells)
    return Places(
        torch.zeros(images, count, classes),
        torch.ones(images, count, 4),
        torch.zeros(images, count),
        torch.cat(cells),
        tuple(len(one) for one in cells),
        (size, size),
    )


def test_a_place_answers_for_the_smallest_box_it_is_near_the_middle_of() -> None:
    target = [truth((0, 0, 60, 60, 1), (18, 18, 30, 30, 2)), NOTHING]
    assigned = assign(blank(2), target)
    fine = assigned.labels[0, :64].view(8, 8)  # places at 4, 12, 20, ...
    assert (fine[2:4, 2:4] == 2).all() and fine[4, 4] == 1 and (fine == 1).sum() == 5
    assert fine[1, 1] == fine[5, 5] == -1, "a cell and a half from the middle"
    assert (assigned.labels[1] == -1).all()
    large = replace(blank(), cells=blank().cells / 2, size=(32, 32))
    assert not (assign(large, [truth((0, 0, 80, 80, 0))]).labels[0, :64] >= 0).any(), "a side of more than 8 cells"


def test_what_is_an_error() -> None:
    task, here = build("detect", "Task"), truth((4, 4, 24, 24, 0), (34, 30, 60, 60, 1))
    right = ((4, 4, 24, 24, 0, 0.9), (34, 30, 60, 60, 1, 0.8))
    cases = {
        "right": (right, 0.0),
        "in another order": (right[::-1], 0.0),
        "a false one below": ((*right, (0, 40, 9, 50, 2, 0.2)), 0.0),
        "a false one above": ((*right, (0, 40, 9, 50, 2, 0.95)), 1 - (1 / 2 + 2 / 3) / 2),
        "one lost": (right[:1], 0.5),
        "one misclassified": ((right[0], (34, 30, 60, 60, 2, 0.8)), 0.5),
        "one misplaced": ((right[0], (24, 30, 46, 60, 1, 0.8)), 0.5),
        "one twice": ((right[0], (5, 9, 24, 29, 0, 0.85), right[1]), 1 - (1 + 2 / 3) / 2),
        "below the floor": (((4, 4, 24, 24, 0, 0.04),), 1.0),
        "nothing": ((), 1.0),
    }
    for name, (boxes, wanted) in cases.items():
        assert task.error(predicting(*boxes), [here]).item() == pytest.approx(wanted, abs=1e-4), name
    assert task.error(predicting(), [NOTHING]).item() == 0
    assert task.error(predicting((4, 4, 9, 9, 1, 0.7), (20, 4, 39, 9, 1, 0.3)), [NOTHING]).item() == pytest.approx(
        0.7, abs=1e-4
    )


def test_what_is_not_finite_is_broken_and_finds_nothing() -> None:
    task, target = build("detect", "Task"), [truth((4, 4, 24, 24, 0))] * 2
    good = predicting((4, 4, 24, 24, 0, 0.9))
    for part in ("classes", "sides", "centre"):
        both = replace(good, **{name: torch.cat([getattr(good, name)] * 2) for name in ("classes", "sides", "centre")})
        value = getattr(both, part).clone()
        value[1] = float("inf") if part == "sides" else float("nan")
        both = replace(both, **{part: value})
        assert task.error(both, target).tolist() == [0, 1]
        assert (task.counts(both, target)["found_labels"] >= 0).sum(1).tolist() == [1, 0]


@pytest.mark.parametrize("name", LOSSES)
def test_label_free_losses_are_so(name: str) -> None:
    system, x = toy_system(build("detect", "Task")), toy_images(4)
    output, loss = system.output(x), build(name, "Loss")
    one, other = toy_target(system.task, 4), toy_target(system.task, 4, seed=5)
    assert torch.equal(loss(output, one), loss(output, other)) == (name not in LABELLED)
    if name not in LABELLED:
        assert torch.equal(loss(output, None), loss(output, one))  # type: ignore[arg-type]


def listed(output: Places) -> int:
    return len(decode(output)[0]["scores"])


def named(output: Places, label: int) -> int:
    """The number of locations assigned to a box that predict this class."""
    assigned = assign(output, [truth((14, 14, 40, 38, 1))]).labels >= 0
    return int((output.classes.argmax(-1) == label)[assigned].sum())


@pytest.mark.parametrize(
    ("name", "start", "measure", "wanted"),
    [
        ("vanish", 1, listed, (100, 0)),
        ("fabricate", -9, listed, (0, 84)),
        ("mislabel", 1, lambda output: named(output, 2), (0, 9)),
        ("dag", 1, lambda output: named(output, 1), (9, 0)),
    ],
)
def test_what_a_loss_leads_to(name: str, start: float, measure: Any, wanted: tuple[int, int]) -> None:
    """Gradient ascent on the output itself, without a network. The target is one box of class 1, predicted at first."""
    output, target = blank(), [truth((14, 14, 40, 38, 1))]
    output = replace(output, classes=start - 2.0 * (torch.arange(3) != 1) + output.classes, sides=output.sides / 4)
    loss, before = build(name, "Loss"), measure(output)
    for _ in range(150):
        leaves = output.classes.requires_grad_(), output.centre.requires_grad_()
        grads = torch.autograd.grad(loss(output, target).sum(), leaves, allow_unused=True)
        steps = [torch.zeros_like(leaf) if grad is None else grad.sign() for leaf, grad in zip(leaves, grads, strict=True)]
        output = replace(output, classes=leaves[0].detach() + 0.1 * steps[0], centre=leaves[1].detach() + 0.1 * steps[1])
    assert (before, measure(output)) == wanted


def test_every_part_of_the_output_moves_the_pixels() -> None:
    system = toy_system(build("detect", "Task"))
    x = toy_images(2).requires_grad_()
    output = system.output(x)
    for part in (output.classes, output.sides, output.centre):
        (grad,) = torch.autograd.grad(part.square().sum(), x, retain_graph=True)
        assert grad.flatten(1).abs().amax(1).min() > 0


def test_levels_cover_the_image() -> None:
    """For any dense grid: cells are adjacent, twice as wide at each level, and cover the whole image."""
    for stride, finest, widths in ((4, 8, (4, 8, 16)), (16, 8, (8, 16, 32)), (14, 8, (7, 14, 28)), (32, 8, (8, 16, 32))):
        side = 3 * stride
        encoder = toy_encoder().with_card(stride=stride)
        head = build(f"detect(finest={finest})", "Task").head(encoder, toy_card()).eval()
        dense = torch.randn(2, 12, 3, 3, generator=torch.Generator().manual_seed(0))
        found = head(encoder(toy_images(2))._replace(dense=dense, size=(side - 3, side), covered=(side, side)))
        assert found.size == (side - 3, side)
        start = 0
        for count, width in zip(found.levels, widths, strict=True):
            cells = found.cells[start : start + count]
            assert torch.allclose(cells[:, 2:] - cells[:, :2], torch.tensor(float(width)))
            assert (cells[:, 2:].amax(0) >= side - 1e-4).all() and (cells[:, :2].amin(0) == 0).all()
            assert len(cells.unique(dim=0)) == count
            start += count
        assert found.classes.shape == (2, start, len(CLASSES)) and len(found.cells) == start


def test_a_head_says_little_before_it_has_learned() -> None:
    task = build("detect", "Task")
    head = task.head(toy_encoder(), toy_card())
    assert isinstance(head, FcosHead)
    with torch.no_grad(), still(head):
        for parameter in head.parameters():
            parameter.zero_()
        scores = head(toy_encoder()(toy_images(1))).scores
    assert scores.max() == pytest.approx((0.01 * 0.5) ** 0.5, rel=1e-4)


def test_specs_that_mean_nothing() -> None:
    for spec, message in (
        ("detect(width=30)", "multiple of 8"),
        ("detect(levels=0)", "at least 1"),
        ("detection(classes=0, boxes=0, centre=0)", "at least one part"),
        ("attack(pgd, loss=vanish, where=dense, aim=itself)", "vanish"),
    ):
        with pytest.raises(SpecError, match=message):
            build(spec)
    task = build("detect", "Task")
    output, target = toy_system(task).output(toy_images(3)), toy_target(task, 3)
    for name in ("mislabel(shift=5)", "dag(shift=0)"):
        with pytest.raises(ShapeError, match="its own target"):
            build(name, "Loss")(output, target)
    for loss in LOSSES:
        assert build(f"attack(pgd, loss={loss})", "Attack").fits(task)
        assert not build(f"attack(pgd, loss={loss})", "Attack").fits(build("segment", "Task"))
    assert not build("attack(pgd, loss=ce)", "Attack").fits(task)


def test_what_a_head_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build("detect", "Task")
    with pytest.raises(DataError, match="needs data with a boxes, and toy has label"):
        task.head(toy_encoder(), replace(toy_card(), targets=("label",)))
    with pytest.raises(DataError, match="names of the classes"):
        task.head(toy_encoder(), replace(toy_card(), classes=()))
    with pytest.raises(DataError, match="needs dense features"):
        task.head(toy_encoder().with_card(dense_dim=0), toy_card())
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependency, match=r"pip install hardsight\[detection\]"):
        task.head(toy_encoder(), toy_card())


def test_classes_that_the_data_do_not_have() -> None:
    """A data reader must remap ids with gaps; an id that is not one of the card's classes raises an error."""
    task = build("detect", "Task")
    output = toy_system(task).output(toy_images(1))
    for wrong in (5, -1):
        for read in (task.loss, task.counts):
            with pytest.raises(DataError, match=f"the class {wrong}, but the ids of 5 classes are 0 to 4"):
                read(output, [truth((1, 1, 9, 9, 0), (1, 1, 9, 9, wrong))])


def test_a_set_without_boxes_has_no_precision() -> None:
    empty = (np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    none = row(*empty, np.zeros((0, 4)), np.zeros(0))
    false = row(np.ones((1, 4)) * [1, 1, 9, 9], np.array([0.9]), np.array([2]), np.zeros((0, 4)), np.zeros(0))
    metric = of("detect")
    for rows in ([none, none], [false, none]):
        counts = {key: np.stack([one[key] for one in rows]) for key in none}
        assert all(np.isnan(value) for value in metric.summary(counts).values())
        assert all(np.isnan(value) for value in metric.interval(counts))


def sample(boxes: Any, labels: Any, name: str = "a") -> Sample:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    return Sample(name, image, {"boxes": torch.tensor(boxes).view(-1, 4), "box_labels": torch.tensor(labels).long()})


def test_boxes_of_a_batch() -> None:
    batch = stack([sample([[1.0, 2, 9, 8], [-4, 15, 40, 25]], [0, 2]), sample([], [], "b")])
    assert batch.target["boxes"][0]["boxes"].tolist() == [[1, 2, 9, 8], [0, 15, 30, 20]], "clipped to the image"
    assert batch.target["boxes"][0]["labels"].tolist() == [0, 2]
    assert batch.target["boxes"][1]["boxes"].shape == (0, 4)
    for boxes, labels, message in (
        ([[1.0, 2, 9, 8]], [0, 1], r"a has boxes \[1, 4\] and box_labels \[2\]"),
        ([[9.0, 2, 1, 8]], [0], r"a: nothing of the box \[9, 2, 1, 8\]"),
        ([[31.0, 2, 39, 8]], [0], "lies within its 30x20 pixels"),
        ([[1.0, 2, float("nan"), 8]], [0], "nothing of the box"),
        ([[1.0, 2, 1, 8]], [0], "nothing of the box"),
    ):
        with pytest.raises(DataError, match=message):
            stack([sample(boxes, labels)])
    with pytest.raises(DataError, match="a has boxes"):
        stack([Sample("a", torch.zeros(3, 4, 4, dtype=torch.uint8), {"boxes": torch.zeros(0, 4)})])


@pytest.fixture(scope="module")
def scenes() -> Data:
    return open_data("made(train=400, test=60)")


@pytest.fixture(scope="module")
def trained(scenes: Data) -> System:
    """A small head on an embedded encoder: takes about ten seconds."""
    return fit_probe(load_encoder("zoo:made_supervised"), "detect(width=32)", scenes, "probe(epochs=8)")


def thirty(scenes: Data) -> tuple[Tensor, list[dict[str, Tensor]], list[str]]:
    images = scenes.split("test")
    batch = load(images, choose(images, 30))
    return batch.images.float() / 255, batch.target["boxes"], batch.ids


def found(system: System, scenes: Data, attack: str, eps: str = "8/255", gallery: int = 0) -> tuple[float, Any]:
    x, y, ids = thirty(scenes)
    rng = torch.Generator().manual_seed(0)
    rows, seen = evaluate(system, build(attack, "Attack"), build(f"linf({eps})", "Threat"), x, y, ids, rng, gallery=gallery)
    counts = {key.removeprefix("counts."): value for key, value in rows.items() if key.startswith("counts.")}
    return of("detect").summary(counts)["map50"], seen


@pytest.mark.slow
def test_a_head_learns_and_an_attack_succeeds_on_it(trained: System, scenes: Data) -> None:
    """It finds many boxes; a random perturbation reduces mAP little, and an attack of the same size nearly to zero."""
    clean, seen = found(trained, scenes, "clean", gallery=3)
    noise, _ = found(trained, scenes, "pgd(0, start=surface)")
    attacked, _ = found(trained, scenes, "attack(pgd(10), loss=detection)")
    assert clean > 0.1, clean
    assert noise > 0.6 * clean, (noise, clean)
    assert attacked < 0.2 * clean, (attacked, clean)
    assert seen["target"].shape[0] == 3 and seen["target"].shape[2] == 6
    x, y, _ = thirty(scenes)
    assert np.array_equal(seen["target"][1, : len(y[1]["labels"]), :4], y[1]["boxes"].numpy())
    assert (seen["target"][..., 4] == -1).sum() == sum(seen["target"].shape[1] - len(one["labels"]) for one in y[:3])
    assert (seen["answer"][..., 5] >= 0.3).any()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["detection(boxes=0, centre=0)", "vanish", "fabricate", "mislabel", "dag"])
def test_attacks_on_one_part_of_the_loss_succeed_too(trained: System, scenes: Data, loss: str) -> None:
    clean, _ = found(trained, scenes, "clean")
    attacked, _ = found(trained, scenes, f"attack(pgd(10), loss={loss})")
    assert attacked < 0.6 * clean, (attacked, clean)


@pytest.mark.slow
def test_saved_images_are_aimed_away_from_what_was_found(trained: System, scenes: Data, tmp_path: Path) -> None:
    for place in (0, 1):
        pixels = scenes.split("test").sample(place).image.permute(1, 2, 0).numpy()
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{place}.png")
    threat = build("linf(8/255)", "Threat")
    report = attack_folder(trained, build("attack(pgd(5))", "Attack"), threat, tmp_path / "in", tmp_path / "out")
    assert all(one["size_saved"] <= 8 / 255 + 1e-6 and one["answer_changed_saved"] > 0.3 for one in report["images"])


def test_heads_follow_their_seed_cached_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data("made(size=32, train=12, test=4)")
    encoder, how = load_encoder("tiny"), "probe(epochs=2, batch=4)"
    one = fit_probe(encoder, "detect(width=16)", data, how).head.state_dict()
    monkeypatch.setattr("hardsight.probes.bank.CACHE_BYTES", 0)
    bank = Bank(encoder, data.split("train"), choose(data.split("train"), None), dense=True)
    assert bank.wide is None
    other = fit_probe(encoder, "detect(width=16)", data, how, bank=bank).head.state_dict()
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in one.items())
    _, target = bank.batch(torch.tensor([3, 0]), dense=True)
    wanted = load(data.split("train"), [bank.places[3], bank.places[0]]).target["boxes"]
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(target["boxes"], wanted, strict=True))


@pytest.mark.slow
def test_a_store_of_detections(tmp_path: Path) -> None:
    """Chunks with different numbers of boxes give one table with a worst case; a resumed run equals an uninterrupted one."""
    recipe = Recipe(
        audit=0,
        name="small",
        encoders=("tiny",),
        tasks=("detect(width=16)",),
        data=("made(size=32, train=24, test=24)",),
        attacks=("clean", "task", "attack(pgd(2), loss=fabricate)"),
        eps=("8/255",),
        probe="probe(epochs=20, batch=8)",
        count=12,
        chunk=5,
    )
    cells = Bench(plan(recipe), Store(tmp_path / "a"), "cpu").run()
    (line,) = grid_of(cells).rows
    assert line.metric == "map50" and line.unit == "%" and len(line.numbers) == 4
    for number in line.numbers.values():
        assert number.n == 12 and 0 <= number.low <= number.value <= number.high <= 1
        assert set(number.metrics) == {"map50", "map"}
    rows = cells[0].rows()
    assert rows["counts.found"].shape == (12, 100, 4) and rows["counts.truth"].shape == (12, TRUE, 4)
    images = plan(recipe).data["made(size=32, train=24, test=24)"].split("test")
    for place, name in enumerate(rows["id"]):
        boxes = images.sample(int(name.rsplit("-", 1)[1])).target["boxes"]
        assert np.array_equal(rows["counts.truth"][place, : len(boxes)], boxes.numpy())
        assert (rows["counts.truth_labels"][place] >= 0).sum() == len(boxes)
    seen = cells[0].gallery()
    assert seen is not None and seen["target"].shape[::2] == (4, 6)
    (cells[1].path / "rows-00001.npz").rename(tmp_path / "taken")
    (cells[1].path / "done.json").unlink()
    Bench(plan(recipe), Store(tmp_path / "a"), "cpu").run()
    assert (cells[1].path / "rows-00001.npz").read_bytes() == (tmp_path / "taken").read_bytes()


def test_targets_move_with_their_images() -> None:
    target = toy_target(build("detect", "Task"), 3)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(move(target, "cpu"), target, strict=True))
    output = toy_system(build("detect", "Task")).output(toy_images(3))
    for index in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
        part = take(output, index)
        assert torch.equal(part.classes, output.classes[index]) and len(part) == 2
        assert part.cells is output.cells
    assert torch.equal(each(output, lambda tensor: 2 * tensor).centre, 2 * output.centre)


@pytest.mark.slow
def test_blood_cells(real_data: Path) -> None:
    """Real boxes in two formats are the same in both; a head learns a little from them in a few steps."""
    size = "size=(120, 160)"
    coco = open_data(f"coco:{real_data}/bccd({size}, images='BCCD/JPEGImages')")
    voc = open_data(f"voc:{real_data}/bccd/BCCD({size}, what=boxes, classes=['RBC', 'WBC', 'Platelets'], origin=0)")
    assert coco.card.classes == voc.card.classes == ("RBC", "WBC", "Platelets")
    batch = load(coco.split("test"), range(len(coco.split("test"))))
    assert sum(len(one["labels"]) for one in batch.target["boxes"]) == 945
    one, other = coco.split("test").sample(0), voc.split("test").sample(0)
    assert one.id.split("/")[-1].split(".")[0] == other.id.split("/")[-1].split(".")[0]
    assert torch.allclose(one.target["boxes"], other.target["boxes"], atol=0.3)
    system = fit_probe(load_encoder("zoo:made_supervised"), "detect(width=16)", coco, "probe(images=60, epochs=20)")
    x, y = batch.images[:20].float() / 255, batch.target["boxes"][:20]
    with torch.no_grad():
        counts = {key: value.numpy() for key, value in system.task.counts(system.output(x), y).items()}
    assert of("detect").summary(counts)["map50"] > 0.1
