"""The geometry of an encoder: images, views of them, EmbedAttack and a linear probe, and what they tell of its embeddings.

    portrait(encoder, "made", "linf(4/255)", count=300)     one encoder's
    over(encoders, "made", "linf(4/255)")                   of several: a row each
    over_epochs("runs/x", "made", "linf(4/255)")            of one encoder as it is trained

The numbers themselves are `metrics/portrait`'s; here only the embeddings are made.
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
from hardsight.metrics.portrait import Portrait, Sights, portray
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.specs.syntax import Call, read, show
from hardsight.tasks.base import System, needs

CHUNK = 50
"""Images whose views and starts one generator draws; part of what fixes a number."""
LEAST, MOST = 4, 5000
"""Images; all pairs of them are held at once."""
PROBE = "probe(images=2000)"
Tick = Callable[[int, int], None]


def over(
    encoders: Iterable[tuple[str, Encoder]],
    data: Data | str,
    threat: Threat | str,
    tick: Callable[[str, int, int], None] | None = None,
    **how: Any,
) -> list[Portrait]:
    """A portrait of each (label, encoder), in their order, on the same images; how: as `portrait` takes it.

    encoders may be made one by one, so that no two are held at once. tick: (label, images done, of all).
    """
    data = open_data(data) if isinstance(data, str) else data
    found = []
    for label, encoder in encoders:
        step = None if tick is None else lambda done, total, label=label: tick(label, done, total)
        found.append(portrait(encoder, data, threat, label=label, tick=step, **how))
    return found


def over_epochs(
    folder: str | Path,
    data: Data | str,
    threat: Threat | str,
    tick: Callable[[str, int, int], None] | None = None,
    device: torch.device | str = "cpu",
    **how: Any,
) -> list[Portrait]:
    """A portrait of the encoder a training run began with and of each it kept (`snapshots` in its recipe), the last one too.

    What paper 002's figure 2 asks: how robust an encoder is while it is hardened.
    """
    name, kept = Path(folder).resolve().name, kept_in(folder)
    named = ((f"{name}, epoch {epoch}", load_encoder(call, device)) for epoch, call in kept.items())
    found = over(named, data, threat, tick, **how)
    return [replace(one, series=name, epoch=epoch) for one, epoch in zip(found, kept, strict=True)]


def kept_in(folder: str | Path) -> dict[int, Call]:
    """Epoch -> the spec of the encoder as it was then, 0: before training. `SpecError` where the run kept none."""
    place = Path(folder).expanduser()
    kept = {int(path.stem.removeprefix("epoch-")): path for path in sorted(place.glob("epoch-*.safetensors"))}
    calls = {epoch: Call("run", (("folder", str(place)), ("epoch", epoch))) for epoch in kept}
    cards = {epoch: json.loads(path.with_suffix(CARD).read_text(encoding="utf-8")) for epoch, path in kept.items()}
    if (last := place / LAST).is_file():
        card = json.loads(last.with_suffix(CARD).read_text(encoding="utf-8"))
        calls.setdefault(int(card["epoch"]), Call("run", (("folder", str(place)),)))
        cards.setdefault(int(card["epoch"]), card)
    if not cards:
        raise SpecError(f"{place} holds no encoder of a training run; its recipe keeps them with 'snapshots = 1'")
    return {0: read(next(iter(cards.values()))["recipe"]["encoder"]), **dict(sorted(calls.items()))}


def portrait(
    encoder: Encoder,
    data: Data | str,
    threat: Threat | str,
    count: int = 500,
    seed: int = 0,
    views: str = "views",
    probe: str = PROBE,
    attack: str = "embed",
    k: int = 10,
    split: str = "test",
    label: str = "",
    tick: Tick | None = None,
) -> Portrait:
    """The geometry of an encoder's pooled embeddings, on the images of a split that a benchmark of that count sees.

    threat: where the attacks may go. views: two of an image stand for alignment's pair. probe: how the linear probe is trained,
    on the data's training part. attack: the label-free one; the probe's own is PGD. k: nearest others that are asked for their
    class. label: its name in tables, by default the card's. Raises `SpecError` or `DataError` where one of them can't be asked.
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
        raise SpecError(f"'{probe}' tunes the encoder; the geometry asked for is that of the encoder as it is")
    weight, bias = affine(system.head, encoder.card.dim)
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
            seen = [embedded(encoder, one) for one in (x, *pair(x, When(rng["views"]))[:2])]
        found = _attacked(system, label_free, x, y, ball, rng["embed"])
        task_found = _attacked(system, build(task.attack, "Attack"), x, y, ball, rng["task"])
        named = zip(("label", "clean", "first", "second"), (y, *seen), strict=True)
        parts.append(
            {"id": np.array(batch.ids), **{name: _numpy(one) for name, one in named}, **found, "fell": task_found["error"]}
        )
        if tick:
            tick(start + len(x), len(places))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    flat, halted, queries, _ = (arrays.pop(key) for key in ("flat", "halted", "queries", "error"))
    sights = Sights(**arrays, weight=weight, bias=bias, k=k)
    facts = {
        "data": data.card.name,
        "split": split,
        "count": len(places),
        "seed": seed,
        "threat": _said(ball),
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
    return Portrait(label or card.name, sights, portray(sights, seed), card.source, facts=facts, card=asdict(card))


def embedded(encoder: Encoder, x: Tensor) -> Tensor:
    """[B, D]: pooled embeddings; `DataError` where one is not finite."""
    found = encoder(x).pooled.float()
    if not bool(torch.isfinite(found).all()):
        raise DataError(f"{encoder.card.name} gives embeddings that are not finite numbers; its geometry can't be told")
    return found


def affine(head: nn.Module, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(W [K, D], b [K]) of a head that is affine in the pooled embedding, whatever it is made of: read off at 0 and the axes.

    Raises `SpecError` where it is not.
    """
    twin = copy.deepcopy(head).double().eval()
    device = next(iter(twin.parameters()), torch.zeros(0)).device

    def at(z: Tensor) -> Tensor:
        return twin(Features(z, None, (), None, (1, 1), (1, 1)))

    with torch.no_grad():
        axes = torch.eye(dim, dtype=torch.float64, device=device)
        bias = at(axes[:1] * 0)[0]
        weight = (at(axes) - bias).T
        there = at(axes.sum(0, keepdim=True) * 3)[0]
        if not torch.allclose(there, 3 * weight.sum(1) + bias, rtol=1e-6, atol=1e-6):
            raise SpecError("a margin is told of a linear probe, and this head is none; use classify(head=linear)")
    return _numpy(weight), _numpy(bias)


def _attacked(
    system: System, attack: Attack, x: Tensor, y: Tensor, threat: Threat, rng: torch.Generator
) -> dict[str, np.ndarray]:
    """What the attack came to, read anew on allowed pixels: embeddings, errors, sizes, and how blind its search was."""
    found = attack(system, x, y, threat, rng)
    with torch.no_grad(), still(system.encoder, system.head):
        x_adv = threat.project(found.x_adv.to(x.dtype), x)
        return {
            "attacked": _numpy(embedded(system.encoder, x_adv)),
            "error": _numpy(system.task.error(system.output(x_adv), y)),
            "size": _numpy(threat.size(x_adv - x)),
            "flat": _numpy(found.flat),
            "halted": _numpy(found.halted),
            "queries": _numpy(found.queries),
        }


def _check(count: int, k: int, threat: Threat, views: Views, spec: str) -> None:
    """`SpecError` where numbers of an analysis are none that can be asked for."""
    if not LEAST <= count <= MOST:
        raise SpecError(f"count is {count}; geometry takes {LEAST} to {MOST} images, as it looks at all pairs of them")
    if k < 1:
        raise SpecError(f"k is {k}; at least 1 nearest other is asked for its class")
    if not threat.eps > 0:
        raise SpecError("eps is 0; a local Lipschitz constant needs room to move in")
    if views.count < 2:
        raise SpecError(f"'{spec}' draws {views.count} view; alignment compares two")


def _said(threat: Threat) -> str:
    spec = getattr(threat, "spec", None)
    return f"{threat.norm} {threat.eps:g}" if spec is None else show(spec)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
