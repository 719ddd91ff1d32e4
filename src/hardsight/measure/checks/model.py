"""Questions to the model alone: does it answer twice the same, for each image by itself, and with logits?"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.attack import searches
from hardsight.core import tree
from hardsight.measure.checks.base import Case, Check, Finding, differ
from hardsight.specs.catalog import register


@register
def repeats(most: float = 1e-4) -> Check:
    """Same twice: the model gives one image the same output each time; if it draws random numbers, an attack without `eot` fails here."""

    def check(case: Case) -> Finding:
        gap = differ(case.output(case.x), case.output(case.x))
        if gap <= most:
            return Finding("pass", "two readings of the same images agree")
        walks = [search for search, _ in searches(case.attack, case.system.task.target) if search.gradients]
        draws = min((getattr(search, "draws", 1) for search in walks), default=1)
        if draws > 1:
            return Finding(
                "warn",
                f"the model is random: two readings differ by {gap:.1%}; the attack follows the mean of {draws}, a verdict is of one",
            )
        return Finding(
            "fail",
            f"two readings of the same images differ by {gap:.1%}: the model is random; attack its mean, as in attack(eot(pgd(), draws=10))",
        )

    return check


@register
def alone(most: float = 1e-3) -> Check:
    """Image by itself: an image's output doesn't depend on the others of its batch, or on their order."""

    def check(case: Case) -> Finding:
        count = len(case.x)
        if count < 2:
            return Finding("none", "one image alone cannot tell")
        whole = case.output(case.x)
        back = torch.arange(count - 1, -1, -1, device=case.x.device)
        gaps = [differ(whole, tree.take(case.output(case.x[back]), back))]
        for place in range(min(count, 3)):
            one = torch.tensor([place], device=case.x.device)
            gaps.append(differ(tree.take(whole, one), case.output(case.x[one])))
        if max(gaps) <= most:
            return Finding("pass", "outputs are the same in other batches and orders")
        return Finding(
            "fail",
            f"an image's output changes by {max(gaps):.1%} with the other images of its batch: is batch norm in training mode?",
        )

    return check


@register
def logits() -> Check:
    """Logits: the output isn't a softmax already; a second softmax in the loss flattens its gradients."""

    def check(case: Case) -> Finding:
        output = case.output(case.x)
        if not isinstance(output, Tensor) or case.system.task.target not in ("label", "mask"):
            return Finding("none", "this task's output has no classes")
        sums = output.float().sum(1)
        if float(output.min()) >= -1e-6 and float((sums - 1).abs().max()) < 1e-3:
            return Finding(
                "fail", "the outputs are probabilities (they add up to 1); give the attack logits, from before the softmax"
            )
        return Finding("pass", "the outputs are not probabilities")

    return check
