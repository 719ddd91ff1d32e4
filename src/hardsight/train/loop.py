"""One training run, from a recipe file to an encoder's weights: what is finished of it is kept, epoch by epoch."""

from __future__ import annotations

import io
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hardsight import noise, tree
from hardsight.catalog import build, complete
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.errors import SpecError, StoreError, nearest
from hardsight.methods.base import Learner, Samples
from hardsight.recipe import check_name
from hardsight.store import write_bytes, write_json
from hardsight.watch import Watch
from hardsight.when import When

SHIPPED = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class TrainingRecipe:
    """What to train: specs as text; epochs over `data`'s training part; AdamW with a cosine schedule and a short warm-up."""

    name: str
    encoder: str
    method: str
    data: str
    epochs: int = 10
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    seed: int = 0
    precision: str = "float32"
    title: str = ""


def read_recipe(name: str) -> TrainingRecipe:
    """The training recipe of a TOML file, or of that name among the shipped ones."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.exists():
        shipped = sorted(one.stem for one in SHIPPED.glob("*.toml"))
        raise SpecError(f"there is no recipe '{name}'{nearest(name, shipped) or '; shipped: ' + ', '.join(shipped)}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    known = [f.name for f in fields(TrainingRecipe)]
    for key in content:
        if key not in known:
            raise SpecError(
                f"{path}: a training recipe has no '{key}'{nearest(key, known) or '; it has ' + ', '.join(known)}"
            )
    for key in ("encoder", "method", "data"):
        if not isinstance(content.get(key), str):
            raise SpecError(
                f"{path}: a training recipe needs '{key}', a spec; a recipe to measure goes to 'hardsight bench'"
            )
    recipe = TrainingRecipe(**{"name": path.stem, **content})
    for key, kind, least in (("epochs", int, 1), ("batch", int, 2), ("lr", float, 0), ("seed", int, 0)):
        value = getattr(recipe, key)
        if not isinstance(value, kind | int) or value < least:
            raise SpecError(f"{path}: {key} is {value!r}; it is a number of at least {least}")
    if recipe.precision not in ("float32", "bf16"):
        raise SpecError(f"{path}: precision is '{recipe.precision}'; it is float32 or bf16")
    check_name(recipe.name)
    complete(recipe.encoder, "Encoder")
    complete(recipe.method, "Method")
    complete(recipe.data, "Data")
    return recipe


def train(recipe: TrainingRecipe, folder: Path, device: torch.device, watch: Watch) -> Path:
    """Trains, or goes on after the last finished epoch in `folder`; returns the path of the encoder's safetensors file.

    An epoch's random numbers derive from the seed and the epoch alone, so a resumed run equals an uninterrupted one.
    """
    encoder = load_encoder(recipe.encoder, device=device).requires_grad_(True)
    data = open_data(recipe.data)
    images = data.split("train")
    method = build(recipe.method, "Method")
    with torch.random.fork_rng():
        torch.manual_seed(noise.seed_of("parts", recipe.seed))
        learner = method.begin(encoder, data.card, len(images)).to(device)
    weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = len(images) // recipe.batch
    if not batches:
        raise SpecError(
            f"{recipe.name}: batch is {recipe.batch}, and {data.card.name} has only {len(images)} training images"
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(recipe.epochs * batches, recipe.warmup))
    state = {"learner": learner, "optimizer": optimizer, "schedule": schedule}
    first = _resume(folder / "last.pt", state, asdict(recipe))
    with watch, watch.bar(recipe.name, recipe.epochs * batches) as bar:
        bar.advance(first * batches)
        for epoch in range(first, recipe.epochs):
            logs = _epoch(epoch, recipe, learner, images, optimizer, schedule, bar, device)
            _checkpoint(folder / "last.pt", state, asdict(recipe), epoch + 1)
            watch.note(
                f"{recipe.name}: epoch {epoch + 1}/{recipe.epochs} " + " ".join(f"{k} {v:.4f}" for k, v in logs.items())
            )
    return export(encoder, folder, recipe)


def export(encoder: Encoder, folder: Path, recipe: TrainingRecipe) -> Path:
    """Writes the body's weights as safetensors, and the recipe beside them."""
    path = folder / "encoder.safetensors"
    body = {name: value.detach().cpu().contiguous() for name, value in encoder.body.state_dict().items()}
    write_bytes(path, save(body, metadata={"format": "pt"}))
    write_json(folder / "recipe.json", asdict(recipe))
    return path


def _epoch(
    epoch: int, recipe: TrainingRecipe, learner: Learner, images: Any,
    optimizer: torch.optim.Optimizer, schedule: Any, bar: Any, device: torch.device,
) -> dict[str, float]:  # fmt: skip
    rng = noise.generator("epoch", recipe.seed, epoch)
    torch.manual_seed(
        noise.seed_of("epoch", recipe.seed, epoch)
    )  # for dropout and stochastic depth, which take no generator
    order = torch.randperm(len(images), generator=rng).tolist()
    learner.train()
    totals: dict[str, float] = {}
    batches = len(images) // recipe.batch
    for place in range(batches):
        places = order[place * recipe.batch : (place + 1) * recipe.batch]
        batch = load(images, places)
        target = {name: tree.move(value, device) for name, value in batch.target.items()}
        samples = Samples(pixels(batch.images, device), target, torch.tensor(places, device=device))
        when = When(rng, epoch * batches + place, recipe.epochs * batches, epoch, recipe.epochs)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            step = learner(samples, when)
        loss = float(step.loss.detach())
        if not math.isfinite(loss):
            raise StoreError(f"the loss became {loss} in epoch {epoch + 1}, step {place + 1}; try a smaller lr")
        optimizer.zero_grad()
        step.loss.backward()
        learner.after_backward(when)
        optimizer.step()
        schedule.step()
        learner.after_step(step.keep, when)
        for key, value in {"loss": loss, **step.logs}.items():
            totals[key] = totals.get(key, 0.0) + value / batches
        bar.advance(1, len(places))
    return totals


def _cosine(steps: int, warmup: float) -> Any:
    rising = max(1, int(steps * warmup))
    return lambda t: (
        (t + 1) / rising if t < rising else 0.5 * (1 + math.cos(math.pi * (t - rising) / max(1, steps - rising)))
    )


def _checkpoint(path: Path, state: dict[str, Any], recipe: dict[str, Any], epochs: int) -> None:
    buffer = io.BytesIO()
    torch.save(
        {**{key: part.state_dict() for key, part in state.items()}, "recipe": json.dumps(recipe), "epochs": epochs}, buffer
    )
    write_bytes(path, buffer.getvalue())


def _resume(path: Path, state: dict[str, Any], recipe: dict[str, Any]) -> int:
    """Loads what an earlier run left; returns how many epochs are finished."""
    if not path.exists():
        return 0
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if saved["recipe"] != json.dumps(recipe):
        raise StoreError(f"{path.parent} holds a run of another recipe; give another --out, or delete that folder")
    try:
        for key, part in state.items():
            part.load_state_dict(saved[key])
    except (KeyError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} does not fit this recipe's networks ({error}); delete that folder to start anew") from None
    return int(saved["epochs"])
