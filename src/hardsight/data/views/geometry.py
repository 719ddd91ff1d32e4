"""View geometry: one crop per image, cropped, flipped and resized in a single resampling of the batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.core.when import When

TRIES = 10
"""How many times torchvision tries to draw a crop that fits, before it takes a centre crop."""


class Crop(NamedTuple):
    """Crops of B images, each field [B], on the CPU. Image coordinates go from -1 to 1, left to right and top to bottom.

    across, down: the centre of a crop. wide, high: its share of the image's width and height; a negative share flips it.
    """

    across: Tensor
    down: Tensor
    wide: Tensor
    high: Tensor


def any_crop(count: int, scale: tuple[float, float], ratio: tuple[float, float], aspect: float, when: When) -> Crop:
    """Crops of any real position, area and aspect ratio; a crop wider or higher than the image is reduced to fit.

    scale: minimum and maximum area, as a share of the image. ratio: width to height. aspect: the image's own ratio.
    """
    area = when.uniform(count, *scale)
    shape = when.uniform(count, math.log(ratio[0]), math.log(ratio[1])).exp()
    wide, high = (area * shape / aspect).sqrt().clamp_max(1), (area / shape * aspect).sqrt().clamp_max(1)
    across, down = when.uniform(count, -1, 1) * (1 - wide), when.uniform(count, -1, 1) * (1 - high)
    return Crop(across, down, wide, high)


def pixel_crop(
    count: int, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int, when: When
) -> Crop:
    """Crops of whole pixels, drawn again while they do not fit into the image; torchvision's RandomResizedCrop.

    After `TRIES` failures it is a centre crop, as large as the ratio allows: the whole image if that is square.
    """
    area = height * width * when.uniform(count * TRIES, *scale)
    shape = when.uniform(count * TRIES, math.log(ratio[0]), math.log(ratio[1])).exp()
    wide, high = ((area * shape).sqrt().round().view(-1, TRIES), (area / shape).sqrt().round().view(-1, TRIES))
    fits = (wide > 0) & (high > 0) & (wide <= width) & (high <= height)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    wide = torch.where(found, wide.gather(1, first)[:, 0], min(width, round(height * ratio[1])))
    high = torch.where(found, high.gather(1, first)[:, 0], min(height, round(width / ratio[0])))
    top, left = when.uniform(count), when.uniform(count)
    top = torch.where(found, (top * (height - high + 1)).floor(), ((height - high) / 2).floor())
    left = torch.where(found, (left * (width - wide + 1)).floor(), ((width - wide) / 2).floor())
    return Crop((2 * left + wide) / width - 1, (2 * top + high) / height - 1, wide / width, high / height)


def mirrored(crop: Crop, when: When) -> Crop:
    """Flips each crop horizontally with probability 0.5."""
    return crop._replace(wide=crop.wide * torch.where(when.uniform(len(crop.wide)) < 0.5, -1.0, 1.0))


def cut(x: Tensor, crop: Crop, size: tuple[int, int], fenced: bool) -> Tensor:
    """Each crop of the images x [B, C, H, W], resized to `size` (rows, columns): [B, C, *size].

    Bilinear, with antialiasing when shrinking. fenced: do not read pixels outside the crop; it must then consist of whole
    pixels.
    """
    if size[0] < x.shape[2] or size[1] < x.shape[3]:
        return _smoothed(x, crop, size, fenced)
    across = _places(crop.across, crop.wide, size[1], x.shape[3], fenced).to(x, non_blocking=True)
    down = _places(crop.down, crop.high, size[0], x.shape[2], fenced).to(x, non_blocking=True)
    grid = torch.stack([across[:, None, :].expand(-1, size[0], -1), down[:, :, None].expand(-1, -1, size[1])], 3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _smoothed(x: Tensor, crop: Crop, size: tuple[int, int], fenced: bool) -> Tensor:
    """Resamples rows and columns with one matrix each: slower than grid sampling, but averages any number of pixels."""
    columns = _weights(crop.across, crop.wide, size[1], x.shape[3], fenced).to(x, non_blocking=True)
    rows = _weights(crop.down, crop.high, size[0], x.shape[2], fenced).to(x, non_blocking=True)
    return apart(x, rows, columns)


def apart(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns' of images x [B, C, H, W], with rows [B, h, H] and columns [B, w, W]: [B, C, h, w]."""
    count, channels, height, width = x.shape
    x = torch.bmm(x.reshape(count, channels * height, width), columns.transpose(1, 2))
    return rows[:, None] @ x.view(count, channels, height, -1)


def _places(middle: Tensor, share: Tensor, count: int, length: int, fenced: bool) -> Tensor:
    """The positions, from -1 to 1, of `count` pixels of each crop along an image side of `length` pixels: [B, count]."""
    centres = torch.linspace(-1, 1, count) * (count - 1) / count
    places = share[:, None] * centres + middle[:, None]
    if fenced:
        reach = (share.abs() - 1 / length)[:, None]
        places = torch.minimum(torch.maximum(places, middle[:, None] - reach), middle[:, None] + reach)
    return places


def _weights(middle: Tensor, share: Tensor, count: int, length: int, fenced: bool) -> Tensor:
    """The weight of each of `length` pixels in each of `count` new ones: a triangle filter, scaled by the shrink factor."""
    places = ((_places(middle, share, count, length, False) + 1) * length - 1) / 2
    stretch = (share.abs() * length / count).clamp_min(1)[:, None, None]
    pixels = torch.arange(length)
    weights = (1 - (places[:, :, None] - pixels).abs() / stretch).clamp_min(0)
    if fenced:
        centres = (2 * pixels + 1) / length - 1
        weights = weights * ((centres - middle[:, None]).abs() < share.abs()[:, None])[:, None]
    return weights / weights.sum(2, keepdim=True)


def shifted(x: Tensor, padding: int, flip: bool, when: When) -> Tensor:
    """Images x [B, C, H, W] shifted by up to `padding` whole pixels, filled with black, and randomly flipped if `flip`."""
    count, channels, height, width = x.shape
    top, left = ((when.uniform(count) * (2 * padding + 1)).long() for _ in range(2))
    rows, columns = top[:, None] + torch.arange(height), left[:, None] + torch.arange(width)
    if flip:
        columns = torch.where((when.uniform(count) < 0.5)[:, None], columns.flip(1), columns)
    each = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return F.pad(x, (padding,) * 4)[
        each,
        channel,
        rows.to(x.device, non_blocking=True)[:, None, :, None],
        columns.to(x.device, non_blocking=True)[:, None, None, :],
    ]
