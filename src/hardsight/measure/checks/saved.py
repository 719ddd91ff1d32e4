"""Check of the adversarial images: do they stay within eps, and keep their effect, when they are rounded to 8 bits?"""

from __future__ import annotations

from hardsight.core.errors import DataError
from hardsight.measure.checks.base import Case, Check, Finding
from hardsight.measure.saving import LEVELS, to_bytes
from hardsight.specs.catalog import register


@register
def rounded() -> Check:
    """Saved image: rounded to 8 bits within eps, it causes about the same task error as before."""

    def check(case: Case) -> Finding:
        try:
            saved = to_bytes(case.found.x_adv, case.x, case.threat).to(case.x.dtype) / LEVELS
        except DataError as error:
            return Finding("none", str(error))
        size = float(case.threat.size(saved - case.x).max())
        if size > case.threat.eps * (1 + 1e-4) + 1e-6:
            return Finding("fail", f"the perturbation of a saved image has size {size:.5f}, eps is {case.threat.eps:.5f}")
        before, after = float(case.found.error.mean()), float(case.error(saved).mean())
        reason = f"mean error {before:.2f} before rounding, {after:.2f} after it, sizes within eps"
        if before - after > max(2 * case.slack, 0.1):
            return Finding("warn", f"{reason}: much of the effect is lost when the image is saved")
        return Finding("pass", reason)

    return check
