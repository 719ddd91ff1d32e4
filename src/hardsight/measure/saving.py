"""Adversarial images as files. Rounding to 8 bits can leave the eps ball, so saving needs its own projection.

The effect is recorded before and after rounding: at small radii the two differ.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

import hardsight
from hardsight.attacks.attack import Attack, Single, misfit, on
from hardsight.attacks.targets import judged
from hardsight.attacks.threats.base import Threat, per_image
from hardsight.core import seeds, tree
from hardsight.core.errors import DataError
from hardsight.data.images import open_image
from hardsight.losses.objective import still
from hardsight.measure.early import images_for
from hardsight.measure.passes import counted
from hardsight.specs.catalog import minimal
from hardsight.specs.syntax import show
from hardsight.store.files import write_bytes, write_json
from hardsight.tasks.base import System

LEVELS = 255
HELD = 256
"""Maximal number of images in memory that wait for others of the same size to fill a batch."""
NAMED = 5
"""Number of images that are named where some are left out."""


def to_bytes(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """uint8 images [B, 3, H, W], x_adv rounded to 8 bits within eps of x; `DataError` unless x is on the 8-bit grid.

    Where rounding leaves the ball, the perturbation is first scaled down by the largest factor that keeps it inside.
    """
    base = (x * LEVELS).round()
    if float((x * LEVELS - base).abs().max()) > 1e-3:
        raise DataError(
            "the clean images are not on the 8-bit grid (multiples of 1/255), so saved images may be farther than eps away"
        )
    delta = (x_adv - x) * LEVELS

    def rounded(scale: Tensor) -> Tensor:
        return (base + (delta * per_image(scale, delta)).round()).clamp(0, LEVELS)

    def fits(image: Tensor) -> Tensor:
        return threat.size(image / LEVELS - base / LEVELS) <= threat.eps * (1 + 1e-5)

    low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
    whole = fits(rounded(high))
    for _ in range(24):
        middle = (low + high) / 2
        good = fits(rounded(middle))
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return rounded(torch.where(whole, torch.ones_like(low), low)).byte()


def attack_folder(
    system: System,
    attack: Attack,
    threat: Threat,
    source: Path,
    target: Path,
    seed: int = 0,
    batch: int = 16,
    on_error: Literal["stop", "skip"] = "stop",
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attacks every image under `source`; writes PNGs of the same names and `attack.json` to `target`.

    Images keep their own size. An attack that needs labels takes the system's predictions on the clean images as labels;
    images for which that already is the attack's target are left out, and `skipped` says how many they are.
    Returns the content of attack.json: one record per image, with the size of the perturbation and the relative distance by
    which the embedding moved, both before and after rounding. Raises `DataError` if `target` is inside `source`.
    """
    paths = images_for(source, target)
    names = _names(paths, source)
    device = next(system.encoder.parameters()).device
    groups: dict[tuple[int, ...], list[tuple[Path, Tensor]]] = defaultdict(list)
    records: list[dict[str, Any]] = []
    skipped: list[str] = []
    there: list[Path] = []  # images for which the prediction already is the target
    done = 0

    relates = bool(misfit(attack, system.task.target, 1))
    room = batch + 2 * relates  # a batch waits for two images more, so that none is left alone at the end

    def flush(group: list[tuple[Path, Tensor]]) -> None:
        nonlocal done
        if why := misfit(attack, system.task.target, len(group)):
            skipped.extend(f"{path}: {why}, and no more images are of its size" for path, _ in group)
            return
        x = torch.stack([image for _, image in group]).to(device).float() / LEVELS
        rng = seeds.generator("attack", seed, *[path.relative_to(source).as_posix() for path, _ in group])
        group_paths = [path for path, _ in group]
        label = _predicted(system, attack, x)
        _, same = judged(on(attack, system.task.target), label)
        if same is not None:
            there.extend(path for path, one in zip(group_paths, same.tolist(), strict=True) if one)
            group_paths = [path for path, one in zip(group_paths, same.tolist(), strict=True) if not one]
            x, label = x[~same], tree.take(label, ~same)
        if group_paths:
            each, ran = max(attack.passes, 1), 0

            def advance(passes: int) -> None:
                nonlocal ran
                ran += passes
                if tick:
                    tick(done + min(ran // each, len(group) - 1), len(paths))

            with counted(system.encoder, each * len(group_paths), advance):
                records.extend(_attack_batch(system, attack, threat, x, label, rng, group_paths, source, target, names))
        done += len(group)
        if tick:
            tick(done, len(paths))

    if tick:
        tick(0, len(paths))
    for path in paths:
        try:
            image = torch.from_numpy(open_image(path).copy()).permute(2, 0, 1)
        except DataError as error:
            if on_error == "stop":
                raise
            skipped.append(str(error))
            continue
        group = groups[tuple(image.shape)]
        group.append((path, image))
        if len(group) == room or sum(len(one) for one in groups.values()) > HELD:
            full = groups.pop(max(groups, key=lambda shape: len(groups[shape])))
            flush(full[:batch])
            if relates and len(full) > batch:
                groups[tuple(full[0][1].shape)] = full[batch:]
    for group in groups.values():
        flush(group)
    if there:
        shown = ", ".join(path.relative_to(source).as_posix() for path in there[:NAMED]) + ", ..." * (len(there) > NAMED)
        skipped.append(f"{len(there)} of {len(paths)} images, whose prediction already is the attack's target: {shown}")
    report = {
        "encoder": system.encoder.card.name,
        "encoder_sha256": system.encoder.card.sha256,
        "attack": written(attack),
        "task": written(system.task),
        "batch": batch,
        "hardsight": hardsight.__version__,
        "norm": threat.norm,
        "eps": float(threat.eps),
        "seed": seed,
        "images": sorted(records, key=lambda record: record["image"]),
        "skipped": skipped,
    }
    write_json(target / "attack.json", report)
    return report


def _attack_batch(
    system: System,
    attack: Attack,
    threat: Threat,
    x: Tensor,
    label: Any,
    rng: torch.Generator,
    paths: list[Path],
    source: Path,
    target: Path,
    names: dict[Path, Path],
) -> list[dict[str, Any]]:
    found = threat.project(attack(system, x, label, threat, rng).x_adv, x)
    saved = to_bytes(found, x, threat)
    read_back = saved.float() / LEVELS
    with torch.no_grad(), still(system.encoder, system.head):
        here = system.pooled(x)
        moved = [(system.pooled(z) - here).norm(dim=1) / here.norm(dim=1) for z in (found, read_back)]
        changed = None if label is None else [system.task.error(system.output(z), label) for z in (found, read_back)]
    records = []
    for place, path in enumerate(paths):
        name = names[path]
        buffer = io.BytesIO()
        Image.fromarray(saved[place].permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
        write_bytes(target / name, buffer.getvalue())
        record = {
            "image": path.relative_to(source).as_posix(),
            "saved": name.as_posix(),
            "size": float(threat.size(found - x)[place]),
            "size_saved": float(threat.size(read_back - x)[place]),
            "embedding_moved": float(moved[0][place]),
            "embedding_moved_saved": float(moved[1][place]),
        }
        if changed is not None:
            record |= {"answer_changed": float(changed[0][place]), "answer_changed_saved": float(changed[1][place])}
        records.append(record)
    return records


def _predicted(system: System, attack: Attack, x: Tensor) -> Any:
    """The system's predictions on clean images, which serve as labels; None if the attack needs none."""
    with torch.no_grad(), still(system.encoder, system.head):
        return None if label_free(attack) else system.task.answer(system.output(x))


def _names(paths: list[Path], source: Path) -> dict[Path, Path]:
    """The file name of each saved image: its own with .png; a.png and a.jpg in one folder become a.png.png and a.jpg.png."""
    names = {path: path.relative_to(source).with_suffix(".png") for path in paths}
    count = Counter(names.values())
    names = {path: name if count[name] == 1 else name.with_name(f"{path.name}.png") for path, name in names.items()}
    if len(set(names.values())) < len(names):
        return {path: Path(f"{path.relative_to(source)}.png") for path in paths}
    return names


def written(built: object) -> str:
    """The spec of a built object as text; empty if it has none."""
    spec = getattr(built, "spec", None)
    return show(minimal(spec)) if spec is not None else ""


def label_free(attack: Attack) -> bool:
    """Whether the attack needs neither labels nor a head."""
    return isinstance(attack, Single) and attack.where != "output" and not attack.aim.label
