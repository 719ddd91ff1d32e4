"""The way from a split to a batch on the device: choose places, load them, divide by 255; nothing else touches a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.errors import DataError
from hardsight.data.base import Images, Sample

RAGGED = ("boxes", "box_labels")
"""Targets whose number differs from image to image; in a batch they are one list, "boxes", of a dict an image."""


class Batch(NamedTuple):
    """ids [B]; images uint8 [B, 3, H, W], or clips [B, 3, T, H, W]; target by name, [B, ...], and "boxes" a list.

    The list has a dict an image: boxes [N, 4] as x1 y1 x2 y2 in pixels, and labels [N].
    """

    ids: list[str]
    images: Tensor
    target: dict[str, Any]


def choose(images: Images, count: int | None, seed: int = 0) -> list[int]:
    """The places of `count` images: the first of a seeded permutation, so that 100 are the first 100 of 200.

    All of them, in that order, where count is None or more than there are. The order depends on the split's length and
    the seed alone: every cell of a benchmark sees the same images.
    """
    if count is not None and count < 1:
        raise DataError(f"count is {count}; there must be at least 1 image (None stands for all)")
    order = torch.randperm(len(images), generator=seeds.generator("choose", seed)).tolist()
    return order if count is None else order[:count]


def load(
    images: Images,
    places: Sequence[int],
    on_error: Literal["stop", "skip"] = "stop",
    skipped: list[str] | None = None,
) -> Batch:
    """The images at these places, in order, through the split's own `batch` where it has one.

    on_error: "stop" raises the first `DataError`; "skip" leaves the image out and appends the message to `skipped`. Where
    none is left, the batch is empty: no ids, images [0, 3, 0, 0], no target.
    """
    if on_error not in ("stop", "skip"):
        raise DataError(f"on_error is '{on_error}'; it can be 'stop' or 'skip'")
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
    """Like `load`, and the places of those that could be read."""
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
    """Samples of one size as a batch. `DataError`, with the sample's id, where one is unlike the first or a box is none."""
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
                raise DataError(f"{sample.id}: its {name} is missing or of another size than that of {first.id}")
    target: dict[str, Any] = {name: torch.stack([sample.target[name] for sample in samples]) for name in names}
    if "boxes" in first.target:
        target["boxes"] = [boxes_of(sample) for sample in samples]
    return Batch([sample.id for sample in samples], torch.stack([sample.image for sample in samples]), target)


def boxes_of(sample: Sample) -> dict[str, Tensor]:
    """The sample's boxes [N, 4], clipped to its image, and labels [N]; N may be 0.

    Raises `DataError`, with its id, where there is not one label a box, or nothing of a box lies within the image.
    """
    boxes, labels = (sample.target.get(name) for name in RAGGED)
    if boxes is None or labels is None or boxes.shape != (len(labels), 4):
        told = [None if one is None else list(one.shape) for one in (boxes, labels)]
        raise DataError(f"{sample.id} has boxes {told[0]} and box_labels {told[1]}; they are [N, 4] and [N]")
    high, wide = sample.image.shape[-2:]
    inside = torch.minimum(boxes.clamp_min(0), boxes.new_tensor([wide, high, wide, high]))
    lost = ~(inside[:, 2:] > inside[:, :2]).all(1)
    if bool(lost.any()):
        told = ", ".join(f"{value:g}" for value in boxes[lost][0].tolist())
        raise DataError(f"{sample.id}: nothing of the box [{told}], x1 y1 x2 y2, lies within its {wide}x{high} pixels")
    return {"boxes": inside, "labels": labels}


def pixels(batch_images: Tensor, device: torch.device | str) -> Tensor:
    """Bytes [B, 3, ...] as float32 in [0, 1] on the device; they travel as bytes and are divided there."""
    if batch_images.dtype != torch.uint8:
        raise DataError(f"images are uint8, 0 to 255; these are {batch_images.dtype}")
    return batch_images.to(device).to(torch.float32).div_(255)


def check_pixels(x: Tensor) -> None:
    """`DataError` unless x is [B, 3, H, W] or clips [B, 3, T, H, W], and all its values lie in [0, 1]; NaN does not."""
    if x.dim() not in (4, 5) or x.shape[1] != 3:
        raise DataError(f"images are [B, 3, H, W], clips [B, 3, T, H, W]; these are {list(x.shape)}")
    if x.numel() == 0:
        return
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"pixels lie in [0, 1], but these reach from {low:.4g} to {high:.4g}; divide bytes by 255, and pass images before "
            "normalization: the encoder normalizes within"
        )
