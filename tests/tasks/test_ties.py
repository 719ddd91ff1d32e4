"""Equal and missing logits: of equal ones the first class counts, everywhere alike; an output with NaN is never right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardsight.data.base import IGNORE
from hardsight.metrics import of
from hardsight.specs.catalog import build


def figures(task: str, output: Tensor, target: Tensor) -> dict[str, float]:
    counts = build(task, "Task").counts(output, target)
    return of(task).summary({key: value.numpy() for key, value in counts.items()})


def test_constant_logits_score_as_a_guess_does() -> None:
    """A balanced set of 20 classes: the answer is always class 0, and the top five always classes 0 to 4."""
    found = figures("classify", torch.full((40, 20), 0.3), torch.arange(20).repeat(2))
    assert found == {"accuracy": pytest.approx(0.05), "top5": pytest.approx(0.25)}


@pytest.mark.parametrize("seed", range(3))
def test_top_5_is_that_of_a_stable_sort_and_holds_the_answer(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    output = torch.randint(0, 4, (200, 12), generator=rng).float()  # many ties
    target = torch.randint(0, 12, (200,), generator=rng)
    counts = build("classify", "Task").counts(output, target)
    order = output.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(counts["hits5"].bool(), (order[:, :5] == target[:, None]).any(1))
    assert torch.equal(counts["hits"].bool(), order[:, 0] == target)
    assert bool((counts["hits5"] >= counts["hits"]).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_logits_that_are_not_finite_are_wrong_in_top_1_and_top_5(value: float, everywhere: bool) -> None:
    output = torch.full((20, 20), value) if everywhere else torch.eye(20).index_fill(1, torch.tensor(7), value)
    assert figures("classify", output, torch.arange(20)) == {"accuracy": 0.0, "top5": 0.0}


def test_constant_and_missing_logits_of_pixels() -> None:
    """Four classes, one quarter of the pixels each: always class 0 is right on a quarter, NaN on none."""
    target = torch.arange(4).repeat_interleave(4).view(1, 4, 4).repeat(2, 1, 1)
    target[1, 0] = IGNORE  # the pixels of class 0 of the second image have no label
    constant, missing = torch.zeros(2, 4, 4, 4), torch.full((2, 4, 4, 4), torch.nan)
    assert figures("segment", constant, target)["pixel_accuracy"] == pytest.approx(4 / 28)
    assert figures("segment", constant, target)["miou"] == pytest.approx((4 / 28) / 4)
    assert build("segment", "Task").error(constant, target).tolist() == [0.75, 1.0]
    assert figures("segment", missing, target)["pixel_accuracy"] == 0
    assert build("segment", "Task").error(missing, target).tolist() == [1.0, 1.0]
