"""transformers: vision encoders from the Hugging Face hub or from a local folder with `config.json` and `model.safetensors`.

`hf:facebook/dinov2-small`, `hf:/data/mine(pretrained=False)`. Only safetensors are read, and no code of a repository is run.
The number of tokens that are not patches (class, distillation, registers) is not assumed: all tokens before the last h w.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import MissingDependency, SpecError, WeightsError
from hardsight.encoders.adapt import HUGGING_FACE, downloading, finish, need_side, positions, seeded
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, BodyOutput, Encoder
from hardsight.encoders.prepared import OVERRIDES, USUAL, Prepared, of_processor
from hardsight.specs.catalog import register

Pool = Literal["auto", "cls", "mean", "pooler"]
TOWERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""Vision-language models, of which only the vision encoder is used: model type -> class of that encoder."""
WITHOUT = Prepared("", IMAGENET_MEAN, IMAGENET_STD, note="no image processor: ImageNet's mean and std")
RANDOM_POOLER = "its pooler has no weights and is not used"


@register
def hf(
    name: str,
    pretrained: bool = True,
    pooled: Literal["auto", "cls", "mean", "pooler"] = "auto",
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Encoder:
    """A vision encoder of transformers.

    name: of a repository on the hub, or a folder. pretrained: False uses only its config, with random weights from `seed`.
    pooled: `cls` token after the final norm, `mean` of the patches, `pooler` output; `auto` is the pooler for CLIP, SigLIP
    and convolutional networks, else the class token, else the mean. size: recorded on the card; position embeddings are
    interpolated at run time. resize: inside the attacked graph. layers: transformer blocks or stages, from 0, joined as
    `dense` after the final norm. mean, std: of pixels in [0, 1]; None is what the image processor makes of them, rescaling
    and normalizing or neither, or ImageNet's without one (noted on the card).
    Raises `MissingDependency`, `WeightsError` (missing or incomplete), `SpecError` (not a vision encoder).
    """
    model, processor, note = _load(name, pretrained, seed)
    if pooled == "pooler" and RANDOM_POOLER in note:
        raise WeightsError(f"hf:{name} has no weights for its pooler; use pooled='cls' or pooled='mean'")
    body = HfBody(model, name, pooled)
    overruled = {"do_normalize": False} if mean and std else {}
    known = of_processor({**processor, **overruled}, f"hf:{name}", body.fixed or size) if processor else WITHOUT
    body.bgr = known.bgr
    note += f"; {known.note}" if known.note and (processor or mean is None or std is None) else ""
    side = body.fixed or size or body.native
    dry = body.fixed or (4 * body.multiple if body.multiple > 1 else 64)
    arch = type(model).__name__
    source = f"hf:{name}" + ("" if pretrained else "(pretrained=False)")
    note = note.removeprefix("; ")
    more = {"mean": mean or known.mean, "std": std or known.std, "preprocess": known.preprocess}
    return finish(body, name, arch, source, layers, side, dry, resize=resize, note=note, **more)


class HfBody(nn.Module):
    """Any vision encoder that returns hidden states, [B, N, D] or [B, D, h, w]."""

    def __init__(self, model: Any, name: str, pooled: Pool = "auto") -> None:
        super().__init__()
        config: Any = model.config
        self.model: Any = model
        self.name, self.pooled = name, pooled
        self.bgr = False
        patch, native = (getattr(config, key, None) for key in ("patch_size", "image_size"))
        self.patch = int(patch[0] if isinstance(patch, list | tuple) else patch or 0)
        self.native = int(native[0] if isinstance(native, list | tuple) else native or 224)
        self.convolutional = hasattr(config, "hidden_sizes")
        if self.convolutional:
            self.patch = 0
        elif not self.patch:
            raise SpecError(f"hf:{name} is a {type(model).__name__} without patches or stages, so not a vision encoder")
        self.depth = len(config.depths) if self.convolutional else int(config.num_hidden_layers)
        accepted = inspect.signature(model.forward).parameters
        more = [key for key, one in accepted.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
        if set(more) - {"pixel_values"}:
            asked = ", ".join(key for key in more if key != "pixel_values")
            raise SpecError(f"hf:{name} is a {type(model).__name__}, which takes {asked} besides images; use timm's model")
        self.extra = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
        free = self.convolutional or self.extra or config.model_type.startswith(("dinov2", "dinov3"))
        self.fixed = 0 if free else self.native
        self.multiple = self.patch if free and self.patch else 1
        self.masked = config.model_type == "vit_mae"
        if self.masked:
            config.mask_ratio = 0.0

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.fixed:
            need_side(pixels, self.fixed, self.name)
        pixels = pixels.flip(1) if self.bgr else pixels
        extra: dict[str, Any] = dict(self.extra)
        if self.masked:  # nothing is masked, and patches stay in their order
            count = (pixels.shape[-2] // self.patch) * (pixels.shape[-1] // self.patch)
            extra["noise"] = torch.arange(count, device=pixels.device, dtype=pixels.dtype).expand(len(pixels), -1)
        out = self.model(pixel_values=pixels, output_hidden_states=True, return_dict=True, **extra)
        wanted = positions(layers, self.depth, self.name)
        if self.convolutional:
            maps = out.hidden_states[-self.depth :]
            pooled = out.pooler_output if out.pooler_output is not None else out.last_hidden_state.mean((2, 3))
            return BodyOutput(pooled.flatten(1), tuple(maps[layer] for layer in wanted), None)
        height, width = (side // self.patch for side in pixels.shape[-2:])
        front = out.last_hidden_state.shape[1] - height * width
        maps = [out.last_hidden_state if i == self.depth - 1 else self._normed(out.hidden_states[i + 1]) for i in wanted]
        maps = [tokens[:, front:].transpose(1, 2).unflatten(2, (height, width)) for tokens in maps]
        return BodyOutput(self._pool(out, front), tuple(maps), None)

    def _normed(self, tokens: Tensor) -> Tensor:
        """Tokens of an inner layer after the norm that the model applies to the last layer."""
        for key in ("layernorm", "norm"):
            if isinstance(norm := getattr(self.model, key, None), nn.Module):
                return norm(tokens)
        if "Siglip" in type(self.model).__name__:
            return self.model.get_submodule("post_layernorm")(tokens)
        return tokens

    def _pool(self, out: Any, front: int) -> Tensor:
        tokens = out.last_hidden_state
        how = self.pooled
        if how == "auto":
            contrastive = self.model.config.model_type in TOWERS and out.pooler_output is not None
            how = "pooler" if contrastive else "cls" if front else "mean"
        if how == "pooler" and getattr(out, "pooler_output", None) is None:
            raise SpecError(f"hf:{self.name} has no pooler; use pooled='cls' or pooled='mean'")
        if how == "cls" and not front:
            raise SpecError(f"hf:{self.name} has no class token; use pooled='mean'")
        return out["pooler_output"] if how == "pooler" else tokens[:, 0] if how == "cls" else tokens[:, front:].mean(1)


def _load(name: str, pretrained: bool, seed: int) -> tuple[nn.Module, dict[str, Any], str]:
    """The model, its image processor's fields, and a note for the card."""
    try:
        import transformers
    except ImportError:
        raise MissingDependency("hf needs transformers: pip install 'hardsight[hf]'") from None
    place = Path(name).expanduser()
    local = place.is_dir()
    if not local and (place.is_absolute() or name.startswith((".", "~"))):
        raise WeightsError(f"hf:{name} is no folder; a local model is a folder with config.json and model.safetensors")
    where = str(place) if local else name
    host = "" if local else HUGGING_FACE
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    with downloading(f"hf:{name}", "a folder with config.json and model.safetensors", host):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        processor = _processor(where, options)
    tower = TOWERS.get(config.model_type)
    kind = getattr(transformers, tower) if tower else transformers.AutoModel
    if tower and hasattr(config, "vision_config"):
        config = config.vision_config
    try:
        with seeded(seed):
            if not pretrained:
                fresh: Any = kind(config) if tower else kind.from_config(config)
                return fresh.eval(), processor, f"random weights, seed {seed}"
    except ValueError as error:
        raise SpecError(f"hf:{name}: {' '.join(str(error).split())[:200]}") from error
    with downloading(f"hf:{name}", "a folder with config.json and model.safetensors", host), seeded(seed), _quiet():
        model, loading = kind.from_pretrained(
            where, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(("pooler.", "embeddings.mask_token")))
    if missing or loading["mismatched_keys"]:
        first = missing[0] if missing else str(sorted(loading["mismatched_keys"])[0])
        count = len(missing) + len(loading["mismatched_keys"])
        raise WeightsError(f"hf:{name} lacks {count} of the encoder's weights or has them in another shape, first '{first}'")
    note = RANDOM_POOLER if any(key.startswith("pooler.") for key in loading["missing_keys"]) else ""
    return model.eval(), processor, note


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context that hides the library's table of the text encoder's weights; missing weights are reported by `_load`."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _processor(where: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the repository's image processor, with its class's defaults; empty if it has none."""
    from transformers import AutoImageProcessor
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        written = ImageProcessingMixin.get_image_processor_dict(where, **options)[0]
    except (OSError, ValueError):
        return {}
    try:
        with _quiet():
            processor: Any = AutoImageProcessor.from_pretrained(where, backend="pil", **options)
    except (OSError, ValueError):  # of a class that the library doesn't have
        return {**USUAL, **written, OVERRIDES: ("all",)}
    overridden = tuple(key for key in ("resize", "center_crop") if key in vars(type(processor)))
    return {**written, **processor.to_dict(), OVERRIDES: overridden}
