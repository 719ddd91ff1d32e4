"""Images, labels and models as people have them: attacked rightly, or refused with one sentence before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hardsight.core.errors import DataError, ShapeError
from hardsight.data.feed import check_pixels
from hardsight.measure.evaluate import evaluate
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system, toy_target

COUNT = 6
ATTACKS = ["classpgd(2)", "cascade([clean, classpgd(2)])", "warm(embed(2), attack(pgd(2)))", "corrupt(fog)"]


def attack(x: Any, y: Any, spec: str = "classpgd(2)", task: str = "classify", threat: str = "linf(8/255)") -> Tensor:
    """x_adv of an attack on the toy system."""
    system = toy_system(build(task, "Task"))
    threat = "rms(1)" if "corrupt" in spec else threat
    return build(spec, "Attack")(system, x, y, build(threat, "Threat"), torch.Generator().manual_seed(0)).x_adv


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("spec", ATTACKS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_images_of_whole_numbers_are_refused_even_where_they_hold_only_0_and_1(spec: str, dtype: torch.dtype) -> None:
    x = (toy_images(COUNT) > 0.5).to(dtype)
    with pytest.raises(DataError, match=rf"^pixels must be real numbers in \[0, 1\], but these are {dtype}"):
        attack(x, LABELS, spec)


@pytest.mark.parametrize("threat", ["linf(8/255)", "l2(0.5)", "l1(5)"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision_end_inside_their_ball(dtype: torch.dtype, threat: str) -> None:
    """In bf16, 8/255 from 0.9 rounds to up to 0.0018 more."""
    x = toy_images(COUNT).to(dtype)
    found, ball = attack(x, LABELS, threat=threat), build(threat, "Threat")
    assert found.dtype == torch.float32
    assert (ball.size(found - x.float()) <= ball.eps * (1 + 1e-5)).all()
    assert torch.equal(found, attack(x.float(), LABELS, threat=threat))
    rows, _ = evaluate(toy_system(build("classify", "Task")), build("embed(2)", "Attack"), ball, x, LABELS, ["i"] * COUNT)
    assert (rows["size"] <= ball.eps * (1 + 1e-5)).all()


def test_rounding_errors_at_the_edge_are_clamped_and_more_is_named_with_its_digits() -> None:
    x = toy_images(COUNT)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1 + 1e-7, -1e-7
    assert (check_pixels(x).min(), check_pixels(x).max()) == (0, 1)
    assert 0 <= attack(x, LABELS).min() <= attack(x, LABELS).max() <= 1
    x[0, 0, 0, 0] = 1.0001
    with pytest.raises(DataError, match=r"range from -1e-07 to 1\.0001; divide"):
        attack(x, LABELS)
    inside = toy_images(2)
    assert check_pixels(inside) is inside


@pytest.mark.parametrize("spec", ATTACKS)
@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.where(LABELS == 3, -1, LABELS), "from 0 up; these include -1; leave out images that have no label"),
        (LABELS.float(), r"whole numbers; these are \[6\] of torch.float32: give y.long"),
        (LABELS > 2, "torch.bool"),
        (torch.nn.functional.one_hot(LABELS, 5), r"these are \[6, 5\] of torch.int64: give y.argmax\(1\)"),
        (torch.nn.functional.one_hot(LABELS, 5).float(), r"these are \[6, 5\] of torch.float32: give y.argmax\(1\)"),
        (LABELS[:, None], r"these are \[6, 1\] of torch.int64: give y.squeeze\(1\)"),
        (LABELS[:5], r"labels must be class numbers \[6\]; these are \[5\] of torch.int64"),
        (LABELS.tolist(), r"must be a tensor of class numbers \[6\]; these are a list"),
        (LABELS.numpy(), "these are a ndarray"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused_with_what_to_give(spec: str, y: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"^classify: .*{says}"):
        attack(toy_images(COUNT), y, spec)
    with pytest.raises(DataError, match=says):
        evaluate(toy_system(build("classify", "Task")), build("clean", "Attack"), build("linf(0.1)", "Threat"),
                 toy_images(COUNT), y, ["i"] * COUNT)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16])
def test_labels_and_masks_of_any_whole_numbers_are_taken(dtype: torch.dtype) -> None:
    assert torch.equal(attack(toy_images(COUNT), LABELS.to(dtype)), attack(toy_images(COUNT), LABELS))
    system = toy_system(build("segment", "Task"))
    mask = toy_target(system.task, 3)
    rows = [
        evaluate(system, build("segpgd(2)", "Attack"), build("linf(0.1)", "Threat"), toy_images(3), y, ["i"] * 3,
                 torch.Generator().manual_seed(0))[0]["error"].tolist()
        for y in (mask, mask.to(dtype))
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_masks_out_of_range_are_refused() -> None:
    mask = toy_target(build("segment", "Task"), 3)
    with pytest.raises(DataError, match=r"^segment: masks .* these include -1; a pixel without a class is 255"):
        attack(toy_images(3), torch.where(mask == 255, -1, mask), "segpgd(2)", "segment")
    with pytest.raises(ShapeError, match="distinguishes 6 classes, but a target is class 6"):
        attack(toy_images(3), torch.where(mask == 5, 6, mask), "segpgd(2)", "segment")
    with pytest.raises(DataError, match=r"class numbers \[3, 16, 16\]; these are \[3, 1, 16, 16\]"):
        attack(toy_images(3), mask[:, None], "segpgd(2)", "segment")


@pytest.mark.parametrize("task", ["classify", "segment", "depth"])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_models_that_return_no_tensor_are_refused_with_what_they_return(task: str, form: str) -> None:
    whole = toy_system(build(task, "Task"))

    class Answers(System):
        def output(self, x: Tensor) -> Any:
            out = super().output(x)
            return (out, out.sum()) if form == "tuple" else {"logits": out, "loss": None}

    system = Answers(whole.encoder, whole.head, whole.task)
    shape = list(whole.output(toy_images(3)).shape)
    parts = f"0 {shape}, 1 []" if form == "tuple" else f"logits {shape}, loss NoneType"
    for spec in ("pgd(2)", "cascade([clean, pgd(2)])"):
        with pytest.raises(ShapeError) as error:
            build(spec, "Attack")(system, toy_images(3), toy_target(whole.task, 3), build("linf(0.1)", "Threat"))
        assert f"the model returns a {form} of {parts} for images [3, 3, 16, 16]; it should return one tensor [" in str(
            error.value
        )
