"""transformers: the video encoders VideoMAE, V-JEPA 2 and TimeSformer, from the Hugging Face hub or a local folder.

`hf_clips:MCG-NJU/videomae-base`, `hf_clips:facebook/vjepa2-vitl-fpc64-256`. If the repository has a fine-tuned classifier,
pooled is its input, and `classify(head=own)` uses it. Only safetensors are read, and no code is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardsight.core.errors import MissingDependency, SpecError, WeightsError
from hardsight.encoders.adapt import HUGGING_FACE, downloading, need_side, positions, seeded
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, BodyOutput, Card, Encoder
from hardsight.encoders.clips import ClipEncoder, as_encoder, need_frames
from hardsight.encoders.prepared import USUAL, of_processor
from hardsight.specs.catalog import register


class Family(NamedTuple):
    """Argument and config names of a family. fixed: whether clips have one length. grid: whether all tokens are tubelets."""

    pixels: str
    frames: str
    side: str
    fixed: bool
    grid: bool


FAMILIES = {
    "videomae": Family("pixel_values", "num_frames", "image_size", fixed=True, grid=True),
    "vjepa2": Family("pixel_values_videos", "frames_per_clip", "crop_size", fixed=False, grid=True),
    "timesformer": Family("pixel_values", "num_frames", "image_size", fixed=True, grid=False),
}
CLASSIFIER = "ForVideoClassification"


@register
def hf_clips(
    name: str,
    pretrained: bool = True,
    resize: int | None = None,
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Encoder:
    """A video encoder of transformers: VideoMAE, V-JEPA 2 or TimeSformer.

    name: of a repository on the hub, or a folder. pretrained: False uses only its config, with random weights from `seed`.
    resize: of the shorter side, inside the attacked graph; these networks take only one side. mean, std: None is the
    processor's, or ImageNet's without one (noted on the card). Pooled features: the input of its classifier, else
    TimeSformer's class token or the mean of tokens. Raises `MissingDependency`, `WeightsError` (missing or incomplete),
    `SpecError`.
    """
    model, processor, note = _load(name, pretrained, seed)
    body = HfClips(model, name)
    if mean is None or std is None:
        note += "" if processor else "; no processor: ImageNet's mean and std"
        known = of_processor({**USUAL, **processor}, f"hf_clips:{name}") if processor else None
        mean, std = mean or (known.mean if known else IMAGENET_MEAN), std or (known.std if known else IMAGENET_STD)
    config: Any = model.config
    card = Card(
        name=name.rstrip("/").rsplit("/", 1)[-1],
        arch=type(model).__name__,
        source=f"hf_clips:{name}" + ("" if pretrained else "(pretrained=False)"),
        dim=config.hidden_size,
        dense_dim=config.hidden_size if body.depth else 0,
        stride=body.patch if body.depth else 0,
        size=body.side,
        mean=mean,
        std=std,
        resize=resize,
        classes=body.classes,
        labels=tuple(str(name) for _, name in sorted(config.id2label.items())),
        parameters=sum(parameter.numel() for parameter in body.parameters()),
        note=f"{note}; clips of {body.frames} frames".removeprefix("; "),
    )
    return as_encoder(ClipEncoder(body, card))


class HfClips(nn.Module):
    """A video transformer that returns tokens [B, N, D], time first; its last tokens are its only map."""

    multiple = 1

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        config: Any = model.config
        self.family = FAMILIES[config.model_type]
        self.model, self.name = model, name
        self.core: Any = model.base_model
        if hasattr(self.core, "predictor"):  # V-JEPA's predictor is not used for features
            self.core.predictor = nn.Identity()
        self.head = model.classifier if type(model).__name__.endswith(CLASSIFIER) else None
        self.classes = self.head.out_features if isinstance(self.head, nn.Linear) else 0
        self.frames, self.side = int(getattr(config, self.family.frames)), int(getattr(config, self.family.side))
        self.patch, self.tube = int(config.patch_size), int(getattr(config, "tubelet_size", 1))
        self.depth = 1 if self.family.grid else 0

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        need_side(pixels, self.side, self.name)
        need_frames(pixels, self.name, self.frames if self.family.fixed else 0, self.tube)
        extra = {"skip_predictor": True} if self.model.config.model_type == "vjepa2" else {}
        tokens = self.core(**{self.family.pixels: pixels.transpose(1, 2)}, **extra).last_hidden_state
        maps: tuple[Tensor, ...] = ()
        if self.depth:
            grid = (pixels.shape[2] // self.tube, *(side // self.patch for side in pixels.shape[-2:]))
            maps = (tokens.transpose(1, 2).unflatten(2, grid),) * len(positions(layers, 1, self.name))
        pooled = self._pool(tokens)
        return BodyOutput(pooled, maps, None if self.head is None else pooled)

    def classify(self, trunk: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(trunk)

    def _pool(self, tokens: Tensor) -> Tensor:
        """The input of the classifier, if there is one; else the class token or the mean of the tokens."""
        if not self.family.grid:
            return tokens[:, 0]
        if self.head is not None and hasattr(self.model, "pooler"):
            return self.model.pooler(tokens)
        if self.head is None:
            return tokens.mean(1)
        return self.model.fc_norm(tokens.mean(1)) if self.model.fc_norm is not None else tokens[:, 0]


def _load(name: str, pretrained: bool, seed: int) -> tuple[nn.Module, dict[str, Any], str]:
    """The model, its processor's fields, and a note for the card."""
    try:
        import transformers
        from transformers.video_processing_utils import BaseVideoProcessor
    except ImportError:
        raise MissingDependency("hf_clips needs transformers, 4.53 or later: pip install 'hardsight[hf]'") from None
    place = Path(name).expanduser()
    if not place.is_dir() and (place.is_absolute() or name.startswith((".", "~"))):
        raise WeightsError(f"hf_clips:{name} is no folder; a local model is a folder with config.json and model.safetensors")
    where, host = (str(place), "") if place.is_dir() else (name, HUGGING_FACE)
    options: dict[str, Any] = {"local_files_only": not host, "trust_remote_code": False}
    what, otherwise = f"hf_clips:{name}", "a folder with config.json and model.safetensors"
    with downloading(what, otherwise, host):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        try:
            processor: dict[str, Any] = BaseVideoProcessor.get_video_processor_dict(where, local_files_only=not host)[0]
        except (OSError, ValueError):
            processor = {}
    if config.model_type not in FAMILIES:
        raise SpecError(
            f"{what} is a {config.model_type}; hf_clips supports {', '.join(FAMILIES)}; for image encoders use hf"
        )
    tuned = any(arch.endswith(CLASSIFIER) for arch in config.architectures or ())
    kind: Any = transformers.AutoModelForVideoClassification if tuned else transformers.AutoModel
    if not pretrained:
        with seeded(seed):
            return kind.from_config(config).eval(), processor, f"random weights, seed {seed}"
    with downloading(what, otherwise, host), seeded(seed):
        model, loading = kind.from_pretrained(
            where, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
    missing = sorted(key for key in loading["missing_keys"] if "predictor." not in key) + sorted(
        map(str, loading["mismatched_keys"])
    )
    if missing:
        raise WeightsError(
            f"{what} lacks {len(missing)} of the encoder's weights or has them in another shape, first '{missing[0]}'"
        )
    return model.eval(), processor, ""
