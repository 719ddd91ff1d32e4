"""Encoders that `hardsight export` has written, read back to the same bits: a folder, or a repository made of one.

Its config.json has a part `hardsight`: how the network is built again (`network`), and what an `Encoder` adds to it. Beside it may
stand what timm or transformers read there. model.safetensors has the weights by their network's own names; their hash is checked.
`describe` writes that part, `load` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_in

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import timm_models
from hardsight.encoders.adapt import classes_of, seeded
from hardsight.encoders.architectures import plan_of
from hardsight.encoders.base import Encoder
from hardsight.encoders.hf_bodies import HfBody
from hardsight.encoders.runs import CARD, exported, network_of
from hardsight.encoders.small import ARCHES
from hardsight.encoders.timm_models import TimmBody
from hardsight.encoders.zoo import entry
from hardsight.specs.catalog import build, complete, find
from hardsight.specs.syntax import Call, override, read, show

PART, FORMAT = "hardsight", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
RANDOM = {"timm": ("pretrained", False), "tv": ("weights", None), "hf": ("pretrained", False)}
"""The argument of a source that leaves its weights out: those of the file take their place."""


def origin(call: Call) -> Call:
    """The call that builds the network: behind a run its recipe's encoder, behind a name of the zoo its entry."""
    if call.name == "run":
        path = exported(str(call["folder"]), bool(call["best"]), call["epoch"])
        try:
            recipe = json.loads(path.with_suffix(CARD).read_text(encoding="utf-8"))["recipe"]
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"cannot read {path.with_suffix(CARD)}, the card of {path.name}: {error}") from None
        return origin(complete(str(recipe["encoder"]), "Encoder"))
    if call.name == "zoo":
        listed = entry(str(call["name"]))
        text = listed.get("spec")
        return complete(read(text) if text else Call("file", (("path", ""), ("arch", listed["arch"]))), "Encoder")
    return call


def network(encoder: Encoder, call: Call) -> dict[str, Any]:
    """How the encoder's network is built again; "kind" is timm, transformers, arch, spec, or "" if that can't be done."""
    made, body = origin(call), encoder.body
    if isinstance(body, TimmBody) and made.name in ("timm", "file"):
        return {"kind": "timm", "fixed": body.fixed, "pooled": body.pooled}
    if isinstance(body, HfBody) and made.name == "hf":
        return {"kind": "transformers", "pooled": body.pooled}
    if made.name == "file":
        arch = str(made["arch"])
        classes = body.classes if arch in ARCHES else classes_of(getattr(body, "head", None))
        options = {key: value for key, value in (made["options"] or {}).items() if key != "num_classes"}
        return {"kind": "arch", "arch": arch, "options": options, "classes": classes, "size": made["size"]}
    if made.name in ("tiny", "tiny_vit", "tv"):
        name, value = RANDOM.get(made.name, ("seed", 0))
        return {"kind": "spec", "spec": show(override(made, name, value))}
    return {"kind": ""}


def describe(encoder: Encoder, how: dict[str, Any], content: bytes) -> dict[str, Any]:
    """The part of config.json. how: of `network`; content: of the file of weights."""
    card = encoder.card
    kept = ("name", "arch", "size", "resize", "classes", "labels", "licence", "note", "preprocess", "sha256")
    return {
        "format": FORMAT,
        "network": how,
        "layers": list(encoder.dense_layers),
        "mean": list(card.mean),
        "std": list(card.std),
        **{key: getattr(card, key) for key in kept},
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }


def load(
    part: dict[str, Any],
    where: str,
    fetch: Callable[[str], Path],
    layers: tuple[int, ...] | None = None,
    resize: int | None = None,
) -> Encoder:
    """The encoder of a part of config.json. where: of the errors; fetch: the path of a file of the folder or repository.

    layers, resize: in place of those that were exported.

    Raises `WeightsError` if the weights are others than those that were exported.
    """
    how = part["network"]
    if part.get("format") != FORMAT:
        raise WeightsError(f"{where} was exported in format {part.get('format')}, and this hardsight reads {FORMAT}")
    content = fetch(WEIGHTS).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != part["file_sha256"]:
        raise WeightsError(
            f"{where}: {WEIGHTS} is not the exported file: sha256 {found[:12]}.. instead of {part['file_sha256'][:12]}.."
        )
    state = tensors_in(content)
    wanted = tuple(part["layers"]) if layers is None else layers
    known: dict[str, Any] = {"mean": tuple(part["mean"]), "std": tuple(part["std"]), "resize": resize or part["resize"]}
    with seeded(0):
        if how["kind"] == "timm":
            encoder = _of_timm(how, part, where, fetch(CONFIG), state, wanted, known)
        elif how["kind"] == "arch":
            plan = plan_of(how["arch"], dict(how["options"]), how["size"])
            encoder = plan.encode(
                plan.make(how["classes"] or None), wanted, name=part["name"], source=where, note="", **known
            )
        elif how["kind"] == "spec":
            call = complete(how["spec"], "Encoder")
            has = {parameter.name for parameter in find(call.name).parameters}
            for key, value in (known | {"layers": wanted, "size": part["size"]}).items():
                call = override(call, key, value) if key in has else call
            encoder = build(call, "Encoder")
        else:
            raise SpecError(f"{where} was exported as a graph only, which torch.export.load reads; see its README.md")
    if how["kind"] != "timm":
        network_of(encoder).load_state_dict(state)
    return encoder.with_card(**_kept(part), source=where)


def _kept(part: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "arch", "size", "classes", "licence", "note", "preprocess")
    return {**{key: part[key] for key in keys}, "labels": tuple(part["labels"])}


def also(encoder: Encoder, part: dict[str, Any]) -> Encoder:
    """What the part adds to the card of an encoder of transformers, which that library has loaded."""
    return encoder.with_card(**{key: value for key, value in _kept(part).items() if key not in ("arch", "classes")})


def _of_timm(
    how: dict[str, Any],
    part: dict[str, Any],
    where: str,
    config: Path,
    state: dict[str, torch.Tensor],
    layers: tuple[int, ...],
    known: dict[str, Any],
) -> Encoder:
    """timm's own configuration beside the part says how the model is built."""
    import timm

    written = json.loads(config.read_text(encoding="utf-8"))
    options = {**written.get("model_args", {}), "num_classes": written["num_classes"]}
    model = timm.create_model(written["architecture"], **options)
    model.load_state_dict(state)
    return timm_models.encode(
        model,
        written["architecture"],
        how["fixed"],
        part["size"],
        layers,
        pooled=how["pooled"],
        source=where,
        note="",
        **known,
    )


def licensed(encoder: Encoder, licence: str) -> Encoder:
    """The encoder with the licence of its weights; `SpecError` if it has none, or another one than is given."""
    own = encoder.card.licence
    known = own and not own.startswith(("unknown", "none stated"))
    if known and licence and licence.lower() != own.lower():
        raise SpecError(f"the weights of {encoder.card.name} are under {own}; --licence can't change that")
    if not known and not licence:
        raise SpecError(
            f"no licence of the weights of {encoder.card.name} is known; give it with --licence, such as --licence MIT for your own"
        )
    return encoder if known else encoder.with_card(licence=licence)
