"""JPEG without the file: what a decoder would show. Entropy coding is lossless, so it is left out.

Source: ITU-T T.81, Annex K (tables), A.3 (cosine transform); JFIF 1.02 (colours). As libjpeg does by default: chroma at half
the size (4:2:0), its formula from quality to tables, and smooth upsampling.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""The chroma table is 99 except in its corner of low frequencies."""
BLOCK, UNIT = 8, 16
COLOURS = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def tables(quality: int) -> tuple[Tensor, Tensor]:
    """The quantization steps [8, 8] of luma and chroma at a quality of 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    chroma = torch.full((BLOCK, BLOCK), 99)
    chroma[:4, :4] = torch.tensor(CHROMA_CORNER)
    luma, chroma = (
        (table * percent + 50).div(100, rounding_mode="floor").clamp(1, 255) for table in (torch.tensor(LUMA), chroma)
    )
    return luma.float(), chroma.float()


def compressed(x: Tensor, quality: int) -> Tensor:
    """Images [B, 3, H, W] in [0, 1], rounded to 8 bits, after JPEG compression at that quality."""
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(size + -size % UNIT, device=x.device).clamp_max(size - 1) for size in (height, width))
    padded = (255 * x).round()[..., rows[:, None], columns]
    mix = torch.tensor(COLOURS).to(x)
    luma, blue, red = torch.einsum("ij,bjhw->bihw", mix, padded).round().unbind(1)
    fine, coarse = (table.to(x.device) for table in tables(quality))
    luma = _quantized(luma - 128, fine) + 128
    chroma = _halved(torch.stack([blue, red], 1))
    chroma = F.interpolate(_quantized(chroma, coarse), scale_factor=2, mode="bilinear", align_corners=False).round()
    colours = torch.stack([luma, *chroma.unbind(1)], 1)
    shown = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mix.double()).to(x), colours)
    return shown[..., :height, :width].round().clamp(0, 255) / 255


def _halved(channels: Tensor) -> Tensor:
    """The means of 2 x 2 values as whole numbers; halves round down in one column and up in the next, as in libjpeg."""
    sums = 4 * F.avg_pool2d(channels, 2)
    return ((sums + 1 + torch.arange(sums.shape[-1], device=sums.device) % 2) / 4).floor()


def _quantized(channel: Tensor, steps: Tensor) -> Tensor:
    """Channels [..., H, W] centred at 0, with each block of 8 x 8 quantized in the frequency domain."""
    turn = _cosines().to(channel)
    blocks = channel.unflatten(-2, (-1, BLOCK)).unflatten(-1, (-1, BLOCK)).transpose(-3, -2)
    found = turn.T @ ((turn @ blocks @ turn.T / steps).round() * steps) @ turn
    return found.round().clamp(-128, 127).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _cosines() -> Tensor:
    """The orthonormal discrete cosine transform [8, 8] of a column."""
    frequency, place = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    waves = math.sqrt(2 / BLOCK) * torch.cos(math.pi * (2 * place + 1) * frequency / (2 * BLOCK))
    waves[0] /= math.sqrt(2)
    return waves
