"""The audit of a robustness evaluation: can the number be trusted? Runs every registered check on a few images."""

from __future__ import annotations

import time
from typing import Any

from hardsight.attacks.attack import Attack
from hardsight.measure.checks.base import Case
from hardsight.specs.catalog import build, entries

FIRST = ("repeats",)
"""Checks that run first: if one of them fails, the results of the others mean little."""


PASSES, RUNS = 170, 6
"""Upper bounds per image over all checks: their own forward passes, and runs of the whole attack."""


def audit_passes(attack: Attack) -> int:
    """The maximal number of forward passes per image in an audit of that attack."""
    return PASSES + RUNS * attack.passes


def audit(case: Case) -> dict[str, Any]:
    """Runs all checks: {"images", "unlabelled", "seconds", "verdict", "checks": [{"name", "title", "verdict", "reason"}, ...]}.

    images: the number of those that the checks use; unlabelled: of those left out because nothing of them is labelled. The
    overall verdict is the worst of all. A check that does not apply to a system returns "none" and raises nothing.
    """
    started, found = time.monotonic(), []
    names = [name for name, entry in entries().items() if entry.kind == "Check"]
    for name in sorted(names, key=lambda one: (one not in FIRST, names.index(one))):
        verdict, reason = build(name, "Check")(case) if len(case.x) else ("none", "no image of the audit has a label")
        found.append({"name": name, "title": entries()[name].title, "verdict": verdict, "reason": reason})
    verdicts = [one["verdict"] for one in found]
    worst = next((verdict for verdict in ("fail", "warn", "pass") if verdict in verdicts), "none")
    return {
        "images": len(case.x),
        "unlabelled": case.unlabelled,
        "seconds": round(time.monotonic() - started, 2),
        "verdict": worst,
        "checks": found,
    }
