"""The charts of a geometry report: alignment and uniformity, spectra, cosines, margins, and the effect of EmbedAttack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from hardsight.metrics import geometry
from hardsight.metrics.embeddings import FIGURES, EncoderGeometry, Number
from hardsight.report.figures import COLOURS, marker, tag
from hardsight.report.plot import Chart, Plane, colour, drawing, legend, texts_of, ticks_over

POINTS = 120
"""Maximal number of images in a map; more would overlap too much."""
BINS = 36
CLASSES = 2 * COLOURS
"""Maximal number of classes that a map distinguishes, by colour and shape."""
COMPARED = (
    "alignment", "uniformity", "rank", "ratio", "false_negatives", "accuracy", "margin_typical", "moved", "cosine", "cka",
    "accuracy_embed", "accuracy_task",
)  # fmt: skip
TRAINED = ("alignment", "uniformity", "rank", "ratio", "margin_typical", "moved", "lipschitz", "cka")


def sphere(results: Sequence[EncoderGeometry]) -> Chart:
    """Alignment over uniformity, with both intervals; the lower left corner is best."""
    aligned = [one.numbers["alignment"] for one in results]
    uniform = [one.numbers["uniformity"] for one in results]
    x, y = _ticks(uniform), _ticks(aligned)
    plane = Plane((x[0], x[-1]), (y[0], y[-1]), top=24)
    parts = [plane.axes("uniformity ↓", "alignment ↓", x, y)]
    for place, (across, up) in enumerate(zip(uniform, aligned, strict=True)):
        parts += [
            plane.whisker((across.low, up.value), (across.high, up.value)),
            plane.whisker((across.value, up.low), (across.value, up.high)),
            marker(place, *plane.at(across.value, up.value), size=5.0),
        ]
    key, more = _names(results, plane)
    return Chart(
        "Alignment and uniformity", drawing("alignment over uniformity", plane.width, plane.height + more, *parts, key),
        "Lower left is better: views of one image close together, different images far apart.",
    )  # fmt: skip


def spectra(results: Sequence[EncoderGeometry]) -> Chart:
    """Singular values of the centred embeddings, relative to the largest, on a logarithmic scale."""
    found = [geometry.spectrum(one.embeddings.clean) for one in results]
    lines = [np.log10(np.where(v > 0, v / v.max(initial=1e-30), np.nan)) for v in found]
    least = min((float(np.nanmin(line)) for line in lines if np.isfinite(line).any()), default=-1.0)
    y = list(range(max(-6, math.floor(least)), 1))
    x = ticks_over(0, max(len(line) for line in lines))
    plane = Plane((x[0], x[-1]), (y[0], y[-1] or 1), top=24)
    parts = [plane.axes("direction, from the strongest", "singular value", x, y, y_texts=[f"{10.0**tick:g}" for tick in y])]
    for place, line in enumerate(lines):
        points = [(k + 1.0, value) for k, value in enumerate(line.tolist()) if value >= y[0]]
        parts.append(plane.path(points, class_=f"line {colour(place)}"))
        parts += [marker(place, *plane.at(*point)) for point in points[:: max(1, len(points) // 5)]]
    key, more = _names(results, plane)
    return Chart(
        "Spectrum", drawing("singular values", plane.width, plane.height + more, *parts, key),
        "Singular values of the centred embeddings, relative to the largest. If the line drops early, the encoder uses few "
        "directions.",
    )  # fmt: skip


def compared(results: Sequence[EncoderGeometry]) -> Chart:
    """One strip per figure: each encoder's marker and interval, on that figure's own scale."""
    width, name, apart = 760.0, 230.0, 9.0
    row = 30.0 + apart * (len(results) - 1)
    parts, y = [], 8.0
    for key in COMPARED:
        figure, numbers = FIGURES[key], [one.numbers[key] for one in results]
        ticks = ticks_over(0, 1) if figure.share else _ticks(numbers)
        plane = Plane((ticks[0], ticks[-1]), (-len(numbers), 1), width, row, name, 24, 0, 16)
        label = (
            figure.label if figure.label != "accuracy" else f"accuracy {'' if key == 'accuracy' else figure.group}".strip()
        )
        top, bottom = plane.at(0, 1)[1], plane.at(0, -len(numbers))[1]
        inner = [tag("text", f"{label} {figure.arrow}".strip(), x=name - 26, y=(top + bottom) / 2 + 4, text_anchor="end")]
        for tick, text in zip(ticks, texts_of(ticks), strict=True):
            x = plane.at(tick, 0)[0]
            inner.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="rule"))
            inner.append(tag("text", text, x=x, y=row - 4, text_anchor="middle", class_="quiet tiny"))
        for place, number in enumerate(numbers):
            if not math.isfinite(number.value):
                continue
            tooltip = tag("title", f"{results[place].label}: {formatted(number.value)} [{span(number)}]")
            line = plane.path([(number.low, -place), (number.high, -place)], class_=f"line {colour(place)}")
            inner.append(tag("g", tooltip, line, marker(place, *plane.at(number.value, -place))))
        parts.append(tag("g", *inner, transform=f"translate(0 {y:.0f})"))
        y += row + 6
    key, more = legend([(one.label, "", place) for place, one in enumerate(results)], y, width)
    return Chart("Side by side", drawing("all figures side by side", width, y + more, *parts, key, wide=True))


def cosines(result: EncoderGeometry, place: int) -> Chart:
    """Histograms of the cosine similarity of two images of one class, and of two classes."""
    u = geometry.on_sphere(result.embeddings.clean)
    above = np.triu_indices(len(u), 1)
    same = np.equal.outer(result.embeddings.label, result.embeddings.label)[above]
    values = (u @ u.T)[above]
    least = min(0.0, math.floor(5 * float(values.min())) / 5)
    return _histograms(
        result, place, {"two classes": values[~same], "one class": values[same]}, (least, 1.0), "cosine of two images",
        "pairs of images, clean",
    )  # fmt: skip


def margins(result: EncoderGeometry, place: int, most: float) -> Chart:
    """Histograms of the relative margin, clean and under EmbedAttack; below 0 the probe is wrong. most: end of the scale."""
    typical = float(geometry.typical_distance(result.embeddings.clean)[0]) or 1.0
    rows = result.embeddings.rows
    sides = {"clean": rows["margin"] / typical, "attacked": rows["margin_attacked"] / typical}
    return _histograms(
        result, place, sides, (-most, most), "relative margin",
        f"left of 0 the probe is wrong; its accuracy: {share(result, 'accuracy')} clean, "
        f"{share(result, 'accuracy_embed')} attacked",
        zero=True,
    )  # fmt: skip


def widest_margin(results: Sequence[EncoderGeometry]) -> float:
    """A common scale for all `margins`: the 99th percentile of their absolute values."""
    found = [
        np.abs(one.embeddings.rows[name] / (float(geometry.typical_distance(one.embeddings.clean)[0]) or 1.0))
        for one in results
        for name in ("margin", "margin_attacked")
    ]
    finite = np.concatenate(found)
    finite = finite[np.isfinite(finite)]
    return ticks_over(0, float(np.quantile(finite, 0.99)))[-1] if len(finite) else 1.0


def pca_map(result: EncoderGeometry) -> Chart:
    """The first two principal components of the clean embeddings, and how the attack moves each image in their plane."""
    clean, attacked = (np.asarray(z, np.float64) for z in (result.embeddings.clean, result.embeddings.attacked))
    mean = clean.mean(0)
    _, strength, axes = np.linalg.svd(clean - mean, full_matrices=False)
    seen = float((strength[:2] ** 2).sum() / max((strength**2).sum(), 1e-30))
    moved = attacked - clean
    held = float(((moved @ axes[:2].T) ** 2).sum() / max((moved**2).sum(), 1e-30))
    before, after = ((z - mean) @ axes[:2].T for z in (clean[:POINTS], attacked[:POINTS]))
    both = np.concatenate([before, after])
    side = max(float(np.ptp(both[:, 0])), float(np.ptp(both[:, 1])), 1e-12) * 0.53
    centre = (both.max(0) + both.min(0)) / 2
    x, y = ((float(c - side), float(c + side)) for c in centre)
    plane = Plane(x, y, 340, 340, 6, 6, 6, 6)
    classes = sorted(set(result.embeddings.label.tolist()))
    names, many = result.facts.get("classes", []), len(classes) > CLASSES
    lines, dots, ends = Markup(), Markup(), Markup()
    for start, end, label in zip(before.tolist(), after.tolist(), result.embeddings.label.tolist(), strict=False):
        place = 0 if many else classes.index(label)
        (x1, y1), (x2, y2) = plane.at(*start), plane.at(*end)
        lines += tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"path {colour(place)}")
        dots += _dot(x1, y1, place, f"mark {colour(place)}")
        ends += _dot(x2, y2, place, f"ghost {colour(place)}")
    frame = tag("rect", x=6.0, y=6.0, width=328.0, height=328.0, class_="frame")
    key, more = Markup(), 0.0
    if not many:
        entries = [(names[label] if label < len(names) else str(label), place) for place, label in enumerate(classes)]
        key, more = _class_legend(entries, 340.0, 340.0)
    title = result.label
    return Chart(
        title, drawing(f"{title}: first two principal components", 340, 340 + more, frame, lines, dots, ends, key),
        f"{min(POINTS, len(clean))} images. The plane contains {seen:.0%} of the variance and {held:.0%} of the squared "
        "movement under the attack.",
    )  # fmt: skip


def epochs(results: Sequence[EncoderGeometry]) -> list[Chart]:
    """Over the epochs of training runs: per run the probe's accuracy clean and attacked, then one chart per figure."""
    found = []
    series = list(dict.fromkeys(one.series for one in results if one.epoch is not None))
    for place, name in enumerate(series):
        line = sorted((one for one in results if one.series == name), key=lambda one: one.epoch or 0)
        found.append(_trained(line, ("accuracy", "accuracy_embed", "accuracy_task"), name, "accuracy of a linear probe",
                              ("clean", "EmbedAttack", "PGD"), range(place, place + 3)))  # fmt: skip
    for key in TRAINED:
        figure = FIGURES[key]
        lines = [sorted((p for p in results if p.series == name), key=lambda p: p.epoch or 0) for name in series]
        found.append(_overlaid(lines, key, f"{figure.label} {figure.arrow}".strip(), series))
    return found


def _trained(
    line: Sequence[EncoderGeometry], keys: Sequence[str], title: str, note: str, names: Sequence[str], places: Sequence[int]
) -> Chart:
    """Several figures of one run, all between 0 and 1."""
    plane, parts = _over_epochs([line], ticks_over(0, 1))
    for place, key in zip(places, keys, strict=True):
        parts += _curve(plane, line, key, place)
    entries = [(name, "", place) for name, place in zip(names, places, strict=True)]
    key, more = legend(entries, plane.height, plane.width)
    return Chart(title, drawing(f"{title}: {note}", plane.width, plane.height + more, *parts, key), note)


def _overlaid(lines: Sequence[Sequence[EncoderGeometry]], key: str, title: str, series: Sequence[str]) -> Chart:
    """One figure of several runs."""
    plane, parts = _over_epochs(lines, _ticks([one.numbers[key] for line in lines for one in line]))
    for place, line in enumerate(lines):
        parts += _curve(plane, line, key, place)
    names, more = legend([(name, "", place) for place, name in enumerate(series)], plane.height, plane.width)
    more, names = (more, names) if len(series) > 1 else (0.0, Markup())
    return Chart(title, drawing(title, plane.width, plane.height + more, *parts, names), FIGURES[key].meaning)


def _over_epochs(lines: Sequence[Sequence[EncoderGeometry]], y: list[float]) -> tuple[Plane, list[Markup]]:
    last = max((one.epoch or 0 for line in lines for one in line), default=1)
    x = [tick for tick in ticks_over(0, max(last, 1)) if tick == round(tick)]
    plane = Plane((0, max(last, x[-1])), (y[0], y[-1]), height=240.0)
    return plane, [plane.axes("epochs", "", x, y, [f"{tick:.0f}" for tick in x])]


def _curve(plane: Plane, line: Sequence[EncoderGeometry], key: str, place: int) -> list[Markup]:
    points = [(float(one.epoch or 0), one.numbers[key]) for one in line if math.isfinite(one.numbers[key].value)]
    band = [(x, n.high) for x, n in points] + [(x, n.low) for x, n in points[::-1]]
    tooltip = tag("title", ", ".join(f"{formatted(n.value)} [{span(n)}] at {x:g}" for x, n in points))
    curve = plane.path([(x, n.value) for x, n in points], class_=f"line {colour(place)}")
    marks = [marker(place, *plane.at(x, n.value), size=3.5) for x, n in points]
    return [plane.path(band, class_=f"band {colour(place)}"), tag("g", tooltip, curve, *marks)]


def _histograms(
    result: EncoderGeometry, place: int, values: dict[str, np.ndarray], over: tuple[float, float], x_name: str, note: str,
    zero: bool = False,
) -> Chart:  # fmt: skip
    """Two histograms on the same axes, one filled, one as an outline; values beyond the scale are in the end bins."""
    edges = np.linspace(*over, BINS + 1)
    heights = {}
    for name, part in values.items():
        counts, _ = np.histogram(np.clip(part[np.isfinite(part)], *over), edges)
        heights[name] = counts / max(1, counts.sum())
    top = max((float(h.max()) for h in heights.values()), default=1.0) or 1.0
    plane = Plane(over, (0.0, top * 1.05), height=190.0, left=18, right=18)
    ticks = [t for t in ticks_over(*over) if over[0] - 1e-9 <= t <= over[1] + 1e-9]
    parts = [plane.axes(x_name, "", ticks, [0.0], y_texts=[""])]
    for (_, height), css in zip(heights.items(), ("pale", "deep"), strict=True):
        parts.append(plane.steps(edges, height, f"{css} {colour(place)}"))
    if zero:
        parts.append(plane.path([(0.0, 0.0), (0.0, top * 1.05)], class_="zero"))
    entries = [(name, f"{css} {colour(place)}", None) for name, css in zip(heights, ("pale", "deep"), strict=True)]
    key, more = legend(entries, plane.height, plane.width)
    title = result.label
    return Chart(title, drawing(f"{title}: {x_name}", plane.width, plane.height + more, *parts, key), note)


def _ticks(numbers: Sequence[Number]) -> list[float]:
    ends = [v for n in numbers for v in (n.low, n.high, n.value) if math.isfinite(v)]
    return ticks_over(min(ends, default=0.0), max(ends, default=1.0))


def _names(results: Sequence[EncoderGeometry], plane: Plane) -> tuple[Markup, float]:
    return legend([(one.label, "", place) for place, one in enumerate(results)], plane.height, plane.width)


def _dot(x: float, y: float, place: int, css: str) -> Markup:
    """A circle for the first eight classes, a square for the next eight."""
    if place < COLOURS:
        return tag("circle", cx=x, cy=y, r=3.0, class_=css)
    return tag("rect", x=x - 2.7, y=y - 2.7, width=5.4, height=5.4, class_=css)


def _class_legend(entries: Sequence[tuple[str, int]], top: float, width: float) -> tuple[Markup, float]:
    out, x, y = Markup(), 6.0, top + 14
    for text, place in entries:
        text = text if len(text) <= 20 else text[:19] + "…"
        wide = 16 + 6.4 * len(text) + 8
        if x > 6 and x + wide > width:
            x, y = 6.0, y + 17
        out += _dot(x + 4, y - 4, place, f"mark {colour(place)}") + tag("text", text, x=x + 12, y=y)
        x += wide
    return out, y - top + 8


def formatted(value: float) -> str:
    """A number with about three significant digits."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"  # fmt: skip


def span(number: Number) -> str:
    """The interval as text, with "to" instead of a dash if a bound is negative."""
    between = " to " if min(number.low, number.high) < 0 else "–"
    return f"{formatted(number.low)}{between}{formatted(number.high)}"


def share(result: EncoderGeometry, key: str) -> str:
    return f"{result.numbers[key].value:.0%}"
