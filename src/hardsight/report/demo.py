"""The demo's page, its picture in a terminal, and its four sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from rich.text import Text

from hardsight.report.colours import class_colour, class_palette
from hardsight.report.pictures import Picture, masked, photo
from hardsight.report.results import plain, shown
from hardsight.store.files import write_bytes

SHADES = " .:-=+*#%@"
"""Dark to bright, where a terminal has no colours."""
WIDE, GAP = 34, 2
"""Largest number of columns of one picture in a terminal; columns between two."""


@dataclass(frozen=True)
class Figure:
    """A task's headline metric as (value, low, high): before the attack, and after it."""

    task: str
    label: str
    unit: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """uint8 images [H, W, 3], features as colours [h, w, 3] and masks [H, W], each clean and attacked; classes as names."""

    id: str
    image: np.ndarray
    attacked: np.ndarray
    seen: np.ndarray
    seen_attacked: np.ndarray
    mask: np.ndarray
    mask_attacked: np.ndarray
    label: str
    label_attacked: str
    true_mask: np.ndarray
    true_label: str
    changed: float


@dataclass(frozen=True)
class Demo:
    """eps: as written. count: images of every figure; trained: of the heads. size: largest Linf perturbation, in [0, 1]."""

    encoder: str
    spec: str
    data: str
    eps: str
    steps: int
    seed: int
    count: int
    trained: int
    figures: tuple[Figure, ...]
    scene: Scene
    classes: tuple[str, ...]
    size: float
    seconds: float


def sentences(found: Demo) -> list[str]:
    """What the picture shows, what becomes of each task, and what was done."""
    scene, task = found.scene, {one.task: one for one in found.figures}
    return [
        f"Above, a synthetic scene, the first three principal components of what {plain(found.encoder)} sees in it, and its "
        f"segmentation; below, the same scene under attack: of {found.count} scenes, the one with the median change of the "
        f"segmentation ({100 * scene.changed:.0f}% of its pixels).",
        f"Classification: {_figure(task['classify'])} (95% intervals, {found.count} scenes); this one shows '{plain(scene.true_label)}'"
        f", and the answer is '{plain(scene.label)}' before and '{plain(scene.label_attacked)}' after.",
        f"Segmentation: {_figure(task['segment'])} (95% intervals, the same {found.count} scenes, the same attacked pixels).",
        f"The attack moved the encoder's features away from the clean ones in {found.steps} steps, with no pixel changed by more "
        f"than {found.eps}; it used no label and neither of the two linear heads (each trained on {found.trained} scenes), and "
        f"the whole took {found.seconds:.0f} s.",
    ]


def document(found: Demo) -> dict[str, Any]:
    return {
        "encoder": found.encoder, "data": found.data, "attack": "embed", "steps": found.steps, "norm": "linf", "eps": found.eps,
        "size": found.size, "seed": found.seed, "n": found.count, "training_images": found.trained, "seconds": found.seconds,
        "scene": found.scene.id,
        "figures": [
            {"task": one.task, "metric": one.label, "unit": one.unit,
             **{when: dict(zip(("value", "low", "high"), value, strict=True)) for when, value in (("before", one.before), ("after", one.after))}}
            for one in found.figures
        ],
    }  # fmt: skip


def terminal(found: Demo, width: int, colours: bool) -> Text:
    """Two rows of three pictures in half blocks, each at most `WIDE` columns wide; without colours in shades of grey."""
    side = max(8, min(WIDE, (width - 2 * GAP) // 3) // 2 * 2)
    rows = [[_resized(one, side) for one in row] for row in _rows(found.scene)]
    text = Text(no_wrap=True)
    for place, row in enumerate(rows):
        text.append("\n" if place else "")
        for top in range(0, side, 2):
            for column, image in enumerate(row):
                text.append(" " * GAP if column else "")
                for above, below in zip(image[top], image[top + 1], strict=True):
                    if colours:
                        text.append("▀", style=f"rgb({','.join(map(str, above))}) on rgb({','.join(map(str, below))})")
                    else:
                        grey = (int(above.sum()) + int(below.sum())) / 6 / 256
                        text.append(SHADES[int(grey * len(SHADES))])
            text.append("\n")
    return text


def write(found: Demo, folder: Path) -> Path:
    """Writes `index.html`, one file without scripts or requests; returns its path."""
    scene = found.scene
    drawn = [
        [photo(image, 90), _enlarged(seen), masked(mask)]
        for image, seen, mask in (
            (scene.image, scene.seen, scene.mask),
            (scene.attacked, scene.seen_attacked, scene.mask_attacked),
        )
    ]
    difference = (scene.attacked.astype(np.int16) - scene.image).astype(np.float64)
    largest = max(float(np.abs(difference).max()), 1.0)
    visible = np.clip(127.5 + difference * 127.5 / largest, 0, 255).round().astype(np.uint8)
    there = sorted(int(one) for one in np.unique(np.stack([scene.mask, scene.mask_attacked, scene.true_mask])))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    page = environment.get_template("demo.html.j2").render(
        found=found,
        sentences=sentences(found),
        rows=drawn,
        truth=masked(scene.true_mask),
        difference=photo(visible, 90),
        factor=f"{127.5 / largest:.0f}",
        legend=[(_hex(class_colour(one)), found.classes[one]) for one in there if one < len(found.classes)],
        figures=[
            (one, *(f"{shown(value[0], one.unit)}{one.unit and ' '}{one.unit}" for value in (one.before, one.after)),
             *(f"{shown(value[1], one.unit)} to {shown(value[2], one.unit)}" for value in (one.before, one.after)))
            for one in found.figures
        ],
    )  # fmt: skip
    path = folder / "index.html"
    write_bytes(path, page.encode())
    return path


def _figure(one: Figure) -> str:
    before, after = (
        f"{shown(value, one.unit)}{one.unit} [{shown(low, one.unit)}, {shown(high, one.unit)}]"
        for value, low, high in (one.before, one.after)
    )
    return f"{one.label} {before} before and {after} after"


def _rows(scene: Scene) -> tuple[tuple[np.ndarray, ...], ...]:
    palette = class_palette()
    return (
        (scene.image, scene.seen, palette[scene.mask]),
        (scene.attacked, scene.seen_attacked, palette[scene.mask_attacked]),
    )


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    whole = Image.fromarray(np.ascontiguousarray(image), "RGB")
    kind = Image.Resampling.BOX if max(whole.size) > side else Image.Resampling.NEAREST
    return np.asarray(whole.resize((side, side), kind))


def _enlarged(image: np.ndarray) -> Picture:
    """Features have few cells; each is drawn as a square."""
    times = max(1, 128 // max(image.shape[:2]))
    return photo(image.repeat(times, 0).repeat(times, 1), 90)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
