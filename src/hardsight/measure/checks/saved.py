"""A question to the images: do they keep within eps, and keep their effect, when they are rounded to 8 bits?"""

from __future__ import annotations

from hardsight.core.errors import DataError
from hardsight.measure.checks.base import Case, Check, Finding
from hardsight.measure.saving import LEVELS, to_bytes
from hardsight.specs.catalog import register


@register
def rounded() -> Check:
    """Saved image: rounded to 8 bits within eps, it does about as much harm as before."""

    def check(case: Case) -> Finding:
        try:
            saved = to_bytes(case.found.x_adv, case.x, case.threat).to(case.x.dtype) / LEVELS
        except DataError as error:
            return Finding("none", str(error))
        size = float(case.threat.size(saved - case.x).max())
        if size > case.threat.eps * (1 + 1e-4) + 1e-6:
            return Finding("fail", f"a saved image lies {size:.5f} from the clean one, and eps is {case.threat.eps:.5f}")
        before, after = float(case.found.error.mean()), float(case.error(saved).mean())
        told = f"mean error {before:.2f} before rounding, {after:.2f} after it, sizes within eps"
        if before - after > max(2 * case.slack, 0.1):
            return Finding("warn", f"{told}: much of the harm is lost on the way to a file")
        return Finding("pass", told)

    return check
