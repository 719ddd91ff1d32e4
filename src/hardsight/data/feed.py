"""From a split to a batch on the device: choose indices, load samples, divide by 255; pixels are changed in no other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.errors import DataError
from hardsight.data.base import Images, Sample

RAGGED = ("boxes", "box_labels")
"""Targets whose length differs between images; in a batch they become one list, "boxes", with one dict per image."""


class Batch(NamedTuple):
    """ids [B]; images uint8 [B, 3, H, W], or clips [B, 3, T, H, W]; targets by name, [B, ...], except "boxes", a list.

    That list has one dict per image: boxes [N, 4] as x1 y1 x2 y2 in pixels, and labels [N].
    """

    ids: list[str]
    images: Tensor
    target: dict[str, Any]


def choose(images: Images, count: int | None, seed: int = 0) -> list[int]:
    """The indices of `count` images: the first of a seeded permutation, so that 100 images are the first 100 of 200.

    All indices, in that order, if count is None or larger than the split. The order depends only on the length of the split
    and the seed: every cell of a benchmark uses the same images.
    """
    if count is not None and count < 1:
        raise DataError(f"count is {count}; it must be at least 1 (None means all images)")
    order = torch.randperm(len(images), generator=seeds.generator("choose", seed)).tolist()
    return order if count is None else order[:count]


def load(
    images: Images,
    places: Sequence[int],
    on_error: Literal["stop", "skip"] = "stop",
    skipped: list[str] | None = None,
) -> Batch:
    """Loads the images at these indices, in order, with the `batch` method of the split if it has one.

    on_error: "stop" raises the first `DataError`; "skip" omits the image and appends the message to `skipped`. If no image
    remains, the batch is empty: no ids, images [0, 3, 0, 0], no targets.
    """
    if on_error not in ("stop", "skip"):
        raise DataError(f"on_error is '{on_error}'; it must be 'stop' or 'skip'")
    if (batch := getattr(images, "batch", None)) is not None:
        try:
            return Batch(*batch(places))
        except DataError:
            if on_error == "stop":
                raise
    samples = []
    for place in places:
        try:
            samples.append(images.sample(place))
        except DataError as error:
            if on_error == "stop":
                raise
            if skipped is not None:
                skipped.append(str(error))
    return stack(samples)


def readable(
    images: Images, places: Sequence[int], on_error: Literal["stop", "skip"], skipped: list[str]
) -> tuple[Batch, list[int]]:
    """Like `load`, but also returns the indices of the images that could be read."""
    batch = load(images, places, on_error, [])
    if len(batch.ids) == len(places):
        return batch, list(places)
    good = []
    for place in places:
        before = len(skipped)
        load(images, [place], "skip", skipped)
        if len(skipped) == before:
            good.append(place)
    return batch, good


def stack(samples: Sequence[Sample]) -> Batch:
    """A batch of samples. Raises `DataError`, with the sample's id, if sizes differ from the first or a box is invalid."""
    if not samples:
        return Batch([], torch.zeros(0, 3, 0, 0, dtype=torch.uint8), {})
    first = samples[0]
    names = [name for name in first.target if name not in RAGGED]
    for sample in samples:
        shape, wanted = list(sample.image.shape), list(first.image.shape)
        if shape != wanted:
            raise DataError(f"{sample.id} is {shape} but {first.id} is {wanted}; all images of a split must have one size")
        for name in names:
            if name not in sample.target or sample.target[name].shape != first.target[name].shape:
                raise DataError(f"{sample.id}: its {name} is missing or differs in size from that of {first.id}")
    target: dict[str, Any] = {name: torch.stack([sample.target[name] for sample in samples]) for name in names}
    if "boxes" in first.target:
        target["boxes"] = [boxes_of(sample) for sample in samples]
    return Batch([sample.id for sample in samples], torch.stack([sample.image for sample in samples]), target)


def boxes_of(sample: Sample) -> dict[str, Tensor]:
    """The boxes [N, 4] of a sample, clipped to its image, and their labels [N]; N may be 0.

    Raises `DataError`, with the sample's id, unless each box has one label and some area inside the image.
    """
    boxes, labels = (sample.target.get(name) for name in RAGGED)
    if boxes is None or labels is None or boxes.shape != (len(labels), 4):
        shapes = [None if one is None else list(one.shape) for one in (boxes, labels)]
        raise DataError(f"{sample.id} has boxes {shapes[0]} and box_labels {shapes[1]}; the shapes must be [N, 4] and [N]")
    high, wide = sample.image.shape[-2:]
    inside = torch.minimum(boxes.clamp_min(0), boxes.new_tensor([wide, high, wide, high]))
    lost = ~(inside[:, 2:] > inside[:, :2]).all(1)
    if bool(lost.any()):
        corners = ", ".join(f"{value:g}" for value in boxes[lost][0].tolist())
        raise DataError(f"{sample.id}: nothing of the box [{corners}] (x1 y1 x2 y2) lies within its {wide}x{high} pixels")
    return {"boxes": inside, "labels": labels}


def pixels(batch_images: Tensor, device: torch.device | str) -> Tensor:
    """uint8 images [B, 3, ...] as float32 in [0, 1] on the device; they are copied as uint8 and divided by 255 there."""
    if batch_images.dtype != torch.uint8:
        raise DataError(f"images must be uint8, 0 to 255; these are {batch_images.dtype}")
    return batch_images.to(device, non_blocking=True).to(torch.float32).div_(255)


ROUNDING = 1e-6
"""Values this far outside [0, 1] are rounding errors, as from undoing a normalization."""


def check_pixels(x: Tensor) -> Tensor:
    """The images as attacks use them, in float32 if they are fp16 or bf16, and with rounding errors outside [0, 1] clamped.

    Raises `DataError` unless x is [B, 3, H, W], or clips [B, 3, T, H, W], of real numbers in [0, 1]; NaN is an error.
    """
    if x.dim() not in (4, 5) or x.shape[1] != 3:
        raise DataError(f"images must be [B, 3, H, W], clips [B, 3, T, H, W]; these are {list(x.shape)}")
    if not x.is_floating_point():
        raise DataError(f"pixels must be real numbers in [0, 1], but these are {x.dtype}; give x.float() / 255 for 0 to 255")
    if x.numel() == 0:
        return x
    low, high = float(x.min()), float(x.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise DataError(
            f"pixels lie in [0, 1], but these range from {low:.7g} to {high:.7g}; divide uint8 images by 255, and pass "
            "images before normalization: the encoder normalizes them itself"
        )
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x if low >= 0 and high <= 1 else x.clamp(0, 1)
