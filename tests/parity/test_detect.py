"""Detection compared with torchvision's FCOS (assignment, losses, detections), torchmetrics' mAP and COCO's definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import sigmoid_focal_loss

from hardsight.losses.boxes import fcos
from hardsight.losses.places import Places, Truth, assign
from hardsight.metrics import of
from hardsight.metrics.detect import _figures, _matched, row
from hardsight.tasks.detect import decode
from hardsight.tasks.pyramid import grid

CLASSES, SIZE, IMAGES = 5, 256, 4
RECALLS = np.linspace(0, 1, 101)


def places(rng: torch.Generator, spread: float = 1.0) -> Places:
    cells = [grid((SIZE // stride, SIZE // stride), stride, stride) for stride in (8, 16, 32)]
    count = sum(len(one) for one in cells)
    draw = lambda *shape: torch.randn(IMAGES, count, *shape, generator=rng)  # noqa: E731
    return Places(
        spread * draw(CLASSES) - 2, draw(4).exp(), draw(), torch.cat(cells), tuple(len(one) for one in cells), (SIZE, SIZE)
    )


def truth(rng: torch.Generator, images: int = IMAGES, size: int = SIZE) -> Truth:
    """Boxes of all sizes; the last image has none."""
    found = []
    for image in range(images):
        count = 0 if image == images - 1 else int(torch.randint(1, 9, (1,), generator=rng))
        low = torch.rand(count, 2, generator=rng) * size * 0.8
        extent = (torch.rand(count, 2, generator=rng) ** 2 * 0.9 + 0.02) * size
        boxes = torch.cat([low, (low + extent).clamp_max(size)], dim=1)
        found.append({"boxes": boxes, "labels": torch.randint(0, CLASSES, (count,), generator=rng)})
    return found


@pytest.fixture(scope="module")
def theirs() -> FCOS:
    backbone = nn.Conv2d(3, 32, 1)
    backbone.out_channels = 32  # type: ignore[assignment]
    return FCOS(backbone, CLASSES).eval()


def outputs(ours: Places) -> dict[str, Tensor]:
    return {"cls_logits": ours.classes, "bbox_regression": ours.sides, "bbox_ctrness": ours.centre[..., None]}


@pytest.mark.parametrize("seed", range(5))
def test_losses_are_torchvisions_of_one_image(theirs: FCOS, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ours, target = places(rng), truth(rng)
    weights = {"classification": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centre"}
    assert [int((assign(ours, target).labels >= 0).sum(1)[image]) > 0 for image in range(IMAGES)] == [
        True,
        True,
        True,
        False,
    ]
    for image in range(IMAGES):
        one = slice(image, image + 1)
        wanted = theirs.compute_loss(target[one], outputs(ours[one]), [ours.cells], list(ours.levels))
        for name, ours_name in weights.items():
            alone = {key: float(key == ours_name) for key in weights.values()}
            found = fcos(ours, target, **alone)[image]
            assert float(found) == pytest.approx(float(wanted[name]), rel=2e-5, abs=1e-6), name


def test_gradients_are_torchvisions(theirs: FCOS) -> None:
    rng = torch.Generator().manual_seed(7)
    ours, target = places(rng), truth(rng)
    for part in (ours.classes, ours.sides, ours.centre):
        part.requires_grad_(True)
    parts = [
        sum(theirs.compute_loss(target[i : i + 1], outputs(ours[i : i + 1]), [ours.cells], list(ours.levels)).values())
        for i in range(IMAGES)
    ]
    inputs = (ours.classes, ours.sides, ours.centre)
    wanted = torch.autograd.grad(sum(parts), inputs)  # type: ignore[arg-type]
    for found, one in zip(torch.autograd.grad(fcos(ours, target).sum(), inputs), wanted, strict=True):
        assert torch.allclose(found, one, atol=1e-6, rtol=1e-4)


def test_the_focal_loss_is_torchvisions() -> None:
    rng = torch.Generator().manual_seed(3)
    ours = places(rng, 10)
    none = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * IMAGES
    wanted = sigmoid_focal_loss(ours.classes, torch.zeros_like(ours.classes)).flatten(1).sum(1)
    assert torch.allclose(fcos(ours, none), wanted, rtol=1e-5)


@pytest.mark.parametrize(("seed", "spread"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 0.2)])
def test_detections_are_torchvisions(theirs: FCOS, seed: int, spread: float) -> None:
    ours = places(torch.Generator().manual_seed(seed), spread)
    theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img, theirs.topk_candidates = 0.05, 0.6, 100, 1000
    levels = {name: list(value.split(list(ours.levels), dim=1)) for name, value in outputs(ours).items()}
    cells = [list(ours.cells.split(list(ours.levels)))] * IMAGES
    wanted = theirs.postprocess_detections(levels, cells, [(SIZE, SIZE)] * IMAGES)
    found = decode(ours)
    assert sum(len(one["scores"]) for one in found) > (0 if spread < 1 else 50)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert torch.allclose(one["scores"], other["scores"], atol=1e-6)
        assert torch.allclose(one["boxes"], other["boxes"], atol=1e-3)


def detections(rng: torch.Generator, target: Truth, size: int = SIZE) -> Truth:
    """True boxes shifted, some of another class, some twice, and some where there is no object; one image has none."""
    found = []
    for image, one in enumerate(target):
        boxes, labels = one["boxes"].repeat(2, 1), one["labels"].repeat(2)
        boxes = boxes + torch.randn(boxes.shape, generator=rng) * 0.06 * size * torch.rand(len(boxes), 1, generator=rng)
        labels = torch.where(torch.rand(len(labels), generator=rng) < 0.2, (labels + 1) % CLASSES, labels)
        extra = truth(rng, 2, size)[0]
        boxes, labels = torch.cat([boxes, extra["boxes"]]), torch.cat([labels, extra["labels"]])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & (image != 1)
        scores = torch.rand(len(labels), generator=rng)
        found.append({"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]})
    return found


def rows(found: Truth, target: Truth) -> dict[str, np.ndarray]:
    parts = [
        row(*(one.numpy() for one in (f["boxes"], f["scores"], f["labels"], t["boxes"], t["labels"])))
        for f, t in zip(found, target, strict=True)
    ]
    return {key: np.stack([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_torchmetrics(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    target = truth(rng, 12)
    if seed == 5:  # class ids with gaps: only two classes occur
        target = [{**one, "labels": one["labels"] // 3 * 3} for one in target]
    found = detections(rng, target)
    # Its default thresholds are float32, so that a recall of 0.3 is not at 0.3; these are pycocotools'.
    steps = {"iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(), "rec_thresholds": RECALLS.tolist()}
    measure = MeanAveragePrecision(backend="faster_coco_eval", **steps)  # type: ignore[arg-type]
    measure.update(found, target)
    wanted, ours = measure.compute(), of("detect").summary(rows(found, target))
    assert 0.02 < ours["map"] < ours["map50"] < 0.95
    assert ours["map50"] == pytest.approx(float(wanted["map_50"]), abs=1e-6)
    assert ours["map"] == pytest.approx(float(wanted["map"]), abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_what_coco_defines(seed: int) -> None:
    """Compared with average precision written from its definition, which shares no line with any evaluator."""
    rng = torch.Generator().manual_seed(seed)
    target = truth(rng, 8)
    found = detections(rng, target)
    ours = of("detect").summary(rows(found, target))
    by_threshold = [by_definition(found, target, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    assert ours["map50"] == pytest.approx(by_threshold[0], abs=1e-6)
    assert ours["map"] == pytest.approx(float(np.mean(by_threshold)), abs=1e-6)


def by_definition(found: Truth, target: Truth, threshold: float) -> float:
    values = []
    for label in range(CLASSES):
        total = sum(int((one["labels"] == label).sum()) for one in target)
        if not total:
            continue
        matched = []
        for guess, true in zip(found, target, strict=True):
            boxes, free = guess["boxes"][guess["labels"] == label].double(), [True] * len(true["labels"])
            scores = guess["scores"][guess["labels"] == label]
            for place in scores.argsort(descending=True, stable=True).tolist():
                best, chosen = threshold, None
                for other in range(len(free)):
                    if free[other] and int(true["labels"][other]) == label:
                        share = overlapping(boxes[place].tolist(), true["boxes"][other].double().tolist())
                        if share >= best:
                            best, chosen = share, other
                if chosen is not None:
                    free[chosen] = False
                matched.append((float(scores[place]), chosen is not None))
        matched.sort(key=lambda pair: -pair[0])
        hits = np.cumsum([hit for _, hit in matched])
        precision, recall = hits / np.arange(1, len(matched) + 1), hits / total
        values.append(np.mean([max(precision[recall >= level], default=0.0) for level in RECALLS]))
    return float(np.mean(values))


def overlapping(one: list[float], other: list[float]) -> float:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def test_a_draw_of_the_bootstrap_is_the_figure_of_the_drawn_images() -> None:
    rng = torch.Generator().manual_seed(0)
    target = truth(rng, 10)
    counts = rows(detections(rng, target), target)
    drawn = np.array([0, 0, 3, 3, 3, 4, 5, 9, 8, 2])
    measure = _matched(counts)
    matches = np.array(measure._evalImgs_cpp, dtype=object).reshape(-1, 10)
    measure._evalImgs_cpp = matches[:, drawn].flatten().tolist()
    again = of("detect").summary({key: value[drawn] for key, value in counts.items()})
    assert _figures(measure) == pytest.approx(again, abs=1e-9)
    assert again != pytest.approx(of("detect").summary(counts), abs=1e-3)
    low, high = of("detect").interval(counts)
    assert low < of("detect").summary(counts)["map50"] < high
