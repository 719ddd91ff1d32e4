"""An encoder as a folder to hand on: weights, what each library needs to build it again, and a card with its measured numbers.

model.safetensors         the weights, by their network's own names
config.json               timm's or transformers' own, where they know the network; always with a part that `hf:FOLDER` reads
preprocessor_config.json  of transformers' models, where the source has one
model.pt2                 --to safetensors: the whole encoder as a graph of torch.export, normalization and resizing included
README.md                 the card (report/model_card)
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

import hardsight
from hardsight.core import machine
from hardsight.core.errors import SpecError, StoreError
from hardsight.encoders import exported, load_encoder
from hardsight.encoders.base import Encoder
from hardsight.encoders.exported import CONFIG, PART, WEIGHTS
from hardsight.encoders.runs import CARD, network_of
from hardsight.encoders.runs import exported as file_of_run
from hardsight.report.model_card import Facts, text
from hardsight.report.results import Table, grid
from hardsight.specs.catalog import complete
from hardsight.specs.syntax import Call
from hardsight.store.cells import Store
from hardsight.store.files import write_bytes

Form = Literal["hf", "timm", "safetensors"]
GRAPH = "model.pt2"
LIBRARIES = {"hf": "transformers", "timm": "timm", "safetensors": "hardsight"}


def export_encoder(spec: str, to: Form, out: Path, store: Path | None = None, licence: str = "") -> dict[str, Path]:
    """Writes the folder; returns its files by name. store: whose results of these weights go into the card.

    Raises `SpecError` where `to` can't hold the encoder (with what can) or no licence is known, `StoreError` if the store has no
    result of it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} is there already and not empty; give another --out")
    call = complete(spec, "Encoder")
    encoder = exported.licensed(load_encoder(call), licence)
    how = exported.network(encoder, call)
    _fits(encoder, how["kind"], to)
    table = None if store is None else _measured(encoder, store)
    network = encoder.body.model if how["kind"] == "transformers" else network_of(encoder)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    content = save(state, metadata={"format": "pt"})
    files, graph = {WEIGHTS: content}, ""
    part = exported.describe(encoder, how, content)
    if how["kind"] == "transformers":
        files |= _of_transformers(encoder, str(exported.origin(call)["name"]))
    native = _of_timm(encoder) if how["kind"] == "timm" else json.loads(files.pop(CONFIG, b"{}"))
    files[CONFIG] = (json.dumps({**native, PART: part}, indent=2, ensure_ascii=False) + "\n").encode()
    if to == "safetensors":
        files[GRAPH], graph = _graph(encoder)
    facts = _facts(encoder, call, to, how["kind"], graph, native)
    files["README.md"] = text(facts, table).encode()
    for name, one in files.items():
        write_bytes(out / name, one)
    return {name: out / name for name in files}


def _fits(encoder: Encoder, kind: str, to: Form) -> None:
    """`SpecError`, with what is possible, if `to` can't hold a network of this kind."""
    possible = {"timm": ("timm", "hf", "safetensors"), "transformers": ("hf", "safetensors")}.get(kind, ("safetensors",))
    if to in possible:
        return
    where = {"timm": "timm", "hf": "timm or transformers"}[to]
    back = ", which hf:FOLDER and plain torch read" if kind else ", which plain torch reads"
    either = "--to hf, or --to safetensors" if "hf" in possible else f"--to safetensors{back}"
    raise SpecError(f"{encoder.card.name} is {encoder.card.arch}, which {where} does not have; possible: {either}")


def _measured(encoder: Encoder, folder: Path) -> Table:
    """The table of the cells whose encoder has these weights."""
    cells = Store(folder, must_exist=True).cells()
    own = [one for one in cells if (one.what.get("encoder_card") or {}).get("sha256") == encoder.card.sha256 and one.done]
    table = grid(own)
    if not table.rows:
        raise StoreError(
            f"{folder} has no finished result of {encoder.card.name} with these weights ({encoder.card.sha256[:12]}..)"
        )
    return table


def _of_timm(encoder: Encoder) -> dict[str, Any]:
    """timm's own config.json, by timm, with the encoder's normalization."""
    from timm.models import save_for_hf

    mean, std = list(encoder.card.mean), list(encoder.card.std)
    model = encoder.body.model
    patch = getattr(model, "patch_embed", None)
    older = {}  # a timm that does not keep what a model was built with
    if not hasattr(model, "_model_args") and getattr(patch, "dynamic_img_size", False):
        older = {"img_size": list(patch.img_size), "dynamic_img_size": True}  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=older, safe_serialization=True)
        written = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    written["pretrained_cfg"] |= {"mean": mean, "std": std}
    written.get("model_args", {}).pop("num_classes", None)  # it stands above, and transformers takes it from there only
    return written


def _of_transformers(encoder: Encoder, name: str) -> dict[str, bytes]:
    """transformers' own config.json, and the image processor's of the source where there is one."""
    from transformers.image_processing_base import ImageProcessingMixin

    files = {CONFIG: encoder.body.model.config.to_json_string(use_diff=True).encode()}
    try:
        known = ImageProcessingMixin.get_image_processor_dict(str(Path(name).expanduser()))[0]
    except (OSError, ValueError):
        return files
    return files | {"preprocessor_config.json": (json.dumps(known, indent=2) + "\n").encode()}


class _Plain(nn.Module):
    """Pooled and dense features of images in [0, 1]; only the pooled ones where there are no others."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.encoder(x)
        return (found.pooled,) if found.dense is None else (found.pooled, found.dense)


def _graph(encoder: Encoder) -> tuple[bytes, str]:
    """The file of the graph, and for which images it is; the features are checked to be equal, bit by bit.

    For any size where torch can trace that, else for the encoder's own. Raises `SpecError` if it can't be traced at all.
    """
    plain, side, auto = _Plain(encoder).eval(), encoder.card.size, torch.export.Dim.AUTO
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    reason = ""
    for moving, said in (({0: auto, 2: auto, 3: auto}, "[B, 3, H, W]"), ({0: auto}, f"[B, 3, {side}, {side}]")):
        try:
            with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
                warnings.simplefilter("ignore")
                path = Path(folder) / GRAPH
                torch.export.save(torch.export.export(plain, (x,), dynamic_shapes=(moving,)), path)
                again = torch.export.load(path).module()
                for count in (1, 3):
                    z = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))
                    if not all(torch.equal(a, b) for a, b in zip(again(z), plain(z), strict=True)):
                        raise SpecError("its features differ")
                return path.read_bytes(), said
        except Exception as error:  # torch's tracer raises errors of many kinds
            reason = " ".join(str(error).split())[:160]
    raise SpecError(f"{encoder.card.name} can't be traced by torch.export: {reason}")


def _facts(encoder: Encoder, call: Call, to: Form, kind: str, graph: str, native: dict[str, Any]) -> Facts:
    card, source = encoder.card, exported.origin(call)
    trained, base, more = _training(encoder, call)
    outputs = "pooled, dense" if card.dense_dim else "pooled,"
    blocks = []
    if to == "timm" or (to == "hf" and kind == "timm"):
        blocks.append(("With timm, for pixels normalized by the mean and std of its configuration:", (
            'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:ORG/NAME\n'
            "features = model.forward_head(model.forward_features(pixels), pre_logits=True)"
        )))  # fmt: skip
    if to == "hf":
        blocks.append(("With transformers, for pixels that its image processor has prepared:", (
            'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("FOLDER").eval()  # or ORG/NAME\n'
            "features = model(pixel_values=pixels).last_hidden_state"
        )))  # fmt: skip
    if to == "safetensors":
        blocks.append((f"With torch alone, for images {graph} in [0, 1], normalized inside:", (
            f'import torch\n\nencoder = torch.export.load("{GRAPH}").module()\n{outputs} = encoder(images)'
        )))  # fmt: skip
    if kind:
        blocks.append(("With hardsight, for images [B, 3, H, W] in [0, 1], normalized inside:", (
            'import hardsight as hs\n\nencoder = hs.load_encoder("hf:FOLDER")  # or hf:ORG/NAME\nfeatures = encoder(images)'
        )))  # fmt: skip
    load = "FOLDER is where these files are." if kind or to != "safetensors" else "Run it where these files are."
    if to == "safetensors":
        load += (
            f" {GRAPH} was written by torch {torch.__version__.partition('+')[0]}; an older torch may not read it. "
            f"{WEIGHTS} has the weights alone, by the names that {_names(kind, source)} gives them."
        )
    origin = (
        ("source", card.source), ("architecture", card.arch), ("normalization", f"mean {list(card.mean)}, std {list(card.std)}"),
        ("pictures are prepared as", card.preprocess), ("weights' SHA-256", card.sha256), ("note", card.note), *more,
        ("exported by", f"hardsight {hardsight.__version__}"),
    )  # fmt: skip
    scope = (
        ""
        if kind
        else "This network is built by code outside of timm, torchvision and transformers, so only its graph is here."
    )
    return Facts(
        asdict(card),
        LIBRARIES[to if kind != "timm" or to == "safetensors" else "timm"],
        trained,
        scope,
        load,
        tuple(blocks),
        origin,
        base,
    )


def _names(kind: str, source: Call) -> str:
    return {"timm": "timm", "transformers": "transformers"}.get(
        kind, "hardsight" if source.name != "hub" else "its own code"
    )


def _training(encoder: Encoder, call: Call) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """How it was trained, in a sentence; the hub's name of the model it starts from; facts of the run."""
    if call.name != "run":
        note = f" ({encoder.card.note})" if encoder.card.note else ""
        return f"These are the weights of {encoder.card.source}{note}, not trained further here.", "", ()
    path = file_of_run(str(call["folder"]), bool(call["best"]), call["epoch"])
    card = json.loads(path.with_suffix(CARD).read_text(encoding="utf-8"))
    recipe = card["recipe"]
    start = complete(str(recipe["encoder"]), "Encoder")
    base = (
        str(start["name"])
        if start.name == "hf" and "/" in str(start["name"]) and not Path(str(start["name"])).exists()
        else ""
    )
    named = ("encoder", "method", "data", "epochs", "batch", "optimizer", "seed")
    settings = tuple((key, str(recipe[key])) for key in named if recipe.get(key) not in (None, ""))
    sentence = (
        f"Trained with {recipe['method']} on {recipe['data']}, from {recipe['encoder']}; these weights are of epoch {card.get('epoch')} "
        f"of {recipe['epochs']}. {card['licence_note'][:1].upper()}{card['licence_note'][1:]}."
    )
    return (
        sentence,
        base,
        (*settings, ("revision", json.dumps(card.get("revision"))), ("torch", machine.versions().get("torch", ""))),
    )
