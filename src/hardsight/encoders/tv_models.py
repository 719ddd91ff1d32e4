"""torchvision: its classification models, split into stages by the names of their submodules.

`tv:resnet50`, `tv:vit_b_16(weights=None)`. A torchvision network has one of four structures (`layer1..4`, `features`,
`trunk_output`, an `encoder`); `body_of` recognises the structure, so that it also works for networks from torch.hub.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders.adapt import Staged, classes_of, closest, downloading, finish, positions, seeded
from hardsight.encoders.base import BodyOutput, Encoder
from hardsight.encoders.prepared import Prepared, of_torchvision
from hardsight.encoders.resnets import Padding, Stem, reform
from hardsight.specs.catalog import register

DRY = 64


@register
def tv(
    name: str,
    weights: str | None = "DEFAULT",
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    seed: int = 0,
    stem: Literal["imagenet", "cifar", "cifar_pad2", "cifar_bare"] = "imagenet",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Encoder:
    """A classification model of torchvision.

    weights: the name of one of its weights (`IMAGENET1K_V1`, `DEFAULT`), None for random ones from `seed`. size: recorded on
    the card; any side is accepted, position embeddings are interpolated. resize: inside the attacked graph. layers: a
    ResNet's are the stem and four stages, a transformer's its blocks, otherwise the last map of each scale. stem: of a
    ResNet with random weights; `cifar` is 3x3, stride 1 and no pool, `cifar_pad2` has solo-learn's padding of 2,
    `cifar_bare` no ReLU. mean, std: None is what the weights were trained with; random ones take those of the model's first
    weights.
    Raises `SpecError` for an unknown name or a network of another structure, `WeightsError` if weights cannot be loaded.
    """
    if weights is not None and stem != "imagenet":
        raise SpecError(f"tv:{name}: torchvision's weights are for the stem 'imagenet', so '{stem}' needs weights=None")
    model, native = create(name, weights, seed, stem=stem)
    known = reference(name, weights, size, stem, mean=mean, std=std)
    source = f"tv:{name}" + (f"(weights='{weights}')" if weights else "(weights=None)")
    note = weights or f"random weights, seed {seed}" + (f", stem '{stem}'" if stem != "imagenet" else "")
    return encode(model, name, layers, size or native, source=source, note=note, resize=resize, **known)


def reference(name: str, weights: str | None, size: int | None, stem: str = "imagenet", **given: Any) -> dict[str, Any]:
    """mean, std and preprocess of the model's weights, its first ones for None, under what is `given` and not None.

    A stem for small images has no pictures of ImageNet's preparation.
    """
    from torchvision import models

    options: Any = models.get_model_weights(name)
    known: dict[str, Any] = {}
    if len(options):
        found: Prepared = of_torchvision((options[weights] if weights else next(iter(options))).transforms(), size)
        known = {"mean": found.mean, "std": found.std, "preprocess": found.preprocess if stem == "imagenet" else ""}
    return known | {key: value for key, value in given.items() if value is not None}


def create(
    name: str,
    weights: str | None = None,
    seed: int = 0,
    classes: int | None = None,
    stem: Stem = "imagenet",
    padding: Padding = "torch",
) -> tuple[nn.Module, int]:
    """The torchvision model and the side in pixels it was trained for; stem and padding as in `resnets`."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise SpecError(f"torchvision has no classification model '{name}'{closest(name, known)}")
    options: Any = models.get_model_weights(name)
    named = [one.name for one in options]
    if weights not in (None, "DEFAULT", *named):
        raise WeightsError(
            f"torchvision has no weights '{weights}' of {name}{closest(weights, named) or f'; it has {named}'}"
        )
    native = options.DEFAULT.transforms().crop_size[0] if named else 224
    extra: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    with seeded(seed):
        if weights is None:
            made = reform(models.get_model(name, weights=None, **extra), name, stem, padding)
            return made.eval(), native if stem == "imagenet" else 32
        with downloading(f"tv:{name}(weights='{weights}')", "weights=None for random weights", "download.pytorch.org"):
            return models.get_model(name, weights=weights).eval(), native


def encode(model: nn.Module, name: str, layers: tuple[int, ...], size: int, **known: Any) -> Encoder:
    """The encoder around a network that `body_of` recognises."""
    body: Any = body_of(model, name)
    dry = 4 * body.multiple if body.multiple > 1 else size
    return finish(
        body, name, name, layers=layers, size=size, dry=dry, classes=classes_of(getattr(body, "head", None)), **known
    )


def body_of(model: Any, name: str) -> nn.Module:
    """The body of a network with one of torchvision's structures.

    Raises `SpecError`, which lists the network's submodules, if it has none of them.
    """
    if all(hasattr(model, part) for part in ("conv1", "bn1", "layer1", "layer4")):
        stem = nn.Sequential(model.conv1, model.bn1, getattr(model, "relu", nn.ReLU()))
        first = nn.Sequential(getattr(model, "maxpool", nn.Identity()), model.layer1)
        stages = [stem, first, model.layer2, model.layer3, model.layer4]
        return Staged(stages, _mean(), _linear(getattr(model, "fc", None)), name)
    if all(hasattr(model, part) for part in ("conv_proj", "encoder", "heads", "class_token")):
        return VisionTransformer(model, name)
    if hasattr(model, "trunk_output"):
        return Staged([model.stem, *model.trunk_output.children()], _mean(), _linear(model.fc), name)
    if hasattr(model, "stage4") and hasattr(model, "conv5"):
        stages = [
            model.conv1,
            nn.Sequential(model.maxpool, model.stage2),
            model.stage3,
            nn.Sequential(model.stage4, model.conv5),
        ]
        return Staged(stages, _mean(), model.fc, name)
    if isinstance(getattr(model, "features", None), nn.Sequential) and (found := _featured(model, name)):
        return found
    parts = ", ".join(part for part, _ in model.named_children())
    raise SpecError(
        f"{name} has none of the structures that tv knows (its submodules: {parts}); take the model of that name from timm"
    )


class VisionTransformer(nn.Module):
    """torchvision's ViT, with position embeddings interpolated to the input; trunk and pooled are the class token [B, D]."""

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name, self.head = name, model.heads
        self.depth, self.multiple = len(model.encoder.layers), int(model.patch_size)

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        model, maps = self.model, []
        grid = model.conv_proj(pixels)
        count, _, height, width = grid.shape
        x = torch.cat([model.class_token.expand(count, -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        x = model.encoder.dropout(x + self._places(height, width))
        wanted = positions(layers, self.depth, self.name)
        for place, block in enumerate(model.encoder.layers):
            x = block(x)
            tokens = model.encoder.ln(x)[:, 1:] if place in wanted else None
            maps.append(None if tokens is None else tokens.transpose(1, 2).unflatten(2, (height, width)))
        pooled = model.encoder.ln(x)[:, 0]
        for part in list(model.heads)[:-1]:
            pooled = part(pooled)
        return BodyOutput(pooled, tuple(maps[layer] for layer in wanted), pooled)

    def classify(self, trunk: Tensor) -> Tensor:
        return list(self.model.heads)[-1](trunk)

    def _places(self, height: int, width: int) -> Tensor:
        """Position embeddings [1, 1 + h w, D], bicubically interpolated if the grid differs from training."""
        places = self.model.encoder.pos_embedding
        side = math.isqrt(places.shape[1] - 1)
        if (height, width) == (side, side):
            return places
        grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=True)
        return torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def _featured(model: Any, name: str) -> nn.Module | None:
    """A network with `features`: split where the scale changes, and its classifier at the last linear layer."""
    channels_last = hasattr(model, "permute") and hasattr(model, "norm")
    tail: list[nn.Module] = [model.norm] if channels_last else []
    if type(model).__name__ == "DenseNet":
        tail = [nn.ReLU()]
    head = getattr(model, "classifier", None) or getattr(model, "head", None)
    parts = list(head) if isinstance(head, nn.Sequential) else [head]
    if not isinstance(parts[-1], nn.Linear):
        return None
    before: list[nn.Module] = [model.avgpool] if hasattr(model, "avgpool") else [nn.AdaptiveAvgPool2d(1)]
    before += [] if any(isinstance(part, nn.Flatten) for part in parts) else [nn.Flatten()]
    features = [*model.features, *tail]
    stages = [nn.Sequential(*group) for group in _by_scale(features)]
    if channels_last:
        wrapped = [nn.Sequential(stages[0], First())] + [nn.Sequential(Last(), stage, First()) for stage in stages[1:]]
        stages = wrapped
    return Staged(stages, nn.Sequential(*[*before, *parts[:-1]]), parts[-1], name)


def _by_scale(parts: list[nn.Module]) -> list[list[nn.Module]]:
    """Consecutive parts grouped so that each group ends with the last map of its scale, found with a 64x64 image."""
    groups: list[list[nn.Module]] = []
    side, x = 0, torch.zeros(1, 3, DRY, DRY)
    for part in parts:
        before = part.training
        with torch.no_grad():
            x = part.eval()(x)
        part.train(before)
        groups.append([]) if x.shape[2] != side else None
        groups[-1].append(part)
        side = x.shape[2]
    return groups


class First(nn.Module):
    """Channels from last to first: [B, h, w, D] -> [B, D, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class Last(nn.Module):
    """Channels from first to last: [B, D, h, w] -> [B, h, w, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def _mean() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _linear(head: nn.Module | None) -> nn.Module | None:
    """The classifier, or None if there is none (an encoder from torch.hub often ends in `Identity`)."""
    return None if head is None or not classes_of(head) else head
