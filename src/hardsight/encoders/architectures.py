"""The architectures for `file(arch=...)`, each as a plan that builds the network and the encoder around it.

vit_small_patch16_224, timm:NAME   timm; options go to `timm.create_model`
tv:resnet18                        torchvision; options: `num_classes`; a ResNet's `stem`, `padding` (see `resnets`)
resnet20 .. resnet110, tiny        of this package (see `small`)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.encoders import timm_models, tv_models
from hardsight.encoders.adapt import closest
from hardsight.encoders.base import Encoder
from hardsight.encoders.small import ARCHES, wrap


@dataclass(frozen=True)
class Plan:
    """An architecture. make: classes or None -> network; classifier: its parameter names; encode: network -> encoder."""

    make: Callable[[int | None], nn.Module]
    classifier: tuple[str, ...]
    encode: Callable[..., Encoder]
    arch: str

    def rows(self, state: Any) -> int | None:
        """The number of classes of the classifier in `state`, None without a classifier."""
        return next((len(state[name]) for name in self.classifier if name in state), None)


def plan_of(arch: str, options: dict[str, Any], size: int | None) -> Plan:
    """The plan of an architecture; `SpecError` for an unknown name or unknown options."""
    if arch in ARCHES:
        return _small_plan(arch, options, size)
    if arch.startswith("tv:"):
        return _tv_plan(arch.removeprefix("tv:"), options, size)
    return _timm_plan(arch, options, size)


def _small_plan(arch: str, options: dict[str, Any], size: int | None) -> Plan:
    small = ARCHES[arch]
    if options or size not in (None, small.side):
        raise SpecError(f"{arch} takes no options and is for {small.side}x{small.side} pixels")
    return Plan(
        lambda classes: small.make(small.classes if classes is None else classes),
        (small.head + "weight", small.head + "bias"),
        lambda net, layers, **known: wrap(net, arch, layers, **known),
        arch,
    )


def _timm_plan(arch: str, options: dict[str, Any], size: int | None) -> Plan:
    import timm

    name = arch.removeprefix("timm:")
    if not timm.is_model(name.partition(".")[0]):
        known = [*ARCHES, *timm.list_models()]
        raise SpecError(
            f"there is no architecture '{arch}'{closest(name, known) or '; it is a timm name, tv:NAME or resnet20'}"
        )
    fixed = 0

    def make(classes: int | None) -> nn.Module:
        nonlocal fixed
        given = {**({} if classes is None else {"num_classes": classes}), **options}
        net, fixed = timm_models.create(name, size, options=given)
        return net

    def encode(net: nn.Module, layers: tuple[int, ...] | None, **known: Any) -> Encoder:
        called = known.pop("name")
        if not {"mean", "std"} <= known.keys():
            _need_one_normalization(name)
        encoder = timm_models.encode(net, name, fixed, size, layers or (-1,), **known)
        return encoder.with_card(name=called, licence="unknown")

    cfg = timm.get_pretrained_cfg(name)
    heads = (cfg.classifier if cfg else None) or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return Plan(make, tuple(f"{head}.{part}" for head in heads for part in ("weight", "bias")), encode, name)


def _need_one_normalization(name: str) -> None:
    """`SpecError` for an architecture without a tag whose timm weights were trained with several normalizations."""
    import timm

    tags: dict[tuple[float, ...], str] = {}
    for tag in [] if "." in name else timm.list_pretrained(f"{name}.*"):
        if cfg := timm.get_pretrained_cfg(tag):
            tags.setdefault((*cfg.mean, *cfg.std), tag)
    if len(tags) > 1:
        listed = ", ".join(f"{tag} (mean {mean[0]:.3g})" for mean, tag in tags.items())
        raise SpecError(
            f"{name} is trained with several normalizations: {listed}; give arch= with such a tag, or mean= and std="
        )


def _tv_plan(name: str, options: dict[str, Any], size: int | None) -> Plan:
    unknown = options.keys() - {"stem", "padding", "num_classes"}
    if unknown:
        raise SpecError(f"tv:{name} has no option '{min(unknown)}'; it has num_classes, and a ResNet's stem and padding")
    classes_given = options.pop("num_classes", None)
    native = 224

    def make(classes: int | None) -> nn.Module:
        nonlocal native
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element", UserWarning)
            net, native = tv_models.create(name, classes=classes if classes_given is None else classes_given, **options)
        return net

    def encode(net: nn.Module, layers: tuple[int, ...] | None, **known: Any) -> Encoder:
        called = known.pop("name")
        known = tv_models.reference(name, None, size, options.get("stem", "imagenet"), **known)
        return tv_models.encode(net, name, layers or (-1,), size or native, **known).with_card(name=called)

    with torch.device("meta"):
        linear = [path for path, part in make(None).named_modules() if isinstance(part, nn.Linear)]
    return Plan(make, tuple(f"{path}.{part}" for path in linear[-1:] for part in ("weight", "bias")), encode, f"tv:{name}")
