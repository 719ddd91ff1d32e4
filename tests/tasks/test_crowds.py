"""Images with more boxes than COCO's evaluation counts, or than a row usually has room for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.data.base import Data, DataCard, Sample
from hardsight.data.check import check, lines
from hardsight.metrics import of
from hardsight.metrics.detect import TRUE
from hardsight.specs.catalog import build
from hardsight.store.cells import StoredCell
from tests.tasks.test_detect import predicting


def crowd(count: int) -> list[tuple[float, float, float, float]]:
    """That many boxes of 2 x 2 pixels, apart from each other."""
    return [(4.0 * (n % 16), 4.0 * (n // 16), 4.0 * (n % 16) + 2, 4.0 * (n // 16) + 2) for n in range(count)]


def target(count: int) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(crowd(count)).view(-1, 4), "labels": torch.zeros(count, dtype=torch.int64)}


def counts(task: str, *images: int) -> dict[str, np.ndarray]:
    """The counts of images with so many boxes, all of them found exactly."""
    parts = []
    for count in images:
        output = predicting(*((*box, 0, 0.9 - n / 1000) for n, box in enumerate(crowd(count))))
        parts.append(build(task, "Task").counts(output, [target(count)]))
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}


def test_the_limit_of_detections_is_a_setting() -> None:
    """150 boxes, all found: with COCO's 100 detections recall ends at 2/3, so 67 of 101 recall levels have precision 1."""
    metric = of("detect")
    assert metric.summary(counts("detect", 150))["map"] == pytest.approx(67 / 101)
    assert metric.summary(counts("detect(max_detections=150)", 150)) == {"map50": 1.0, "map": 1.0}
    assert metric.interval(counts("detect(max_detections=150)", 150, 150)) == (1, 1)
    with pytest.raises(SpecError, match="max_detections is 0; it must be at least 1"):
        build("detect(max_detections=0)", "Task")


def test_the_error_counts_as_many_detections_as_the_figure() -> None:
    boxes = [(*box, 0, 0.9 - n / 1000) for n, box in enumerate(crowd(120))]
    for task, wanted in (("detect", 1 - 100 / 120), ("detect(max_detections=200)", 0)):
        assert build(task, "Task").error(predicting(*boxes), [target(120)]).item() == pytest.approx(wanted)


def test_no_number_of_true_boxes_ends_a_run(tmp_path: Path) -> None:
    """Chunks with lists of different lengths give one table: the shorter ones are padded."""
    stored = StoredCell(tmp_path, {})
    for place, images in enumerate((3, TRUE + 50, 0)):
        found = counts("detect(max_detections=256)", images)
        stored.write_chunk(place, {"id": np.array([str(place)]), **{f"counts.{key}": v for key, v in found.items()}})
    rows = stored.rows()
    assert rows["counts.truth"].shape == (3, TRUE + 50, 4) and rows["counts.found"].shape == (3, 256, 4)
    assert (rows["counts.truth_labels"] >= 0).sum(1).tolist() == [3, TRUE + 50, 0]
    summary = of("detect").summary({key.removeprefix("counts."): v for key, v in rows.items() if key != "id"})
    assert summary == {"map50": 1.0, "map": 1.0}


class Crowded:
    def __len__(self) -> int:
        return 2

    def sample(self, place: int) -> Sample:
        boxes = {"boxes": target(130 * place)["boxes"], "box_labels": target(130 * place)["labels"]}
        return Sample(str(place), torch.zeros(3, 64, 64, dtype=torch.uint8), boxes)


def test_check_reports_the_largest_number_of_boxes() -> None:
    found = check(Data(DataCard("crowd", ("boxes",), (64, 64), ("cell",)), {"test": Crowded()}), None)
    assert found["splits"]["test"]["targets"]["boxes"]["most"] == 130 and not found["problems"]
    assert "at most 130 per image (mAP counts 100 detections of an image; for more: --task" in "\n".join(lines(found))
