"""transformers: vision encoders from the Hugging Face hub or from a local folder with `config.json` and `model.safetensors`.

`hf:facebook/dinov2-small`, `hf:/data/mine(pretrained=False)`. Only safetensors are read, and no code of a repository is run.
What `hardsight export` has written is read too, of whatever library the network is (`exported`).
How each architecture answers is in `hf_bodies`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hardsight.core.errors import MissingDependency, SpecError, WeightsError
from hardsight.encoders.adapt import HUGGING_FACE, downloading, finish, seeded
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, Encoder
from hardsight.encoders.exported import PART, also, load
from hardsight.encoders.hf_bodies import HfBody, at_rest, family_of
from hardsight.encoders.prepared import OVERRIDES, USUAL, Prepared, of_processor
from hardsight.specs.catalog import register

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
    `dense`; a transformer's blocks after the final norm, of stages only the last one, as the library gives it. Nothing is
    drawn at random in train mode (noted on the card). mean, std: of pixels in [0, 1]; None is what the image processor makes
    of them, rescaling and normalizing or neither, or ImageNet's without one (noted on the card).
    Raises `MissingDependency`, `WeightsError` (missing or incomplete), `SpecError` (no architecture that is read).
    """
    where, local = _place(name)
    part = _written(name, where, local).get(PART)
    if part and part["network"]["kind"] != "transformers":
        if not pretrained:
            raise SpecError(f"hf:{name} was exported with its weights; pretrained=False is for models of transformers")
        return load(part, f"hf:{name}", _files(where, local), None if layers == (-1,) else layers, resize)
    if part:
        pooled = part["network"]["pooled"] if pooled == "auto" else pooled
        layers = tuple(part["layers"]) if layers == (-1,) else layers
        size, resize = size or part["size"], resize or part["resize"]
        mean, std = mean or tuple(part["mean"]), std or tuple(part["std"])
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
    encoder = finish(body, name, arch, source, layers, side, dry, resize=resize, note=note, **more)
    return also(encoder, part) if part else encoder


def _place(name: str) -> tuple[str, bool]:
    """A folder's path or a repository's name, and whether it is a folder."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependency("hf needs transformers: pip install 'hardsight[hf]'")
    place = Path(name).expanduser()
    if not place.is_dir() and (place.is_absolute() or name.startswith((".", "~"))):
        raise WeightsError(f"hf:{name} is no folder; a local model is a folder with config.json and model.safetensors")
    return (str(place), True) if place.is_dir() else (name, False)


def _written(name: str, where: str, local: bool) -> dict[str, Any]:
    """The content of config.json."""
    import transformers

    with downloading(f"hf:{name}", "a folder with config.json and model.safetensors", "" if local else HUGGING_FACE):
        return transformers.PretrainedConfig.get_config_dict(where, local_files_only=local)[0]


def _files(where: str, local: bool) -> Callable[[str], Path]:
    """A function from a file's name to its path."""
    from huggingface_hub import hf_hub_download

    return lambda name: Path(where) / name if local else Path(hf_hub_download(where, name))


def _load(name: str, pretrained: bool, seed: int) -> tuple[nn.Module, dict[str, Any], str]:
    """The model, its image processor's fields, and a note for the card."""
    import transformers

    where, local = _place(name)
    host = "" if local else HUGGING_FACE
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    with downloading(f"hf:{name}", "a folder with config.json and model.safetensors", host):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        processor = _processor(where, options)
    tower = TOWERS.get(config.model_type)
    kind = getattr(transformers, tower) if tower else transformers.AutoModel
    if tower and hasattr(config, "vision_config"):
        config = config.vision_config
    family_of(config, name)
    rest = at_rest(config)
    try:
        with seeded(seed):
            if not pretrained:
                fresh: Any = kind(config) if tower else kind.from_config(config)
                return fresh.eval(), processor, "; ".join(one for one in (f"random weights, seed {seed}", rest) if one)
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
    return model.eval(), processor, "; ".join(one for one in (note, rest) if one)


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
