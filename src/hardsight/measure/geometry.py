"""Embedding statistics of an encoder, from clean images, random views, EmbedAttack and a linear probe.

    geometry_of(encoder, "made", "linf(4/255)", count=300)  of one encoder
    over(encoders, "made", "linf(4/255)")                   of several, one result each
    over_epochs("runs/x", "made", "linf(4/255)")            of one encoder during training

Here the embeddings are computed; the statistics are in `metrics/embeddings`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardsight.attacks.attack import Attack
from hardsight.attacks.threats.base import Threat
from hardsight.core import seeds
from hardsight.core.errors import DataError, SpecError
from hardsight.core.when import When
from hardsight.data import Data, open_data
from hardsight.data.feed import choose, load, pixels
from hardsight.data.views import Views
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder, Features
from hardsight.encoders.runs import CARD, LAST
from hardsight.losses.objective import still
from hardsight.measure.evaluate import as_array
from hardsight.metrics.embeddings import Embeddings, EncoderGeometry, all_numbers
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.specs.syntax import Call, read, show
from hardsight.tasks.base import System, needs

CHUNK = 50
"""Images per random generator (views, random starts); changing it changes the numbers."""
LEAST, MOST = 4, 5000
"""Allowed numbers of images; all pairs of them are in memory at once."""
PROBE = "probe(images=2000)"
Tick = Callable[[int, int], None]


def over(
    encoders: Iterable[tuple[str, Encoder]],
    data: Data | str,
    threat: Threat | str,
    tick: Callable[[str, int, int], None] | None = None,
    **how: Any,
) -> list[EncoderGeometry]:
    """The statistics of each (label, encoder), in their order, on the same images; how: arguments of `geometry_of`.

    encoders may be a generator, so that only one is in memory at a time. tick: called with (label, images done, total).
    """
    data = open_data(data) if isinstance(data, str) else data
    found = []
    for label, encoder in encoders:
        step = None if tick is None else lambda done, total, label=label: tick(label, done, total)
        found.append(geometry_of(encoder, data, threat, label=label, tick=step, **how))
    return found


def over_epochs(
    folder: str | Path,
    data: Data | str,
    threat: Threat | str,
    tick: Callable[[str, int, int], None] | None = None,
    device: torch.device | str = "cpu",
    **how: Any,
) -> list[EncoderGeometry]:
    """The statistics of a training run's initial encoder, of each snapshot (`snapshots` in its recipe), and of the last one.

    As in figure 2 of paper 002: the robustness of an encoder during hardening.
    """
    name, kept = Path(folder).resolve().name, kept_in(folder)
    named = ((f"{name}, epoch {epoch}", load_encoder(call, device)) for epoch, call in kept.items())
    found = over(named, data, threat, tick, **how)
    return [replace(one, series=name, epoch=epoch) for one, epoch in zip(found, kept, strict=True)]


def kept_in(folder: str | Path) -> dict[int, Call]:
    """Epoch -> the spec of that epoch's encoder; 0: before training. `SpecError` if the run saved none."""
    place = Path(folder).expanduser()
    kept = {int(path.stem.removeprefix("epoch-")): path for path in sorted(place.glob("epoch-*.safetensors"))}
    calls = {epoch: Call("run", (("folder", str(place)), ("epoch", epoch))) for epoch in kept}
    cards = {epoch: json.loads(path.with_suffix(CARD).read_text(encoding="utf-8")) for epoch, path in kept.items()}
    if (last := place / LAST).is_file():
        card = json.loads(last.with_suffix(CARD).read_text(encoding="utf-8"))
        calls.setdefault(int(card["epoch"]), Call("run", (("folder", str(place)),)))
        cards.setdefault(int(card["epoch"]), card)
    if not cards:
        raise SpecError(f"{place} contains no encoder of a training run; set 'snapshots = 1' in its recipe to save them")
    return {0: read(next(iter(cards.values()))["recipe"]["encoder"]), **dict(sorted(calls.items()))}


def geometry_of(
    encoder: Encoder,
    data: Data | str,
    threat: Threat | str,
    count: int = 500,
    seed: int = 0,
    views: str = "views",
    probe: str = PROBE,
    attack: str = "embed",
    k: int = 10,
    split: str = "",
    label: str = "",
    tick: Tick | None = None,
) -> EncoderGeometry:
    """The statistics of an encoder's pooled embeddings, on the same images of a split as a benchmark with that count.

    threat: of both attacks. views: alignment compares two views of an image. probe: how the linear probe is trained, on the
    training split. attack: the label-free attack; the attack on the probe's loss is PGD. k: number of nearest neighbours for
    `false_negatives`. label: its name in tables, by default the card's. Raises `SpecError` or `DataError` for arguments that
    are not possible.
    """
    data = open_data(data) if isinstance(data, str) else data
    ball: Threat = build(threat, "Threat") if isinstance(threat, str) else threat
    pair: Views = build(views, "Views")
    _check(count, k, ball, pair, views)
    device = next(iter(encoder.parameters()), torch.zeros(0)).device
    task, label_free = build("classify", "Task"), build(attack, "Attack")
    needs(data.card, "geometry", "label", data.card.classes)
    system = fit_probe(encoder, task, data, probe, seed, device)
    if system.encoder is not encoder:
        raise SpecError(f"'{probe}' tunes the encoder, but the geometry is that of the frozen one; use probe(...)")
    weight, bias = affine(system.head, encoder.card.dim)
    split = data.measured_on(split)
    images = data.split(split)
    places = choose(images, count)
    if len(places) < LEAST:
        raise DataError(f"{data.card.name} has {len(places)} images in '{split}'; geometry needs at least {LEAST}")
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(places), CHUNK):
        batch = load(images, places[start : start + CHUNK])
        x, y = pixels(batch.images, device), batch.target["label"].to(device)
        rng = {name: seeds.generator("geometry", name, seed, start) for name in ("views", "embed", "task")}
        with torch.no_grad(), still(encoder):
            clean, first, second = (embedded(encoder, one) for one in (x, *pair(x, When(rng["views"]))[:2]))
        found = _attacked(system, label_free, x, y, ball, rng["embed"])
        task_found = _attacked(system, build(task.attack, "Attack"), x, y, ball, rng["task"])
        tensors = {"label": y, "clean": clean, "first": first, "second": second}
        arrays = {name: as_array(one) for name, one in tensors.items()}
        parts.append({"id": np.array(batch.ids), **arrays, **found, "misclassified": task_found["error"]})
        if tick:
            tick(start + len(x), len(places))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    flat, halted, queries, _ = (arrays.pop(key) for key in ("flat", "halted", "queries", "error"))
    embeddings = Embeddings(**arrays, weight=weight, bias=bias, k=k)
    facts = {
        "data": data.card.name,
        "split": split,
        "count": len(places),
        "seed": seed,
        "threat": _written(ball),
        "norm": ball.norm,
        "eps": ball.eps,
        "attack": attack,
        "views": views,
        "probe": probe,
        "k": k,
        "classes": list(data.card.classes),
        "flat": float(flat.sum() / max(1, queries.sum())),
        "halted": int(halted.sum()),
    }
    card = encoder.card
    numbers = all_numbers(embeddings, seed)
    return EncoderGeometry(label or card.name, embeddings, numbers, card.source, facts=facts, card=asdict(card))


def embedded(encoder: Encoder, x: Tensor) -> Tensor:
    """[B, D]: pooled embeddings; `DataError` where one is not finite."""
    found = encoder(x).pooled.float()
    if not bool(torch.isfinite(found).all()):
        raise DataError(f"{encoder.card.name} gives non-finite embeddings (NaN or Inf), so its geometry cannot be computed")
    return found


def affine(head: nn.Module, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(W [K, D], b [K]) of a head that is affine in the pooled embedding, from its outputs at 0 and at the unit vectors.

    Raises `SpecError` if it is not affine.
    """
    twin = copy.deepcopy(head).double().eval()
    device = next(iter(twin.parameters()), torch.zeros(0)).device

    def at(z: Tensor) -> Tensor:
        return twin(Features(z, None, (), None, (1, 1), (1, 1)))

    with torch.no_grad():
        axes = torch.eye(dim, dtype=torch.float64, device=device)
        bias = at(axes[:1] * 0)[0]
        weight = (at(axes) - bias).T
        elsewhere = at(axes.sum(0, keepdim=True) * 3)[0]
        if not torch.allclose(elsewhere, 3 * weight.sum(1) + bias, rtol=1e-6, atol=1e-6):
            raise SpecError("margins need a linear probe, and this head is not linear; use classify(head=linear)")
    return as_array(weight), as_array(bias)


def _attacked(
    system: System, attack: Attack, x: Tensor, y: Tensor, threat: Threat, rng: torch.Generator
) -> dict[str, np.ndarray]:
    """Runs the attack and evaluates its projected x_adv: embeddings, errors, sizes, and the diagnostics of the search."""
    found = attack(system, x, y, threat, rng)
    with torch.no_grad(), still(system.encoder, system.head):
        x_adv = threat.project(found.x_adv.to(x.dtype), x)
        return {
            "attacked": as_array(embedded(system.encoder, x_adv)),
            "error": as_array(system.task.error(system.output(x_adv), y)),
            "size": as_array(threat.size(x_adv - x)),
            "flat": as_array(found.flat),
            "halted": as_array(found.halted),
            "queries": as_array(found.queries),
        }


def _check(count: int, k: int, threat: Threat, views: Views, spec: str) -> None:
    """`SpecError` if one of the settings is not possible."""
    if not LEAST <= count <= MOST:
        raise SpecError(f"count is {count}; geometry takes {LEAST} to {MOST} images, since it compares all pairs of them")
    if k < 1:
        raise SpecError(f"k is {k}; it is the number of nearest neighbours, at least 1")
    if not threat.eps > 0:
        raise SpecError("eps is 0; a local Lipschitz constant needs eps > 0")
    if views.count < 2:
        raise SpecError(f"'{spec}' draws {views.count} view; alignment compares two")


def _written(threat: Threat) -> str:
    spec = getattr(threat, "spec", None)
    return f"{threat.norm} {threat.eps:g}" if spec is None else show(spec)
