"""What a treatment of negatives is: it reads all pairs of views at once, and says what each view is pushed from and pulled to.

NT-Xent of a view is log(pull of its partner + push of its negatives) - mean logit of what it is pulled to. A detector names
suspects among the negatives, and leaves them out or pulls them in; a correction knows none, and changes the push as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hardsight.training.criteria.gather import gather, own

Mode = Literal["eliminate", "attract"]
NOTHING = -1e30
"""The logarithm of no push: its own gradient is zero, where that of the true one, -inf, is not a number."""


class Pairs(NamedTuple):
    """R = 2 B rows, two views of each of B images, beside the N columns, the rows of all processes (N = R in one process).

    logits [R, N]: cosines over the temperature, with a graph. partner [R]: the logit of the other view of the row's image.
    cosine [R, N]: without a graph. other [R, N]: views of other images. same [R, N]: views of other images of the row's class,
    the false negatives; None without labels. columns [N, D]: unit embeddings, without a graph. places [B], [N]: of the rows'
    images, and of the columns'. support [M, B, D]: unit embeddings of M further views of the rows' images, or None.
    """

    logits: Tensor
    partner: Tensor
    temperature: float
    cosine: Tensor
    other: Tensor
    same: Tensor | None
    columns: Tensor
    places: tuple[Tensor, Tensor]
    support: Tensor | None


class Treated(NamedTuple):
    """push [R]: the logarithm of all that pushes a row away. suspects [R, N]: what is held for false negatives, None of a
    treatment that does not look for them. attract: whether suspects are pulled to, as the partner is.
    """

    push: Tensor
    suspects: Tensor | None = None
    attract: bool = False


Treatment = Callable[[Pairs], Treated]
"""A function, or an `nn.Module` with a memory: that has `notice(pairs)` [..., B] besides, what it picks out of a step of each
image, and `keep(places, noticed)`, which stores it after the step.
"""


@dataclass(frozen=True)
class Negatives:
    """begin: a new treatment for a training split of so many images. support: further views that it wants; told: labels too."""

    begin: Callable[[int], Treatment]
    support: int = 0
    told: bool = False


def pair_up(
    one: Tensor, two: Tensor, temperature: float, label: Tensor | None, places: Tensor, support: Tensor | None = None
) -> Pairs:
    """The pairs of two views' unit embeddings, each [B, D]; gathered over the processes."""
    z = torch.cat([one, two])
    columns, rows = gather(z), own(z)
    cosine = z @ columns.T
    cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
    logits = cosine / temperature
    image = own(one).repeat(2)
    other = image[:, None] != gather(image)
    same = None if label is None else other & (label.repeat(2)[:, None] == gather(label.repeat(2)))
    places = places.to(z.device)
    return Pairs(
        logits=logits,
        partner=logits.gather(1, rows.roll(len(one))[:, None])[:, 0],
        temperature=temperature,
        cosine=cosine.detach(),
        other=other,
        same=same,
        columns=columns.detach(),
        places=(places, gather(places.repeat(2))),
        support=support,
    )


def loss_of(pairs: Pairs, treated: Treated) -> Tensor:
    """NT-Xent under that treatment, [B]: the mean over the two views of each image."""
    pulled = pairs.partner
    if treated.attract and treated.suspects is not None:
        pulled = (pulled + pairs.logits.masked_fill(~treated.suspects, 0).sum(1)) / (1 + treated.suspects.sum(1))
    return (torch.logaddexp(pairs.partner, treated.push) - pulled).view(2, -1).mean(0)


def pushed(logits: Tensor, among: Tensor) -> Tensor:
    """[R], the logarithm of the sum of exp(logits) over those pairs; `NOTHING` where there is none."""
    return logits.masked_fill(~among, NOTHING).logsumexp(1).clamp_min(NOTHING)


def without(pairs: Pairs, suspects: Tensor, mode: Mode = "eliminate", refill: bool = False) -> Treated:
    """Suspects pushed from no longer, or (attract) pulled to as the partner is.

    refill: the push of those that are left counts for as many as there were.
    """
    if mode == "attract":
        return Treated(pushed(pairs.logits, pairs.other), suspects, True)
    left = pairs.other & ~suspects
    push = pushed(pairs.logits, left)
    if refill:
        push = push + pairs.other.sum(1).to(push).log() - left.sum(1).clamp_min(1).to(push).log()
    return Treated(push, suspects)


def tally(pairs: Pairs, treated: Treated) -> Tensor | None:
    """Counts of pairs: negatives, false negatives; of a detector also suspects, and false negatives among them.

    None without labels.
    """
    if pairs.same is None:
        return None
    sums = [pairs.other.sum(), pairs.same.sum()]
    if treated.suspects is not None:
        sums += [treated.suspects.sum(), (treated.suspects & pairs.same).sum()]
    return torch.stack(sums)


def shares(counts: Tensor) -> dict[str, float]:
    """What a `tally` says; where a share is of nothing, it is absent.

    false_negative_rate: of the negatives, before any treatment. A detector's precision and recall; false_negatives_left: their
    share of the negatives that it leaves in.
    """
    negatives, false, *detected = counts.tolist()
    parts = {"false_negative_rate": (false, negatives)}
    if detected:
        suspects, found = detected
        parts["detector_precision"] = (found, suspects)
        parts["detector_recall"] = (found, false)
        parts["false_negatives_left"] = (false - found, negatives - suspects)
    return {name: part / whole for name, (part, whole) in parts.items() if whole}
