"""The columns of a table and the numbers in them: one column an attack and eps, one number a cell."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

CLEAN, EMBED, TASK, MEAN, WORST = "clean", "embed", "task", "mean", "worst"
TITLES = {CLEAN: "clean", EMBED: "EmbedAttack", TASK: "task attack", MEAN: "mean corruption", WORST: "worst case"}
RANKS = {CLEAN: 0, EMBED: 1, TASK: 2, MEAN: 4, WORST: 4}
NATURAL = "natural"
"""Used instead of a norm for common corruptions, which are not adversarial."""


@dataclass(frozen=True)
class Column:
    """attack: "clean", "embed", "task", "mean", "worst", or another attack's name; variant: its spec if a row has two."""

    attack: str
    variant: str = ""
    norm: str = ""
    eps: float = 0.0
    eps_text: str = field(default="0", compare=False)

    @property
    def title(self) -> str:
        return TITLES.get(self.attack, self.attack) + (f" {self.variant}" if self.variant else "")

    @property
    def series(self) -> tuple[str, str, str]:
        """The key of a curve over eps: attack, variant and norm."""
        return self.attack, self.variant, self.norm

    def key(self) -> tuple:
        """The sort key of columns."""
        adversary = self.norm != NATURAL
        return (
            self.attack != CLEAN,
            adversary,
            self.norm,
            self.eps,
            RANKS.get(self.attack, 3),
            natural(self.attack),
            self.variant,
        )


@dataclass(frozen=True)
class Number:
    """One metric of one cell, or of the worst case or the mean over several. metrics: every metric's (value, low, high)."""

    value: float
    low: float
    high: float
    n: int
    asked: int
    partial: bool
    cell: str
    over: tuple[str, ...] = ()
    metrics: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def natural(text: str) -> tuple:
    """A sort key that puts "vit2" before "vit10"; texts that differ only in case are sorted by the text itself."""
    parts = re.split(r"(\d+)", text.casefold())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts), text


def plain(text: object) -> str:
    """A name without control characters, which could control a terminal and are not allowed in SVG."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
