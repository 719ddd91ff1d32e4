"""Plot axes as inline SVG, for any data range, with a few types of marks; texts are escaped.

Colours are the page's CSS classes c0 .. c7, as everywhere in reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from hardsight.report.figures import COLOURS, LETTER, marker, nice, tag

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """title and note are plain text; svg is markup with escaped texts."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Plane:
    """A plot of `width` x `height` for values in x (low, high) and y (low, high), with margins for the axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 360.0
    height: float = 280.0
    left: float = 46.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 44.0

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        return (
            self.left + (self.width - self.left - self.right) * across,
            self.height - self.bottom - (self.height - self.top - self.bottom) * up,
        )

    def axes(
        self,
        x_name: str,
        y_name: str,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_texts: Sequence[str] | None = None,
        y_texts: Sequence[str] | None = None,
    ) -> Markup:
        """Horizontal grid lines, ticks and axis names; the name of the y axis is above it, for easier reading."""
        out = Markup()
        for tick, text in zip(y_ticks, y_texts or texts_of(y_ticks), strict=True):
            start, end = self.at(self.x[0], tick), self.at(self.x[1], tick)
            css = "axis" if tick == self.y[0] else "rule"
            out += tag("line", x1=start[0], x2=end[0], y1=start[1], y2=end[1], class_=css)
            out += tag("text", text, x=start[0] - 7, y=start[1] + 4, text_anchor="end")
        for tick, text in zip(x_ticks, x_texts or texts_of(x_ticks), strict=True):
            x, y = self.at(tick, self.y[0])
            out += tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis")
            out += tag("text", text, x=x, y=y + 17, text_anchor="middle")
        middle = self.at((self.x[0] + self.x[1]) / 2, self.y[0])[0]
        out += tag("text", x_name, x=middle, y=self.height - 8, text_anchor="middle", class_="quiet")
        if y_name:
            out += tag("text", y_name, x=4.0, y=11.0, class_="quiet")
        return out

    def path(self, points: Iterable[Point], **attributes: object) -> Markup:
        ends = [self.at(*point) for point in points if all(map(math.isfinite, point))]
        return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ends), **attributes) if ends else Markup()

    def steps(self, edges: np.ndarray, heights: np.ndarray, css: str) -> Markup:
        """A histogram as one path."""
        points = [(edges[0], self.y[0])]
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            points += [(left, height), (right, height)]
        return self.path([*points, (edges[-1], self.y[0])], class_=css)

    def whisker(self, low: Point, high: Point) -> Markup:
        return self.path([low, high], class_="whisker")


def texts_of(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, with as many digits as their spacing needs."""
    apart = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = max(0, math.ceil(-math.log10(apart) - 1e-9)) if apart > 0 else 0
    if abs(apart * 10**digits - round(apart * 10**digits)) > 1e-6:
        digits += 1
    return [f"{tick:,.{digits}f}" for tick in (0.0 if abs(t) < 1e-12 else t for t in ticks)]


def ticks_over(low: float, high: float, steps: int = 4) -> list[float]:
    """Round tick values that cover the range from low to high."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        middle = low if math.isfinite(low) else 0.0
        low, high = middle - 0.5, middle + 0.5
    step = nice(high - low, steps)[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, last + 1)]


def colour(place: int) -> str:
    return f"c{place % COLOURS}"


def legend(entries: Sequence[tuple[str, str, int | None]], top: float, width: float) -> tuple[Markup, float]:
    """(markup, its height). entries: (text, CSS classes of a colour sample, None) or (text, "", number of a marker)."""
    out, x, y = Markup(), 4.0, top + 14
    for text, css, place in entries:
        text = text if len(text) <= 44 else text[:43] + "…"
        wide = 24 + LETTER * len(text) + 10
        if x > 4 and x + wide > width:
            x, y = 4.0, y + 19
        if place is not None:
            out += marker(place, x + 7, y - 4)
        else:
            out += tag("rect", x=x + 1, y=y - 9, width=12.0, height=10.0, class_=css)
        out += tag("text", text, x=x + 19, y=y)
        x += wide
    return out, y - top + 8


def drawing(title: str, width: float, height: float, *parts: Markup, wide: bool = False) -> Markup:
    """The SVG element that contains the given parts."""
    return tag(
        "svg", tag("title", title), *parts, viewBox=f"0 0 {width:.0f} {height:.0f}", role="img",
        class_="chart wide" if wide else "chart", xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip
