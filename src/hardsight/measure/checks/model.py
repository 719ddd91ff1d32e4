"""Checks of the model: is it deterministic, is each image processed independently, and are the outputs logits?"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.attack import searches
from hardsight.core import tree
from hardsight.measure.checks.base import Case, Check, Finding, differ
from hardsight.specs.catalog import register


@register
def repeats(most: float = 1e-4) -> Check:
    """Same twice: the model gives the same output for the same image; a random model fails unless the attack uses `eot`."""

    def check(case: Case) -> Finding:
        gap = differ(case.output(case.x), case.output(case.x))
        if gap <= most:
            return Finding("pass", "two forward passes of the same images agree")
        with_gradient = [search for search, _ in searches(case.attack, case.system.task.target) if search.gradients]
        draws = min((getattr(search, "draws", 1) for search in with_gradient), default=1)
        draws = max(draws, getattr(case.system.encoder, "draws", 1))
        if draws > 1:
            return Finding(
                "warn",
                f"the model is random: two forward passes differ by {gap:.1%}; the attack follows the mean of {draws} "
                "draws, the evaluation uses one",
            )
        return Finding(
            "fail",
            f"two forward passes of the same images differ by {gap:.1%}: the model is random; attack its mean, as in "
            "attack(eot(pgd(), draws=10))",
        )

    return check


@register
def alone(most: float = 1e-3) -> Check:
    """Image by itself: an image's output doesn't depend on the other images of its batch, or on their order."""

    def check(case: Case) -> Finding:
        count = len(case.x)
        if count < 2:
            return Finding("none", "needs at least two images")
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
            f"an image's output changes by {max(gaps):.1%} with the other images of its batch: is batch norm in train mode?",
        )

    return check


@register
def logits() -> Check:
    """Logits: the output isn't a softmax already; a second softmax in the loss shrinks its gradients."""

    def check(case: Case) -> Finding:
        output = case.output(case.x)
        if not isinstance(output, Tensor) or case.system.task.target not in ("label", "mask"):
            return Finding("none", "this task's output is not class logits")
        sums = output.float().sum(1)
        if float(output.min()) >= -1e-6 and float((sums - 1).abs().max()) < 1e-3:
            return Finding(
                "fail", "the outputs are probabilities (they sum to 1); give the attack the logits, before the softmax"
            )
        return Finding("pass", "the outputs are not probabilities")

    return check
