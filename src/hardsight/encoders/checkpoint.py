"""Encoders from a checkpoint file and the name of its architecture: `file:weights/resnet20.th(arch='resnet20')`.

Reading runs no code (`weights_file`). The encoder's weights are found in any known layout (`naming`, by the tables of
`layouts`): prefixes are stripped, one of two networks and one of several batch norms is chosen, keys are renamed. Loading is
strict: every weight of the encoder must be present with its shape. Other weights are allowed only if their names show that
they belong to a head or another network; the card lists them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hardsight.core.errors import WeightsError
from hardsight.encoders.adapt import need_sides, seeded
from hardsight.encoders.architectures import Plan, plan_of
from hardsight.encoders.base import Encoder
from hardsight.encoders.layouts import PROJECTING
from hardsight.encoders.naming import Weights, fitted, strays, weights_of
from hardsight.encoders.unseen import heads_of, options_of
from hardsight.encoders.weights_file import State, read_weights, tensors_in
from hardsight.specs.catalog import register


@register
def file(
    path: str,
    arch: str,
    prefix: str = "",
    key: str = "",
    options: dict[str, object] | None = None,
    size: int | None = None,
    resize: int | None = None,
    layers: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    network: Literal["evaluated", "student", "teacher"] = "evaluated",
    norm: Literal["normal", "adv", "adv_ce"] | None = None,
) -> Encoder:
    """An encoder with weights from a file: .safetensors, .npz, or torch's .pt, .pth, .th, .ckpt, .tar, read without code.

    path: `~` and `$NAME` are expanded. arch: a name of timm (`vit_small_patch16_224`), `tv:NAME` of torchvision, or of this
    package (resnet20 .. resnet110, resnet4b, tiny). prefix: of the wanted keys in the file; by default the one that fits
    best. key: the part of the file to search (`state_dict`, `a.b`). options: passed to `timm.create_model`
    (`{'pad_type': 'same'}`), or a torchvision ResNet's `stem` and `padding`; those that no shape shows are set for published
    networks, such as the 12 heads of MoCo v3's ViT-S (`unseen`). size, resize, layers: as for `timm`. mean, std:
    default: those in the file, else the architecture's. network: which of two in one file; "evaluated" is the one that its
    authors evaluate: the teacher of DINO, DINOv2, iBOT and the JEPAs, the trained network of MoCo and BYOL. norm: which of
    several batch norms (ACL, AdvCL, DynACL); None is "adv", which their authors evaluate. Raises `WeightsError` (no file,
    one that would run code, keys or shapes that don't fit), `SpecError` (unknown architecture, or one that needs mean= and
    std=).
    """
    place = Path(os.path.expandvars(path)).expanduser()
    need_sides(arch, size, resize)
    given = dict(options or {})
    plan = plan_of(arch, given, size)
    stored = tensors_in(read_weights(place), place, key)
    with seeded(0):
        net = plan.make(None)
        weights = _without_projection(weights_of(stored, net, place, prefix, network, norm, plan.classifier), plan)
        asked, unseen = options_of(arch, weights.state, given)
        if unseen:
            plan = plan_of(arch, asked, size)
            net = plan.make(None)
        classes = plan.rows(weights.state)
        if classes != plan.rows(net.state_dict()):
            net = plan.make(classes or 0)  # the file's number of classes, so that no weight stays random
    if weights.needs and given.get(weights.needs[0]) != weights.needs[1]:
        name, value = weights.needs
        raise WeightsError(
            f"{place} has the names of {weights.naming}, whose {name} is '{value}': give options={{'{name}': '{value}'}}"
        )
    weights = fitted(net, weights, plan.arch, place, plan.classifier)
    net.load_state_dict(weights.state, strict=False)
    head = [name for name in plan.classifier if name in net.state_dict()]
    classified = bool(head) and all(name in weights.state for name in head)
    _need_normalization(weights, stored, place, mean, std)
    known = {**weights.own, **{name: value for name, value in (("mean", mean), ("std", std)) if value is not None}}
    unseen = unseen or ("" if "num_heads" in given else heads_of(net))
    notes = (f"weights of {place.name}", weights.note, unseen, _normalization(weights, mean, std))
    known |= {"source": f"file:{path}(arch='{arch}')", "name": place.stem, "note": "; ".join(part for part in notes if part)}
    encoder = plan.encode(net, layers, resize=resize, **known)
    return encoder if classified else encoder.with_card(classes=0)


def _without_projection(weights: Weights, plan: Plan) -> Weights:
    """The weights without the last layer, if the network was trained on projections: then it is not a classifier."""
    heads = [name for name in plan.classifier if name in weights.state]
    if not heads or not PROJECTING & set(weights.prefix.split(".")):
        return weights
    kept = {name: value for name, value in weights.state.items() if name not in heads}
    return replace(weights, state=kept, left={**weights.left, heads[0].split(".")[0]: len(heads)})


def _need_normalization(
    weights: Weights, stored: State, place: Path, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    """`WeightsError` for a normalization in the file that can't be used as it is, unless mean and std are given."""
    if mean and std:
        return
    known = {**weights.own, **({"mean": mean} if mean else {}), **({"std": std} if std else {})}
    hint = "give mean= and std= of pixels in [0, 1]"
    if unknown := strays(stored):
        raise WeightsError(f"{place} has '{unknown[0]}', which looks like a normalization of no known name; {hint}")
    if len(weights.own) == 1 and len(known) == 1:
        raise WeightsError(f"{place} normalizes by its own {next(iter(known))} only; {hint}")
    if max(map(abs, weights.own.get("mean", (0.0,)))) > 2:
        raise WeightsError(f"{place} normalizes by the mean {weights.own['mean']}, not of pixels in [0, 1]; {hint}")


def _normalization(weights: Weights, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str:
    """The note for the card about a normalization stored in the file."""
    if not weights.own:
        return ""
    overruled = [name for name, given in (("mean", mean), ("std", std)) if given is not None and name in weights.own]
    return f"the file's own {' and '.join(overruled)} overruled" if overruled else "normalizes as the file says"
