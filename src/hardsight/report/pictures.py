"""The gallery: clean and attacked images, with the predictions for both.

For each image of a task: the image and its ground truth, then one line per encoder with the prediction for the clean image
and, for every attack at the main eps, the attacked image, the difference (grey + difference x factor) and the prediction.
All are data URIs: images as WEBP, masks as PNG with a palette.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from hardsight.report.colours import IGNORE, VOID, class_colour, class_palette, depth_colours, gradient
from hardsight.report.figures import COLOURS, palette
from hardsight.report.results import CLEAN, WORST, Column, Record, Table, plain
from hardsight.report.table import heading

LARGEST = 256
"""Images are downscaled until the longer side has at most this many pixels."""
LEGEND = 24
"""Maximal number of classes in a legend."""


@dataclass(frozen=True)
class Picture:
    """An image or, if `uri` is empty, a text. mark: "right", "wrong" or "", for a predicted class."""

    uri: str = ""
    text: str = ""
    mark: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Line:
    """One encoder's predictions: `parts` by column, each (attacked image, difference, prediction), None if not run."""

    place: int
    title: str
    colour: int
    colour_key: int
    before: Picture | None
    parts: tuple[tuple[Picture, Picture, Picture] | None, ...]


@dataclass(frozen=True)
class Scene:
    id: str
    image: Picture
    target: Picture
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Gallery:
    """One task's images. legend: (colour, name) of the classes that occur; far: metres at the end of the depth scale."""

    task: str
    data: str
    heads: tuple[tuple[str, str], ...]
    scenes: tuple[Scene, ...]
    legend: tuple[tuple[str, str], ...] = ()
    far: float = 0.0
    gradient: str = ""
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Painter:
    """Draws targets and predictions of one task. `seen` collects the class ids that were drawn."""

    kind: str
    classes: list[str]
    far: float
    seen: set[int] = field(default_factory=set)

    def paint(self, value: np.ndarray, truth: np.ndarray | None = None, image: np.ndarray | None = None) -> Picture:
        if self.kind == "detect" and image is not None:
            self.seen.update(int(one) for one in np.unique(value[:, 4]) if one >= 0)
            return _boxed(image, value)
        if self.kind == "classify":
            mark = "" if truth is None else "right" if int(value) == int(truth) else "wrong"
            return Picture(text=_class(int(value), self.classes), mark=mark)
        if self.kind == "segment":
            self.seen.update(int(one) for one in np.unique(value))
            return masked(value.astype(np.uint8))
        return photo(depth_colours(value, self.far), quality=88)


def galleries(table: Table) -> list[Gallery]:
    """One gallery per task and data set, of the shown columns; those without stored images are left out."""
    found = []
    for task, data, places in table.groups():
        records = [record for record in table.records if record.row in places and record.column in table.shown]
        shown = {(record.row, record.column): (record, loaded) for record in records if (loaded := record.cell.gallery())}
        if shown:
            found.append(_gallery(table, task, data, places, shown))
    return found


def _preprocess(record: Record) -> str:
    """How the record's images were prepared; of one id, there is a picture each."""
    return str(record.cell.what.get("preprocess") or "")


def _gallery(table: Table, task: str, data: str, places: list[int], shown: dict) -> Gallery:
    columns = [c for c in table.shown if c.attack not in (CLEAN, WORST) and any((place, c) in shown for place in places)]
    first: Record = next(iter(shown.values()))[0]
    card, kind = first.cell.what.get("data_card") or {}, first.cell.what["task_name"]
    painter = _Painter(
        kind,
        [plain(name) for name in card.get("mask_classes" if kind == "segment" else "classes") or ()],
        _far(card, [loaded for _, loaded in shown.values()]) if kind == "depth" else 0.0,
    )
    images: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for record, loaded in shown.values():
        for at, name in enumerate(loaded["id"]):
            key = str(name), _preprocess(record)
            images.setdefault(key, {"image": loaded["image"][at], "target": loaded["target"][at]})
    colours, scenes = palette(table), []
    for (name, preprocess), clean in images.items():
        lines = []
        for place in places:
            if any(_preprocess(record) != preprocess for (row, _), (record, _) in shown.items() if row == place):
                continue
            parts = tuple(_part(shown.get((place, column)), name, painter, column) for column in columns)
            before = next(
                (_answer(shown[place, c], name, painter) for c in table.shown if c.attack == CLEAN and (place, c) in shown),
                None,
            )
            if before or any(parts):
                title = table.rows[place].title
                lines.append(Line(place, title, colours[title] % COLOURS, colours[title], before, parts))
        truth = painter.paint(clean["target"], image=clean["image"])
        title = f"{name} ({preprocess})" if len({one for _, one in images}) > 1 else name
        scenes.append(Scene(plain(title), photo(clean["image"]), truth, tuple(lines)))
    known = sorted(painter.seen - {IGNORE})
    legend = [(_hex(class_colour(one)), _class(one, painter.classes)) for one in known[:LEGEND]]
    legend += [("", f"and {len(known) - LEGEND} more")] if len(known) > LEGEND else []
    legend += [(_hex(VOID), "ignored")] if IGNORE in painter.seen else []
    heads = tuple((_title(table, column, places), _factor_text(column)) for column in columns)
    return Gallery(
        task, data, heads, tuple(scenes), tuple(legend), painter.far, gradient() if painter.far else "", tuple(places)
    )


def _title(table: Table, column: Column, places: list[int]) -> str:
    names = dict.fromkeys(table.rows[place].names[column] for place in places if column in table.rows[place].names)
    title = heading(table, column)
    return " / ".join(names) if column.attack == "task" else title


def _part(entry: tuple | None, name: str, painter: _Painter, column: Column) -> tuple[Picture, Picture, Picture] | None:
    if entry is None or (at := _at(entry[1], name)) is None:
        return None
    loaded = entry[1]
    delta = loaded["delta"][at].astype(np.float64)
    grey = np.clip(0.5 + delta * factor(column, delta), 0, 1)
    return (
        photo(loaded["x_adv"][at]),
        photo(np.round(255 * grey).astype(np.uint8), quality=55),
        painter.paint(loaded["answer"][at], loaded["target"][at], loaded["x_adv"][at]),
    )


def _answer(entry: tuple, name: str, painter: _Painter) -> Picture | None:
    at = _at(entry[1], name)
    if at is None:
        return None
    return painter.paint(entry[1]["answer"][at], entry[1]["target"][at], entry[1]["image"][at])


def _at(loaded: dict[str, np.ndarray], name: str) -> int | None:
    places = np.flatnonzero(loaded["id"].astype(str) == name)
    return int(places[0]) if len(places) else None


def factor(column: Column, delta: np.ndarray) -> float:
    """The factor of a difference: 1 / (2 eps) for Linf, so that +-eps is white and black; else from its largest value."""
    largest = column.eps if column.norm.casefold() == "linf" and column.eps > 0 else float(np.abs(delta).max(initial=0))
    return 1 / (2 * largest) if largest > 0 else 1.0


def _factor_text(column: Column) -> str:
    if column.norm.casefold() == "linf" and column.eps > 0:
        return f"grey + {factor(column, np.zeros(1)):.3g} × difference: ±{column.eps_text} is white and black"
    return "grey + difference, each scaled by its own largest change"


def _far(card: dict, galleries: list[dict[str, np.ndarray]]) -> float:
    """Metres at the bright end of the scale: the data's limit, or the largest true depth if that is much smaller."""
    largest = max(float(np.nan_to_num(loaded["target"]).max(initial=0)) for loaded in galleries)
    limit = float(card.get("max_depth") or 0)
    return largest if largest > 0 and (limit <= 0 or largest < 0.6 * limit) else limit or 1.0


def _class(place: int, classes: list[str]) -> str:
    return classes[place] if 0 <= place < len(classes) else f"class {place}"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def photo(pixels: np.ndarray, quality: int = 78) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return _uri(image, "WEBP", quality=quality, method=4)


def _boxed(image: np.ndarray, boxes: np.ndarray) -> Picture:
    """The image in grey with its boxes [N, 6] drawn in class colours: x1 y1 x2 y2, class (-1: none), score."""
    shrunk = Image.fromarray(np.ascontiguousarray(image), "RGB").convert("L").convert("RGB")
    side = max(shrunk.size)
    scale = LARGEST / side if side > LARGEST else LARGEST // side
    shrunk = shrunk.resize((round(shrunk.width * scale), round(shrunk.height * scale)), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(shrunk)
    for *corners, label, _ in boxes[boxes[:, 4] >= 0][::-1]:  # highest score last, on top
        x1, y1, x2, y2 = (float(corner) * scale for corner in corners)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=class_colour(int(label)), width=2)
    return _uri(shrunk, "WEBP", quality=88, method=4)


def masked(mask: np.ndarray) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(mask), "P")
    image.putpalette(class_palette().tobytes())
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.NEAREST)
    present, places = np.unique(np.asarray(image), return_inverse=True)
    small = Image.fromarray(places.reshape(image.size[::-1]).astype(np.uint8), "P")
    small.putpalette(class_palette()[present].tobytes())
    return _uri(small, "PNG", optimize=True)


def _uri(image: Image.Image, form: str, **options: object) -> Picture:
    out = io.BytesIO()
    image.save(out, form, **options)
    content = base64.b64encode(out.getvalue()).decode("ascii")
    return Picture(f"data:image/{form.lower()};base64,{content}", width=image.width, height=image.height)
