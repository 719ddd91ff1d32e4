"""A plain checkpoint file and the architecture it is for: `file:weights/resnet20.th(arch='resnet20')`.

Reading runs no code: `weights_only` for torch's formats, no pickles for numpy's. Fitting is strict: the state dict is found
under the usual wrapper keys, the prefix is the one that fits most, and every weight of the encoder must then be there in its
shape. What is left over is allowed only where its name is plainly a head's, and the card says so.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.encoders import timm_models, tv_models
from hardsight.encoders.adapt import closest, need_sides, seeded
from hardsight.encoders.base import Encoder
from hardsight.encoders.small import ARCHES, wrap
from hardsight.encoders.weights_file import State, read_weights, state_in
from hardsight.errors import SpecError, WeightsError

# fmt: off
PREFIXES = (
    "module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "encoder_q", "base_encoder", "online_encoder",
    "online_network", "teacher", "student", "feature_extractor", "trunk", "visual", "vision_model", "body", "f", "resnet",
)
# fmt: on
"""Words that an encoder's keys are prefixed with; where two chains fit equally well, the one that comes first here."""
HEADS = re.compile(
    r"(\w*project\w*|\w*predict\w*|proj(_head)?|\w*head\w*|fc\w*|linear\w*|\w*classifier|\w*prototypes?|queue\w*|center"
    r"|mask_token|decoder\w*|encoder_k|\w*momentum\w*|target_(encoder|network)|g)"
)
RECOMPUTED = re.compile(r".*(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask|position_ids)")


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
) -> Encoder:
    """The encoder whose weights are in a file: .safetensors, .npz, or torch's .pt, .pth, .th, .ckpt, .tar read without code.

    path: `~` and `$NAME` are expanded. arch: a name of timm (`vit_small_patch16_224`), `tv:NAME` of torchvision, or one of
    ours (resnet20 .. resnet110, resnet4b, tiny). prefix: of the wanted keys in the file; by default the one that fits most.
    key: where in the file the state dict is (`state_dict`, `a.b`); by default the usual places. options: passed on to
    `timm.create_model` (`{'pad_type': 'same'}`). size, resize, layers: as for `timm`. mean, std: the
    architecture's by default. Raises `WeightsError` (no file, one that would run code, keys or shapes that don't fit),
    `SpecError` (no such architecture).
    """
    place = Path(os.path.expandvars(path)).expanduser()
    need_sides(arch, size, resize)
    plan = _plan(arch, dict(options or {}), size)
    stored, where = state_in(read_weights(place), place, key)
    with seeded(0):
        net = plan.make(None)
        state = _stripped(stored, net, prefix)
        classes = next((len(state[name]) for name in plan.classifier if name in state), None)
        if classes != _rows(net, plan.classifier):
            net = plan.make(classes or 0)  # as many classes as the file has, so that no weight stays random
    state, left, classified = _fit(net, state, plan, place)
    net.load_state_dict(state, strict=False, assign=False)
    notes = [f"weights of {place.name}" + (f", under '{where}'" if where else "")]
    if left:
        notes.append("left out as heads: " + ", ".join(f"{name} ({count})" for name, count in left.items()))
    given = {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
    source = f"file:{path}(arch='{arch}')"
    encoder = plan.encode(net, layers, source=source, name=place.stem, note="; ".join(notes), resize=resize, **given)
    return encoder if classified else encoder.with_card(classes=0)


@dataclass(frozen=True)
class Plan:
    """An architecture: make (classes or None -> network), classifier's parameter names, and the encoder around a network."""

    make: Callable[[int | None], nn.Module]
    classifier: tuple[str, ...]
    encode: Callable[..., Encoder]
    arch: str


def _plan(arch: str, options: dict[str, Any], size: int | None) -> Plan:
    if arch in ARCHES:
        small = ARCHES[arch]
        if options or size not in (None, small.side):
            raise SpecError(f"{arch} takes no options and is for {small.side}x{small.side} pixels")
        heads = (small.head + "weight", small.head + "bias")
        return Plan(
            lambda k: small.make(small.classes if k is None else k),
            heads,
            lambda net, *a, **k: wrap(net, arch, *a, **k),
            arch,
        )
    if arch.startswith("tv:"):
        return _tv_plan(arch.removeprefix("tv:"), options, size)
    name = arch.removeprefix("timm:")
    import timm

    if not timm.is_model(name.partition(".")[0]):
        known = [*ARCHES, *timm.list_models()]
        raise SpecError(
            f"there is no architecture '{arch}'{closest(name, known) or '; it is a timm name, tv:NAME or resnet20'}"
        )
    fixed = 0

    def make(classes: int | None) -> nn.Module:
        nonlocal fixed
        net, fixed = timm_models.create(
            name, size, options={**options, **({} if classes is None else {"num_classes": classes})}
        )
        return net

    def encode(net: nn.Module, layers: tuple[int, ...] | None, **known: Any) -> Encoder:
        encoder = timm_models.encode(
            net, name, fixed, size, layers or (-1,), **{k: v for k, v in known.items() if k != "name"}
        )
        return encoder.with_card(name=known["name"], licence="unknown")

    cfg = timm.get_pretrained_cfg(name)
    heads = (cfg.classifier if cfg else None) or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return Plan(make, tuple(f"{head}.{part}" for head in heads for part in ("weight", "bias")), encode, name)


def _tv_plan(name: str, options: dict[str, Any], size: int | None) -> Plan:
    if options:
        raise SpecError("options are for timm's architectures; tv:NAME takes none")
    native = 224

    def make(classes: int | None) -> nn.Module:
        nonlocal native
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element", UserWarning)
            net, native = tv_models.create(name, classes=classes)
        return net

    def encode(net: nn.Module, layers: tuple[int, ...] | None, **known: Any) -> Encoder:
        known["source"], called = known["source"], known.pop("name")
        return tv_models.encode(net, name, layers or (-1,), size or native, **known).with_card(name=called)

    linear = [path for path, part in make(None).named_modules() if isinstance(part, nn.Linear)]
    return Plan(make, tuple(f"{path}.{part}" for path in linear[-1:] for part in ("weight", "bias")), encode, f"tv:{name}")


def _stripped(stored: State, net: nn.Module, prefix: str) -> State:
    """Keys as the network has them where the prefix was taken off; other keys stay as they are, to be judged as heads."""
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    candidates = [prefix.rstrip(".") + "."] if prefix else _prefixes(stored)
    score = {
        one: sum(wanted.get(key[len(one) :]) == v.shape for key, v in stored.items() if key.startswith(one))
        for one in candidates
    }
    best = max(candidates, key=lambda one: (score[one], -candidates.index(one)))
    named = {key[len(best) :] if key.startswith(best) else f"({key})": value for key, value in stored.items()}
    return named if score[best] == len(wanted) else _translated(named, net, wanted)


def _prefixes(stored: State) -> list[str]:
    """Every chain of usual prefixes that some key starts with, the shortest first, then in the order of `PREFIXES`."""
    found = {""}
    for key in stored:
        parts = key.split(".")
        for count in range(1, len(parts)):
            if parts[count - 1] not in PREFIXES:
                break
            found.add(".".join(parts[:count]) + ".")
    return sorted(found, key=lambda one: (one.count("."), [PREFIXES.index(part) for part in one.split(".")[:-1]]))


def _translated(named: State, net: nn.Module, wanted: Mapping[str, torch.Size]) -> State:
    """The keys as timm's own converter of that family has them, where more of them fit then (DINOv2's own, other sizes)."""
    converter = getattr(sys.modules.get(type(net).__module__), "checkpoint_filter_fn", None)
    if converter is None:
        return named
    try:
        converted = converter({k: v for k, v in named.items() if not k.startswith("(")}, net)
    except Exception:
        return named  # a converter fails on keys of another family, and `_fit` then says which keys those are
    before, after = (sum(wanted.get(k) == v.shape for k, v in one.items()) for one in (named, converted))
    return {**converted, **{k: v for k, v in named.items() if k.startswith("(")}} if after > before else named


def _fit(net: nn.Module, state: State, plan: Plan, place: Path) -> tuple[State, dict[str, int], bool]:
    """The weights to load, what is left out as heads (name: count), and whether the classifier is among the weights."""
    wanted = net.state_dict()
    missing = [k for k in wanted if k not in state and k not in plan.classifier and not RECOMPUTED.fullmatch(k)]
    shaped = [k for k in wanted if k in state and state[k].shape != wanted[k].shape and k not in plan.classifier]
    over = [k for k in state if k not in wanted and not RECOMPUTED.fullmatch(k)]
    heads = Counter(_head_of(key, wanted) for key in over)
    unexpected = [key for key in over if not _head_of(key, wanted)]
    if missing or shaped or unexpected:
        told = []
        for keys, what in ((missing, "missing"), (unexpected, "unexpected"), (shaped, "wrongly shaped")):
            if keys:
                total = len(state) if what == "unexpected" else len(wanted)
                first = keys[0].strip("()")
                if what == "wrongly shaped":
                    first += f" {list(state[first].shape)} where {list(wanted[first].shape)} is wanted"
                told.append(f"{len(keys)} of {total} {what}, first {first}")
        hint = "another arch=, prefix= or key= may fit"
        raise WeightsError(f"{place} does not fit {plan.arch}: {'; '.join(told)}; {hint}")
    classified = all(key in state and state[key].shape == wanted[key].shape for key in plan.classifier if key in wanted)
    fitting = {k: v for k, v in state.items() if k in wanted and v.shape == wanted[k].shape}
    del heads[""]
    return fitting, dict(heads), classified and bool(plan.classifier)


def _head_of(key: str, wanted: Mapping[str, Tensor]) -> str:
    """What a left-over key plainly belongs to: a head's name, or the prefix of another copy of the encoder; else ''."""
    parts = key.strip("()").split(".")
    for place, part in enumerate(parts):
        if HEADS.fullmatch(part):
            return part
        if part not in PREFIXES:
            break
        if ".".join(parts[place + 1 :]) in wanted:
            return f"another copy, {'.'.join(parts[: place + 1])}"
    return ""


def _rows(net: nn.Module, classifier: tuple[str, ...]) -> int | None:
    state = net.state_dict()
    return next((len(state[name]) for name in classifier if name in state), None)
