"""How the vision encoders of transformers answer, by model type: what is a patch, a stage or a map, and in which order.

Every family answers in its own way (tokens with others before or after them, maps with channels first or last, one hidden
state a block or a stage), and a wrong guess gives features of a right shape at wrong places. So only the families of this
table are read, each of which a test has seen to put a bright patch into the right cell; others are refused by name. The last
layer is the library's `last_hidden_state`, so with its final norm where it has one.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.encoders.adapt import need_side, positions
from hardsight.encoders.base import BodyOutput

Pool = Literal["auto", "cls", "mean", "pooler"]


class Family(NamedTuple):
    """Answers of a family.

    norm: the final norm, a module's name, under which tokens of inner layers are returned too; "" without one. back: the
    config's field with the number of tokens after the patches. free: whether it takes any size without being told to. pool: what
    pooled="auto" is, for tokens. maps: whether its layers are maps, of one stage each; states: the field that holds them.
    last: channels come last in them. stages: how many of them there are: the config's field, whose length it is. multiple:
    of sides in pixels, 0 for a network that takes the config's size only.
    """

    norm: str = ""
    back: str = ""
    free: bool = False
    pool: Pool = "auto"
    maps: bool = False
    states: str = "hidden_states"
    last: bool = False
    stages: str = "depths"
    multiple: int = 1


PLAIN, FREE = Family("layernorm"), Family("layernorm", free=True)
CLIP, STAGES = Family(pool="pooler"), Family(maps=True)
WINDOWS = Family(maps=True, states="reshaped_hidden_states")
SAM = Family(maps=True, last=True, stages="", multiple=0)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("vit", "deit", "vit_mae", "vit_msn", "ijepa"), PLAIN),
    **dict.fromkeys(
        ("beit", "data2vec-vision", "dinov2", "dinov2_with_registers", "dpt", "pixio", "tipsv2_vision_model"), FREE
    ),
    "internvl_vision": FREE,
    "dinov3_vit": Family("norm", free=True),
    "sapiens2": Family("norm", free=True),
    "radio": Family(free=True),
    "yolos": Family("layernorm", back="num_detection_tokens", free=True),
    "clip_vision_model": CLIP,
    "chinese_clip_vision_model": CLIP,
    "mlcd_vision_model": CLIP._replace(free=True),
    "siglip_vision_model": Family("post_layernorm", pool="pooler"),
    "aimv2_vision_model": Family("rms_norm", pool="pooler"),
    "vitdet": Family(maps=True, stages="", multiple=-1),
    **dict.fromkeys(("sam_vision_model", "sam_hq_vision_model"), SAM),
    **dict.fromkeys(
        ("convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet", "bit", "poolformer", "pvt_v2"), STAGES
    ),
    **dict.fromkeys(("segformer", "glpn"), STAGES),
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "focalnet"), WINDOWS),
    "hiera": WINDOWS._replace(last=True, multiple=0),
    "pvt": Family(maps=True, multiple=0),
    "levit": Family(maps=True, multiple=0),
    "cvt": Family(maps=True, stages="depth"),
    **dict.fromkeys(("mobilevit", "mobilevitv2", "mobilenet_v1", "mobilenet_v2"), STAGES._replace(stages="")),
    **dict.fromkeys(("efficientnet", "swiftformer", "textnet"), STAGES._replace(stages="")),
    "hgnet_v2": Family(maps=True, stages="stage_in_channels"),
}
"""Model type -> its family. Without `stages`, every hidden state is a layer, except the input of the first block."""
POSITIONS = ("pos_embed_rescale", "pos_embed_shift", "pos_embed_jitter")
"""Random changes of the positions in train mode (DINOv3, Sapiens 2): another network for every draw, so they are off."""


def family_of(config: Any, name: str) -> Family:
    """The family of a config; `SpecError`, which names it, for a model that is not in the table."""
    kind = str(config.model_type)
    if kind in FAMILIES:
        return FAMILIES[kind]
    if kind.startswith("timm"):
        raise SpecError(f"hf:{name} is a model of timm; use timm:NAME with its name there")
    raise SpecError(f"hf:{name} is a {kind}, none of the vision encoders that hf reads: {', '.join(sorted(FAMILIES))}")


def at_rest(config: Any) -> str:
    """Turns off, in a config, what is drawn at random in train mode beside dropout; the note for the card."""
    found = [key for key in POSITIONS if getattr(config, key, None)]
    for key in found:
        setattr(config, key, None)
    return f"{', '.join(found)} off" if found else ""


class HfBody(nn.Module):
    """A vision encoder of transformers, of a family of the table."""

    def __init__(self, model: Any, name: str, pooled: Pool = "auto") -> None:
        super().__init__()
        config: Any = model.config
        self.model: Any = model
        self.name, self.pooled, self.bgr = name, pooled, False
        self.family = family_of(config, name)
        patch, native = (_first(getattr(config, key, None)) for key in ("patch_size", "image_size"))
        self.native = native or 224
        self.patch = 0 if self.family.maps else patch
        accepted = inspect.signature(model.forward).parameters
        self.extra = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
        many = self.family.multiple
        free = many != 0 if self.family.maps else bool(self.family.free or self.extra)
        self.fixed = 0 if free else self.native
        self.multiple = 1 if not free else self.patch or (patch if many < 0 else many)
        self.masked = hasattr(config, "mask_ratio")
        if self.masked:
            config.mask_ratio = 0.0
        self.depth = self._depth(config)

    def _depth(self, config: Any) -> int:
        if not self.family.maps:
            return int(config.num_hidden_layers)
        if self.family.stages:
            return len(getattr(config, self.family.stages))
        side = self.fixed or max(64, 2 * self.multiple)
        with torch.no_grad():
            states = self._run(torch.zeros(1, 3, side, side))[self.family.states]
        return len(states) - (1 if hasattr(config, "num_hidden_layers") and "num_attention_heads" in config.to_dict() else 0)

    def _run(self, pixels: Tensor) -> Any:
        extra: dict[str, Any] = dict(self.extra)
        if self.masked and self.patch:  # nothing is masked, and patches stay in their order
            count = (pixels.shape[-2] // self.patch) * (pixels.shape[-1] // self.patch)
            extra["noise"] = torch.arange(count, device=pixels.device, dtype=pixels.dtype).expand(pixels.shape[0], -1)
        return self.model(pixel_values=pixels, output_hidden_states=True, return_dict=True, **extra)

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.fixed:
            need_side(pixels, self.fixed, self.name)
        pixels = pixels.flip(1) if self.bgr else pixels
        out = self._run(pixels)
        wanted = positions(layers, self.depth, self.name)
        return self._maps(out, pixels, wanted) if self.family.maps else self._tokens(out, pixels, wanted)

    def _tokens(self, out: Any, pixels: Tensor, wanted: tuple[int, ...]) -> BodyOutput:
        grid = tuple(side // self.patch for side in pixels.shape[-2:])
        cells, last = grid[0] * grid[1], out.last_hidden_state
        back = int(getattr(self.model.config, self.family.back)) if self.family.back else 0
        front = last.shape[1] - cells - back
        norm = self.model.get_submodule(self.family.norm) if self.family.norm else nn.Identity()
        tokens = [last if i == self.depth - 1 else norm(out.hidden_states[i + 1]) for i in wanted]
        maps = tuple(one[:, front : front + cells].transpose(1, 2).unflatten(2, grid) for one in tokens)
        how = self.pooled
        if how == "auto":
            how = self.family.pool if getattr(out, "pooler_output", None) is not None else "auto"
            how = ("cls" if front else "mean") if how == "auto" else how
        if how == "cls" and not front:
            raise SpecError(f"hf:{self.name} has no class token; use pooled='mean'")
        if how == "pooler":
            return BodyOutput(self._pooler(out), maps, None)
        return BodyOutput(last[:, 0] if how == "cls" else last[:, front : front + cells].mean(1), maps, None)

    def _maps(self, out: Any, pixels: Tensor, wanted: tuple[int, ...]) -> BodyOutput:
        states = list(out[self.family.states])
        if self.model.config.model_type == "pvt":  # one state a block
            ends = torch.tensor(self.model.config.depths).cumsum(0).tolist()
            states = [states[end] for end in ends]
        maps = [_as_map(one, pixels, self.family.last) for one in states[-self.depth :]]
        if (last := getattr(out, "last_hidden_state", None)) is not None:
            maps[-1] = last if last.dim() == 4 else _as_map(last, maps[-1], False)
        if self.pooled == "cls":
            raise SpecError(f"hf:{self.name} has no class token; use pooled='mean'")
        pooler = self.pooled == "pooler" or (self.pooled == "auto" and getattr(out, "pooler_output", None) is not None)
        pooled = self._pooler(out).flatten(1) if pooler else maps[-1].mean((2, 3))
        return BodyOutput(pooled, tuple(maps[layer] for layer in wanted), None)

    def _pooler(self, out: Any) -> Tensor:
        if getattr(out, "pooler_output", None) is None:
            raise SpecError(f"hf:{self.name} has no pooler; use pooled='cls' or pooled='mean'")
        return out.pooler_output


def _as_map(value: Tensor, like: Tensor, last: bool) -> Tensor:
    """[B, D, h, w] of a map, of one with channels last, or of tokens [B, N, D] on a grid with the proportions of `like`.

    Tokens before the grid, a class token or a pooled one, are left out.
    """
    if value.dim() == 4:
        return value.permute(0, 3, 1, 2) if last else value
    high, wide = like.shape[-2:]
    count = value.shape[1]
    rows = high if high * wide <= count else max(1, math.isqrt(count * high // wide))
    columns = wide if high * wide <= count else count // rows
    return value[:, count - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def _first(value: Any) -> int:
    return int((value[0] if isinstance(value, list | tuple) else value) or 0)
