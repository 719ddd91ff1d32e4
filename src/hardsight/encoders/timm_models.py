"""timm: all of its models with `forward_intermediates`, transformers or convolutional networks, with one or two heads.

`timm:vit_tiny_patch16_224(pretrained=False, size=64)`. The trunk is the output of `forward_features` and the classifier is
`forward_head`, so the logits are bitwise those of the model, for any kind of head.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders.adapt import HUGGING_FACE, closest, downloading, finish, need_side, need_sides, positions, seeded
from hardsight.encoders.base import BodyOutput, Encoder
from hardsight.encoders.prepared import of_timm
from hardsight.specs.catalog import register

USUAL = 224


@register
def timm(
    name: str,
    pretrained: bool = True,
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    seed: int = 0,
    pooled: Literal["auto", "cls", "mean"] = "auto",
    positions: Literal["size", "offset"] | None = None,
) -> Encoder:
    """A model of timm.

    name: as in `timm.list_models()` and `timm.list_pretrained()` (`resnet50.a1_in1k`). size: the input side it is built for;
    position embeddings are interpolated. resize: images are resized to that side inside the attacked graph. layers: joined
    as `dense`; a transformer's layers are its blocks (0 is the first), a convolutional network's are its stages (0 is the
    stem, or the first stage if timm lists no stem). Layers of transformers are after the final norm, as in DINOv2's
    evaluation. seed: of random weights. pooled: the input of the model's own head (auto), or a transformer's class token or
    mean of patches after the last norm (timm's DINOv3 pools by the mean, its authors by the class token).
    positions: how embeddings are interpolated to other sizes: to the number of cells, as timm does, or by a scale factor
    with an offset of 0.1, as the authors of DINOv2 do (without registers); what is given is on the card.
    Raises `SpecError` for an unknown name, layer or impossible size, `WeightsError` if weights cannot be loaded.
    """
    _known(name, pretrained)
    need_sides(name, size, resize)
    with seeded(seed):
        if pretrained:
            with downloading(f"timm:{name}", "pretrained=False for random weights", HUGGING_FACE):
                model, fixed = create(name, None if positions == "offset" else size, pretrained=True)
        else:
            model, fixed = create(name, None if positions == "offset" else size)
    if positions == "offset":
        from hardsight.encoders.timm_positions import by_offset

        model = by_offset(model, name)
    notes = (
        "" if pretrained else f"random weights, seed {seed}",
        f"positions interpolated by {positions}" if positions else "",
    )
    note = "; ".join(one for one in notes if one)
    source = f"timm:{name}" + ("" if pretrained else "(pretrained=False)")
    return encode(model, name, fixed, size, layers, pooled=pooled, source=source, note=note, resize=resize)


def create(
    name: str, size: int | None = None, pretrained: bool = False, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """The timm model and the only input side in pixels that it takes, 0 if it takes any.

    options: passed to `timm.create_model`. Raises `SpecError` for an unknown name or a size that it cannot be built for.
    """
    import timm as library

    _known(name, False)
    given = dict(options or {})
    cfg = library.get_pretrained_cfg(name)
    natural = cfg.input_size[-1] if cfg else USUAL
    if not (cfg and cfg.fixed_input_size):
        return _make(name, pretrained, given), 0
    wanted = {"img_size": size} if size else {}
    try:
        return _make(name, pretrained, {"dynamic_img_size": True, **wanted, **given}), 0
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise _impossible(name, size, natural, error) from error
    try:
        return _make(name, pretrained, {**wanted, **given}), size or natural
    except (TypeError, AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        if size in (None, natural):
            raise
        raise _impossible(name, size, natural, error) from error


def encode(
    model: nn.Module,
    name: str,
    fixed: int,
    size: int | None,
    layers: tuple[int, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pooled: str = "auto",
    **known: Any,
) -> Encoder:
    """The encoder around a built timm model; mean and std default to the model's own."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    channels, _, natural = cfg.get("input_size", (3, USUAL, USUAL))
    if channels != 3:
        raise SpecError(f"timm:{name} takes {channels} channels; an encoder needs a model of 3")
    body = TimmBody(model.eval(), name, fixed, pooled)
    side = size or fixed or natural
    dry = fixed or (4 * body.multiple if body.multiple > 1 else side)
    known.setdefault("licence", cfg.get("license") or "unknown")
    known.setdefault("labels", tuple(cfg.get("label_names") or ()))
    mean, std = mean or tuple(cfg["mean"]), std or tuple(cfg["std"])
    known.setdefault("preprocess", of_timm(cfg, size or fixed or None).preprocess)
    try:
        return finish(body, name, name, layers=layers, size=side, dry=dry, mean=mean, std=std, classes=body.classes, **known)
    except (RuntimeError, AssertionError) as error:
        text = " ".join(str(error).split())[:160]
        raise SpecError(f"timm:{name} cannot take {dry}x{dry} pixels: {text}; give another size=") from error


class TimmBody(nn.Module):
    """Any timm model. depth: its blocks or stages; multiple: the patch size of a transformer that takes any size, else 1."""

    def __init__(self, model: Any, name: str, fixed: int = 0, pooled: str = "auto") -> None:
        super().__init__()
        if not hasattr(model, "forward_intermediates"):
            raise SpecError(f"{name} has no forward_intermediates, which dense features need; use another model of timm")
        self.model: Any = model
        self.name, self.fixed = name, fixed
        self.depth = len(model.feature_info)
        self.classes = int(getattr(model, "num_classes", 0))
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        patch = patch[0] if isinstance(patch, tuple | list) else patch
        self.multiple = int(patch) if patch and not fixed and hasattr(model, "blocks") else 1
        accepted = inspect.signature(model.forward_intermediates).parameters
        family = type(model).__name__
        self.extra = {"norm": True} if "norm" in accepted and not family.startswith("Hiera") else {}
        self.pooled, self.front = pooled, int(getattr(model, "num_prefix_tokens", 0))
        if (pooled != "auto" and not hasattr(model, "blocks")) or (pooled == "cls" and not self.front):
            raise SpecError(
                f"timm:{name} has no {'class token' if pooled == 'cls' else 'tokens'} for pooled='{pooled}'; use pooled='auto'"
            )
        self.has_pre_logits = "pre_logits" in inspect.signature(model.forward_head).parameters

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.fixed:
            need_side(pixels, self.fixed, self.name)
        wanted = positions(layers, self.depth, self.name)
        taken = sorted({*wanted} or {self.depth - 1})
        try:
            final, maps = self.model.forward_intermediates(pixels, indices=taken, **self.extra)
        except AssertionError as error:
            height, width = pixels.shape[-2:]
            reason = str(error) or "not a multiple of its window"
            raise SpecError(f"{self.name} cannot take {height}x{width} pixels: {reason}; give a size= or resize=") from error
        at = dict(zip(taken, maps, strict=True))
        if self.pooled == "auto":
            pooled = self.model.forward_head(final, pre_logits=True) if self.has_pre_logits else at[taken[-1]].mean((2, 3))
        else:
            pooled = final[:, 0] if self.pooled == "cls" else final[:, self.front :].mean(1)
        return BodyOutput(pooled.flatten(1), tuple(at[layer] for layer in wanted), final if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        logits = self.model.forward_head(trunk)
        return torch.stack(logits).mean(0) if isinstance(logits, tuple) else logits


def _make(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    import timm as library

    return library.create_model(name, pretrained=pretrained, **options).eval()


def _known(name: str, pretrained: bool) -> None:
    import timm as library

    base = name.partition(".")[0]
    if not library.is_model(base):
        raise SpecError(f"timm has no model '{base}'{closest(base, library.list_models())}")
    try:
        library.get_pretrained_cfg(name)
    except RuntimeError:
        tagged = library.list_pretrained(f"{base}.*")
        others = ", ".join(tagged) or "none"
        raise SpecError(f"timm has no weights '{name}'{closest(name, tagged) or f'; it has {others}'}") from None
    if pretrained and not library.list_pretrained(f"{base}.*"):
        raise WeightsError(f"timm has no pretrained weights of '{base}'; use pretrained=False for random weights")


def _impossible(name: str, size: int | None, natural: int, error: Exception) -> SpecError:
    reason = " ".join(str(error).split())[:160]
    return SpecError(f"timm:{name} cannot be built for size={size} ({reason}); it takes {natural}: use resize={natural}")
