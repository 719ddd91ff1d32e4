"""What a study's figures say: comparisons, doses, rank correlations, and which of a paper's findings come out.

Every number here is computed from one value an arm and seed, paired by seed, and every verdict from its number's interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardsight.core.errors import SpecError, nearest
from hardsight.metrics.over_runs import Estimate, mean, ratio, slope, spearman
from hardsight.report.table import shown
from hardsight.specs.study import SIGNS, Comparison, Correlation, Dose, Finding, Study

TRAINING = "training"
"""The figure of the CPU seconds that training took."""
Figures = dict[str, dict[str, Any]]
"""By what is measured ("PGD 4/255 on classify, CIFAR-10"): its unit, and for each arm one number per seed."""
OUT, OPPOSITE, OPEN, MISSING = "comes out", "the opposite comes out", "not settled", "not measured"


@dataclass(frozen=True)
class Reading:
    """A finding, the number that decides it (in `unit`, None where it is not measured), and the verdict."""

    says: str
    source: str
    what: str
    number: Estimate | None
    unit: str
    verdict: str

    @property
    def text(self) -> str:
        """The number with its interval and its unit; the difference of two percentages is in points."""
        if self.number is None:
            return "–"
        unit = {"%": "points", "ratio": ""}.get(self.unit, self.unit)
        return f"{interval(self.number, self.unit, '+')} {unit}".rstrip()


def resolve(name: str, figures: Figures) -> str:
    """The figure of that name, or the only one that begins with it, preferably not a derived one; otherwise `SpecError`."""
    if name in figures:
        return name
    found = [key for key in figures if key.startswith(name)]
    plain = [key for key in found if not figures[key].get("derived")]
    if len(found) == 1 or len(plain) == 1:
        return (plain or found)[0]
    if found:
        raise SpecError(f"'{name}' is the beginning of several figures: {', '.join(found[:4])}; write more of its name")
    raise SpecError(f"there is no figure '{name}'{nearest(name, figures) or '; such as ' + ', '.join(list(figures)[:6])}")


def compared(one: Comparison, figure: dict[str, Any]) -> Estimate | None:
    """The difference, or the share of a gap that is closed; None where an arm of it has other seeds or none."""
    columns = _columns(figure, [one.of, one.to, *([one.gap] if one.gap else [])])
    if columns is None:
        return None
    if not one.gap:
        return mean((columns[0] - columns[1]).tolist())
    return ratio((columns[0] - columns[1]).tolist(), (columns[2] - columns[1]).tolist())


def dosed(one: Dose, figures: Figures) -> dict[str, Any] | None:
    """A dose's figure, its values [seeds, arms], their mean at each dose, the slope and the rank correlation with the dose."""
    name = resolve(one.figure, figures)
    columns = _columns(figures[name], one.arms)
    if columns is None:
        return None
    values = np.stack(columns, 1)
    flat = [(at, value, arm) for row in values for at, value, arm in zip(one.at, row, one.arms, strict=True)]
    return {
        "figure": name,
        "at": list(one.at),
        "arms": list(one.arms),
        "values": values,
        "means": [mean(column.tolist()) for column in values.T],
        "slope": slope(one.at, values),
        "spearman": spearman(*zip(*flat, strict=True)),  # type: ignore[arg-type]
    }


def correlated(one: Correlation, figures: Figures) -> dict[str, Any]:
    """Two figures of the runs that have both: (x, y, arm) of each, and their rank correlation."""
    x, y = (resolve(name, figures) for name in (one.x, one.y))
    points = [
        (a, b, arm)
        for arm, values in figures[x]["arms"].items()
        for a, b in zip(values, figures[y]["arms"].get(arm, []), strict=False)
        if math.isfinite(a) and math.isfinite(b)
    ]
    if len(points) < 3:
        raise SpecError(f"'{x}' and '{y}' have {len(points)} runs in common; a rank correlation needs at least 3")
    return {"x": x, "y": y, "points": points, "spearman": spearman(*zip(*points, strict=True))}  # type: ignore[arg-type]


def readings(study: Study, figures: Figures) -> list[Reading]:
    """Each finding with its verdict."""
    found = []
    for one in study.finding:
        try:
            what, number, unit = _number(study, one, figures)
        except SpecError as error:
            what, number, unit = str(error), None, ""
        found.append(Reading(one.says, one.source, what, number, unit, _verdict(number, SIGNS[one.expect])))
    return found


def _number(study: Study, one: Finding, figures: Figures) -> tuple[str, Estimate | None, str]:
    """(what is compared, the number, its unit)."""
    if one.correlate:
        pair = correlated(Correlation(*one.correlate), figures)
        return f"rank correlation of {pair['x']} and {pair['y']}", pair["spearman"], "ratio"
    if one.dose:
        dose = dosed(next(each for each in study.dose if each.figure == one.dose), figures)
        name = resolve(one.dose, figures)
        return f"slope of {name} per unit", None if dose is None else dose["slope"], figures[name]["unit"]
    name = resolve(one.figure, figures)
    apart = _apart(one, figures[name])
    what = f"{name}: {_joined(one.of)} − {_joined(one.to)}"
    if one.less:
        other = resolve(one.less, figures)
        beside, what = _apart(one, figures[other]), f"{what}, less the same in {other}"
        apart = None if apart is None or beside is None or len(apart) != len(beside) else apart - beside
    return what, None if apart is None else mean(apart.tolist()), figures[name]["unit"]


def _apart(one: Finding, figure: dict[str, Any]) -> np.ndarray | None:
    """[seeds]: mean of the arms `of` minus that of the arms `to`."""
    columns = _columns(figure, [*one.of, *one.to])
    return None if columns is None else np.mean(columns[: len(one.of)], 0) - np.mean(columns[len(one.of) :], 0)


def _verdict(number: Estimate | None, sign: int) -> str:
    if number is None or not math.isfinite(number.value):
        return MISSING
    if not (number.low > 0 or number.high < 0):  # also where there is no interval, of one seed
        return OPEN
    return OUT if sign * number.value > 0 else OPPOSITE


def _columns(figure: dict[str, Any], arms: Sequence[str]) -> list[np.ndarray] | None:
    """[seeds] of each arm; None if one is missing, or has another number of seeds, or a number that is not finite."""
    columns = [np.asarray(figure["arms"].get(arm, []), float) for arm in arms]
    same = len({len(one) for one in columns}) == 1 and len(columns[0])
    return columns if same and all(np.isfinite(one).all() for one in columns) else None


def _joined(arms: Sequence[str]) -> str:
    return arms[0] if len(arms) == 1 else f"mean of {', '.join(arms)}"


def interval(number: Estimate, unit: str, sign: str = "") -> str:
    """A value with half its interval where that is symmetric, else with its bounds; without the unit."""
    if math.isinf(number.low):
        return "undefined: the gap does not differ from 0"
    text = (sign if number.value > 0 else "") + written(number.value, unit)
    if math.isnan(number.low) or not math.isfinite(number.value):
        return text
    half = number.high - number.value
    if abs(half - (number.value - number.low)) <= 1e-9 * max(1.0, abs(half)):
        return f"{text} ± {written(half, unit)}"
    return f"{text} [{written(number.low, unit)} to {written(number.high, unit)}]"


def written(value: float, unit: str) -> str:
    """A number in a unit as text; ratios and correlations have the unit "" and two digits; -0.0 is written 0.0."""
    text = f"{value:.0f}" if unit == "s" else f"{value:.2f}" if unit == "ratio" else shown(value, unit)
    return text if text.strip("-0.") else text.removeprefix("-")


def heading(name: str, figure: dict[str, Any]) -> str:
    """A figure's name with its unit and the direction that is better."""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(figure["better"], "")
    return f"{name} ({figure['unit']}){arrow}" if figure["unit"] else f"{name}{arrow}"


def means(figure: dict[str, Any], arm: str) -> str:
    """An arm's mean over seeds, as text."""
    values = figure["arms"].get(arm, [])
    if not values or not all(math.isfinite(one) for one in values):
        return "–"
    return interval(mean(values), figure["unit"])


def said(one: Comparison) -> str:
    return f"{one.of} closes of the gap from {one.to} to {one.gap}" if one.gap else f"{one.of} − {one.to}"


def took(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def seeds_done(study: Study, figures: Figures) -> str:
    """How many seeds the figures have, as text: "3 seeds", or "1 of 3 seeds" of a study that is not finished."""
    done = max((len(values) for figure in figures.values() for values in figure["arms"].values()), default=0)
    return f"{study.seeds} seeds" if done >= study.seeds else f"{done} of {study.seeds} seeds"
