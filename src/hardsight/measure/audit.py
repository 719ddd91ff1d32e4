"""The evaluation linter: is this robustness number to be trusted? Every registered check, on a few images, with its reason."""

from __future__ import annotations

import time
from typing import Any

from hardsight.attacks.attack import Attack
from hardsight.measure.checks.base import Case
from hardsight.specs.catalog import build, entries

FIRST = ("repeats",)
"""Checks whose failure makes the others' answers worthless."""


READINGS, RUNS = 170, 6
"""What all checks take of an image at most: readings of their own, and runs of the whole attack."""


def readings(attack: Attack) -> int:
    """How many forward passes an image is in at most, while its number under that attack is audited."""
    return READINGS + RUNS * attack.passes


def audit(case: Case) -> dict[str, Any]:
    """What each check finds: {"images", "seconds", "verdict", "checks": [{"name", "title", "verdict", "reason"}, ...]}.

    The verdict is the worst of all. Raises nothing of its own: a check that a system can't be asked answers "none".
    """
    started, found = time.monotonic(), []
    names = [name for name, entry in entries().items() if entry.kind == "Check"]
    for name in sorted(names, key=lambda one: (one not in FIRST, names.index(one))):
        verdict, reason = build(name, "Check")(case)
        found.append({"name": name, "title": entries()[name].title, "verdict": verdict, "reason": reason})
    verdicts = [one["verdict"] for one in found]
    worst = next((verdict for verdict in ("fail", "warn", "pass") if verdict in verdicts), "none")
    return {"images": len(case.x), "seconds": round(time.monotonic() - started, 2), "verdict": worst, "checks": found}
