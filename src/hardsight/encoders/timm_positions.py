"""Position embeddings of timm's vision transformers, interpolated as the authors of DINOv2 do.

They scale by (cells + 0.1) / cells of training, bicubically and without antialiasing; timm resizes to the number of cells,
with antialiasing. At 224 pixels of a network trained at 518 the features differ by some percent. The networks with registers
were released with an offset of 0 and antialiasing, which is what timm does. Source: facebookresearch/dinov2
models/vision_transformer.py, interpolate_pos_encoding, and hub/backbones.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hardsight.core.errors import SpecError

OFFSET = 0.1


class ByOffset(VisionTransformer):
    """A vision transformer whose position embeddings are interpolated by a scale factor, whatever the size of the image."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Tokens [B, 1 + h w, D], the class token first, of patches [B, h, w, D], with their positions."""
        own: Any = self
        count, high, wide, _ = x.shape
        tokens = torch.cat([own.cls_token.expand(count, -1, -1), x.flatten(1, 2)], 1)
        return own.pos_drop(tokens + scaled(own.pos_embed, own.patch_embed.grid_size, (high, wide)))


def by_offset(model: nn.Module, name: str) -> nn.Module:
    """The model, changed in place; `SpecError` unless it has learned positions of its class token and patches alone."""
    own: Any = model
    plain = type(model) is VisionTransformer and own.pos_embed is not None and own.cls_token is not None
    if not plain or own.reg_token is not None or own.no_embed_class or not own.dynamic_img_size:
        raise SpecError(f"timm:{name} has no position embeddings that positions='offset' is for; leave positions out")
    model.__class__ = ByOffset
    return model


def scaled(places: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings [1, 1 + h' w', D] of the grid of training, interpolated to a grid of (h, w) cells."""
    if tuple(trained) == grid:
        return places
    factor = [(cells + OFFSET) / before for cells, before in zip(grid, trained, strict=True)]
    maps = places[:, 1:].transpose(1, 2).unflatten(2, trained).float()
    maps = F.interpolate(maps, scale_factor=factor, mode="bicubic", antialias=False)
    assert tuple(maps.shape[-2:]) == grid
    return torch.cat([places[:, :1], maps.flatten(2).transpose(1, 2).to(places.dtype)], 1)
