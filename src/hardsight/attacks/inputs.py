"""What attacks are given, checked with one sentence each: images and targets, and what the model returns for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardsight.core.errors import DataError, ShapeError
from hardsight.data.base import IGNORE
from hardsight.data.feed import check_pixels
from hardsight.losses.places import Places
from hardsight.tasks.base import Task


def checked(x: Tensor, y: Any, task: Task) -> tuple[Tensor, Any]:
    """Images x [B, 3, ...] and their targets as attacks use them; raises `DataError` where they cannot be attacked.

    fp16 and bf16 images become float32, labels and masks of any whole-number dtype int64. y may be None.
    """
    return check_pixels(x), target_of(y, x, task)


def target_of(y: Any, x: Tensor, task: Task) -> Any:
    """Targets of the images x, whole numbers as int64; raises `DataError` if labels or masks are not class numbers."""
    if y is None or task.target not in ("label", "mask"):
        return y
    single, places = task.target == "label", list(x.shape[-2:])
    wanted = f"class numbers [{', '.join(map(str, [len(x)] if single else [len(x), *places]))}]"
    what = "labels" if single else "masks"
    if not isinstance(y, Tensor):
        raise DataError(f"{task.name}: {what} must be a tensor of {wanted}; these are a {type(y).__name__}")
    found = f"{list(y.shape)} of {y.dtype}"
    if single and y.dim() == 2 and len(y) == len(x):
        change = "y.squeeze(1)" if y.shape[1] == 1 else "y.argmax(1)"
        raise DataError(f"{task.name}: {what} must be {wanted}; these are {found}: give {change}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"{task.name}: {what} must be {wanted} of whole numbers; these are {found}: give y.long()")
    if y.dim() != (1 if single else 3) or len(y) != len(x):
        raise DataError(f"{task.name}: {what} must be {wanted}; these are {found}")
    y = y.long()
    if len(y) and int(y.min()) < 0:
        none = f"; a pixel without a class is {IGNORE}" if not single else "; leave out images that have no label"
        raise DataError(f"{task.name}: {what} must be {wanted} from 0 up; these include {int(y.min())}{none}")
    return y


def greatest_class(y: Any, task: Task) -> int:
    """The greatest class number of labels or masks y, which the model must distinguish; -1 if there is none."""
    if task.target not in ("label", "mask") or not isinstance(y, Tensor) or not len(y):
        return -1
    return int((y if task.target == "label" else torch.where(y == IGNORE, 0, y)).max())


def shaped(output: Any, x: Tensor, y: Any, task: Task, most: int | None = None) -> Any:
    """The output, unchanged; raises `ShapeError`, with both shapes, if it does not fit images x with targets y.

    most: `greatest_class`, for a caller that asks in each step of a search, where a GPU's answer would be waited for.
    """
    if task.target == "boxes" and not (isinstance(output, Places) and len(output) == len(x)):
        tensor = getattr(output, "classes", output)
        what = f"{type(output).__name__} {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(output).__name__
        raise ShapeError(
            f"{task.name}: the model returns {what} for images {list(x.shape)}; it should return Places of classes [{len(x)}, P, K]"
        )
    place = list(y.shape[1:]) if isinstance(y, Tensor) else list(x.shape[-2:])
    count = len(x)
    known = {"label": [count, "K"], "mask": [count, "K", *place], "depth": [count, *place]}
    if task.target in known and not isinstance(output, Tensor):
        raise ShapeError(
            f"{task.name}: the model returns {_named(output)} for images {list(x.shape)}; "
            f"it should return one tensor [{', '.join(map(str, known[task.target]))}]"
        )
    if not isinstance(output, Tensor) or not isinstance(y, Tensor):
        return output
    wanted = known.get(task.target, [count])
    fits = len(output.shape) >= len(wanted) and all(
        want in ("K", have) for want, have in zip(wanted, output.shape, strict=False)
    )
    if not fits or (len(wanted) > 1 and output.dim() != len(wanted)):
        raise ShapeError(
            f"{task.name}: the model returns {list(output.shape)} for images {list(x.shape)}; "
            f"it should return [{', '.join(map(str, wanted))}]"
        )
    if task.target in ("label", "mask"):
        most = greatest_class(y, task) if most is None else most
        if most >= output.shape[1]:
            raise ShapeError(f"{task.name}: the model distinguishes {output.shape[1]} classes, but a target is class {most}")
    return output


def _named(output: Any) -> str:
    """What an output that is no tensor consists of: "a dict of logits [6, 5], loss []"."""
    entries = output.items() if hasattr(output, "items") else enumerate(output) if isinstance(output, tuple | list) else ()
    parts = [f"{key} {list(value.shape) if isinstance(value, Tensor) else type(value).__name__}" for key, value in entries]
    return f"a {type(output).__name__}" + (f" of {', '.join(parts)}" if parts else "")
