"""A study: arms that are trained and measured in the same way with several seeds, and what is read from their figures; no torch.

It is a TOML file. `[measure]` is a recipe of `hardsight bench` without encoders, or each `[measures.NAME]` is one; each
`[arms.NAME]` is a training recipe by name with `set = [...]`, or an existing `encoder`. What is read from the figures:
`[[compare]]` differences between arms, `[[dose]]` a figure over the values that arms stand for, `[[correlate]]` two figures
over all runs, and `[[finding]]` a paper's statement, which the figures confirm or not. `study_file` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardsight.core.errors import SpecError
from hardsight.specs import recipe as recipes
from hardsight.specs.catalog import find
from hardsight.specs.syntax import Call, read, show

SIGNS = {"higher": 1, "lower": -1, "rising": 1, "falling": -1, "positive": 1, "negative": -1}
"""What a finding may expect, and the sign of the number that it is read from."""


@dataclass(frozen=True)
class Arm:
    """encoder: the spec of an existing encoder, for an arm without training. after: the arm whose encoder is the start.

    measure: assignments, as for `--set`, to the measuring recipes for this arm alone.
    """

    name: str
    recipe: str = ""
    set: tuple[str, ...] = ()
    encoder: str = ""
    after: str = ""
    measure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A measuring recipe; name: the prefix of its figures, "" for the only one; arms: the arms it measures, () for all.

    wrap: a call around each encoder, without it: crops(n=16) measures crops(ENCODER, n=16), with a run's seed as its own.
    """

    name: str
    recipe: recipes.Recipe
    arms: tuple[str, ...] = ()
    wrap: str = ""


@dataclass(frozen=True)
class Geometry:
    """Statistics of every arm's embeddings, as `hardsight geometry` computes them."""

    data: str
    threat: str = "linf(4/255)"
    count: int = 500
    views: str = "views"
    probe: str = "probe(images=2000)"
    k: int = 10


@dataclass(frozen=True)
class Comparison:
    """`of` minus `to`; with `gap`, (of - to) / (gap - to): the share of the gap from `to` to `gap` that is closed."""

    of: str
    to: str
    gap: str = ""


@dataclass(frozen=True)
class Dose:
    """A figure over `at`, the number that each of `arms` stands for, such as the share of false negatives taken out."""

    figure: str
    arms: tuple[str, ...]
    at: tuple[float, ...]


@dataclass(frozen=True)
class Correlation:
    """Two figures over all runs."""

    x: str
    y: str


@dataclass(frozen=True)
class Finding:
    """A statement with its source, and the number whose sign decides it.

    One of: the mean of the arms `of` minus that of the arms `to` in `figure`, of which with `less` that same difference in
    another figure is subtracted; the rank correlation of two figures (`correlate`); the slope of a `[[dose]]` (`dose`).
    figure: a name, or the beginning of a single one. expect: see `SIGNS`.
    """

    says: str
    source: str
    expect: str
    figure: str = ""
    of: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    less: str = ""
    correlate: tuple[str, ...] = ()
    dose: str = ""


@dataclass(frozen=True)
class Study:
    """paper: the one it is about, such as "paper 000". what, command: from the comment at the top of the file."""

    name: str
    title: str
    seeds: int
    measures: tuple[Measure, ...]
    arms: tuple[Arm, ...]
    compare: tuple[Comparison, ...] = ()
    dose: tuple[Dose, ...] = ()
    correlate: tuple[Correlation, ...] = ()
    finding: tuple[Finding, ...] = ()
    derive: tuple[str, ...] = ()
    geometry: Geometry | None = None
    paper: str = ""
    what: str = ""
    command: str = ""

    def arm(self, name: str) -> Arm:
        return next(one for one in self.arms if one.name == name)

    @property
    def figures(self) -> list[str]:
        """Every figure that it names, once."""
        named = [one.figure for one in self.dose] + [name for one in self.correlate for name in (one.x, one.y)]
        named += [name for one in self.finding for name in (one.figure, one.less, one.dose, *one.correlate) if name]
        return list(dict.fromkeys(named))

    def trained(self, arm: Arm) -> Arm:
        """The first arm with the same training: arms that differ only in what is measured share one encoder."""
        return next(one for one in self.arms if self._training(one) == self._training(arm))

    def _training(self, arm: Arm) -> tuple[object, ...]:
        return (arm.recipe, arm.set, arm.encoder, self._training(self.arm(arm.after)) if arm.after else ())

    def with_set(self, assignment: str) -> Study:
        """The study with one `measure.path=value` changed in every measuring recipe that has it: `measure.count=100`."""
        path, _, text = assignment.partition("=")
        first, _, rest = path.strip().partition(".")
        if first != "measure" or not rest:
            raise SpecError(f"a study's --set takes measure.PATH=VALUE, such as 'measure.count=100', not '{assignment}'")
        changed = tuple(replace(one, recipe=one.recipe.with_set(f"{rest}={text}")) for one in self.measures)
        return replace(self, measures=changed)


def folder_name(arm: str) -> str:
    """An arm's name as that of a folder."""
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in arm).strip("-")


def wrapped(wrap: str, encoder: str, seed: int) -> str:
    """The encoder within the call `wrap`; seed: given to a call that takes one, and where it is not written."""
    if not wrap:
        return encoder
    call = read(wrap)
    takes = [parameter.name for parameter in find(call.name, "Encoder").parameters]
    seeded = (("seed", seed),) if "seed" in takes and "seed" not in dict(call.arguments) else ()
    return show(Call(call.name, ((0, read(encoder)), *call.arguments, *seeded)))
