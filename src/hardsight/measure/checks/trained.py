"""Check of the head: is it trained? A head that isn't can look robust, or fragile, for no reason of the encoder's."""

from __future__ import annotations

from typing import Any

from hardsight.measure.checks.base import Case, Check, Finding
from hardsight.probes.runs import Fitted
from hardsight.specs.catalog import register

POINT, SHARE, LEAST = 0.01, 0.1, 0.02
"""More training matters if it raises the held-out score by more than this, or lowers the held-out loss by more
than this share and by more than so much."""


@register
def trained(apart: float = 0.25) -> Check:
    """Trained head: it has converged, more training doesn't help on held-out images, and it isn't far worse on them.

    Over-fitted: the score of trained images is above that of held-out ones by more than `apart` beyond the intervals, and no
    larger decay has been found to be worse; or the optimum has a smaller held-out loss at a larger loss in training.
    """

    def check(case: Case) -> Finding:
        return judged(case.system.fitted, apart)

    return check


def judged(fitted: Fitted | None, apart: float = 0.25) -> Finding:
    """The finding on how a head was trained, from what is stored with it."""
    if fitted is None:
        return Finding("none", "no head was trained on its own here, or how is not known")
    if "train" not in fitted:
        return Finding("none", f"{fitted['images']} training images are too few to hold some of them out")
    score, train, steps = fitted["score"], fitted["train"], fitted["steps"]
    reason = f"score {score[1]:.2f} on {fitted['held_out']} held-out images, {train[1]:.2f} on trained ones, {steps} steps"
    if not fitted.get("converged", True):
        return Finding(
            "warn",
            f"{reason}: not converged, the gradient is {fitted['gradient']:.1g}; are the features finite and scaled?",
        )
    more = fitted.get("more")
    if more:
        rises = more["score"][0] > 0 and more["score"][1] > POINT
        falls = more["loss"][0] > 0 and more["loss"][1] > max(SHARE * abs(more["before"]), LEAST)
        if rises or falls:
            after = more["before"] - more["loss"][1]
            gained = f"{100 * more['score'][1]:+.1f} points, loss {more['before']:.2f} to {after:.2f}"
            if more.get("over"):
                return Finding("warn", f"{reason}: over-fitted, {_what(more)}: {gained}; use it, by probe alone")
            return Finding(
                "warn",
                f"{reason}: under-fitted, {_what(more)} on held-out images: {gained}; train longer, as in "
                f"probe({_longer(fitted)}), at another rate, as in probe(lr=...), or tuned: probe",
            )
    apart_by_seed = [one for one in fitted.get("seeds", ()) if one[0] > score[2] or one[2] < score[0]]
    if apart_by_seed:
        others = ", ".join(f"{one[1]:.2f}" for one in apart_by_seed)
        return Finding(
            "warn", f"{reason}: heads of other seeds have {others}, beyond the interval; use more training images"
        )
    if fitted["seen"]:
        return Finding("pass", f"{reason} (all were trained on, so that over-fitting would not show)")
    gap, tried = train[0] - score[2] > apart, [one["weight_decay"] for one in fitted["curve"] if "weight_decay" in one]
    if gap and ("over" in (more or {}) or fitted["choice"]["weight_decay"] < max(tried, default=0.0)):
        return Finding("pass", f"{reason}; a larger decay is no better on the held-out ones, more images might be")
    if gap:
        return Finding(
            "warn", f"{reason}: over-fitted; use more training images, or a larger decay: probe(weight_decay=...)"
        )
    return Finding("pass", reason)


def _what(more: dict[str, Any]) -> str:
    """What was tried further."""
    if "steps" in more:
        return f"{more['steps']} more steps gain"
    return f"the optimum with decay {more['weight_decay']:.2g} gains"


def _longer(fitted: dict[str, Any]) -> str:
    epochs = fitted["choice"].get("epochs")
    return f"epochs={4 * epochs}" if epochs else "epochs=40"
