"""MAE: most patches of an image are hidden, and a transformer that sees the others predicts their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step


class MAELearner(Learner):
    """Draws a view, the order of its patches (the first ones are visible), and the patches' targets.

    The last two do not have an image's shape, so a wrapper does not change them: an adversary perturbs the visible patches,
    under the same mask, to raise the error on the clean image's hidden patches.
    """

    sees = 1

    def __init__(self, encoder: Encoder, views: Views, share: float, decoder: Decoder) -> None:
        super().__init__(encoder, views)
        self.share = share
        self.decoder = decoder

    def draw(self, samples: Samples, when: When) -> Drawn:
        (x,) = self.views(samples.x, when)
        goal = patches(self._pixels(x).float(), self._side())
        count, length = goal.shape[:2]
        seen = int(length * (1 - self.share))
        if not 0 < seen < length:
            size = "x".join(str(side) for side in x.shape[-2:])
            raise SpecError(
                f"mae: of the {length} patches of {size} pixels, {seen} would be visible; give larger images or another share"
            )
        order = when.uniform(count * length).view(count, length).argsort(1).to(x.device)
        return x, order, (goal - goal.mean(-1, keepdim=True)) / (goal.var(-1, keepdim=True) + 1e-6).sqrt()

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        if len(views) != 3 or views[1].dim() != 2:
            raise SpecError("mae takes one view, the order of its patches and their targets, as its `draw` returns them")
        x, order, goal = views
        pixels, seen = self._pixels(x), int(order.shape[1] * (1 - self.share))
        grid = pixels.shape[-2] // self._side(), pixels.shape[-1] // self._side()
        predicted = self.decoder(self._visible(pixels, order[:, :seen]), order[:, :seen], grid)
        error = (predicted.float() - goal).square().mean(-1)
        return Step(error.gather(1, order[:, seen:]).mean(1), {})

    def _pixels(self, x: Tensor) -> Tensor:
        """Normalized, as the encoder's body gets them."""
        return (self.encoder._fit(x)[0] - self.encoder.mean) / self.encoder.std

    def _side(self) -> int:
        return self.encoder.body.model.patch_embed.patch_size[0]

    def _visible(self, pixels: Tensor, seen: Tensor) -> Tensor:
        """The encoder's tokens of the patches `seen` [B, n], after the prefix tokens, such as the class token."""
        model = self.encoder.body.model
        tokens = model._pos_embed(model.patch_embed(pixels))
        front, rest = tokens[:, : model.num_prefix_tokens], tokens[:, model.num_prefix_tokens :]
        kept = rest.gather(1, seen[:, :, None].expand(-1, -1, rest.shape[-1]))
        return model.norm(model.blocks(model.norm_pre(torch.cat([front, kept], 1))))


class Decoder(nn.Module):
    """From the tokens of visible patches to the pixels of all; front: number of prefix tokens."""

    def __init__(self, dim: int, front: int, pixels: int, width: int, depth: int, heads: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.front = front
        self.narrow = nn.Linear(dim, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(width)
        self.tell = nn.Linear(width, pixels)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor, seen: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, L, P]: predicted pixels of the grid's L patches; tokens [B, front + n, D] of the patches `seen` [B, n]."""
        found = self.narrow(tokens)
        count, _, width = found.shape
        hidden = self.hidden.to(found.dtype).expand(count, grid[0] * grid[1], width)
        all_patches = hidden.scatter(1, seen[:, :, None].expand(-1, -1, width), found[:, self.front :])
        all_patches = all_patches + positions(grid, width).to(found)
        return self.tell(self.norm(self.blocks(torch.cat([found[:, : self.front], all_patches], 1)))[:, self.front :])


def patches(x: Tensor, side: int) -> Tensor:
    """Images x [B, C, H, W] as [B, L, side side C] patches, row by row; within a patch, channels vary fastest."""
    count, channels = x.shape[:2]
    cut = x.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 4, 5, 1).reshape(count, -1, side * side * channels)


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """[L, width]: sines and cosines of each patch's column, then of its row; width must be divisible by 4.

    Source: He et al., CVPR 2022; facebookresearch/mae has the column first as well.
    """
    speed = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * speed for place in (columns, rows)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


@dataclass(frozen=True)
class MAE:
    share: float
    width: int
    depth: int
    heads: int
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        from timm.layers.patch_embed import PatchEmbed
        from timm.models.vision_transformer import VisionTransformer

        model: Any = getattr(encoder.body, "model", None)
        if not isinstance(model, VisionTransformer) or not isinstance(model.patch_embed, PatchEmbed):
            raise SpecError(
                f"mae hides the patch tokens of a timm vision transformer, and {encoder.card.name} has none; "
                "try timm(vit_small_patch16_224, pretrained=False)"
            )
        side = int(model.patch_embed.patch_size[0])  # type: ignore[arg-type]
        decoder = Decoder(model.embed_dim, model.num_prefix_tokens, 3 * side**2, self.width, self.depth, self.heads)
        return MAELearner(encoder, self.views, self.share, decoder)


@register
def mae(
    share: float = 0.75,
    width: int = 512,
    depth: int = 8,
    heads: int = 16,
    views: Views = views(1, scale=(0.2, 1.0), jitter=0.0, grey=0.0),
) -> Method:
    """MAE (He et al., CVPR 2022): the squared error of hidden patches' pixels, each patch with mean 0 and variance 1.

    share: of the patches that are hidden. width, depth, heads: of the decoder, which is not exported. The encoder must be a
    vision transformer of timm. differs: its position embeddings are its own, learned ones, where the authors' are fixed
    sines.
    """
    if not 0 < share < 1:
        raise SpecError(f"mae: share is {share}; it must be between 0 and 1")
    if width % 4 or width % heads:
        raise SpecError(f"mae: width is {width}; it must be divisible by 4 and by the {heads} heads")
    if views.count != 1:
        raise SpecError(f"mae takes 1 view, and these views are {views.count}")
    return MAE(share, width, depth, heads, views)
