"""A treatment of negatives: it gets all pairs of views at once, and decides what each view is pushed from and pulled to.

NT-Xent of a view is log(pull of its partner + push of its negatives) - mean logit of what it is pulled to. A detector marks
suspects among the negatives, and removes them or pulls them in; a correction marks none, and changes the push as a whole.
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
"""The logarithm of no push: its gradient is zero, whereas the gradient at the exact value, -inf, is NaN."""


class Pairs(NamedTuple):
    """R = 2 B rows, two views of each of B images, against N columns, the rows of all processes (N = R in one process).

    logits [R, N]: cosines over the temperature, with a graph. partner [R]: the logit of the other view of the row's image.
    cosine [R, N]: without a graph. other [R, N]: mask of views of other images. same [R, N]: mask of views of other images
    of the row's class, the false negatives; None without labels. columns [N, D]: unit embeddings, without a graph. places
    [B], [N]: indices of the rows' images, and of the columns'. support [M, B, D]: unit embeddings of M further views of the
    rows' images, or None.
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
    """push [R]: the logarithm of all that pushes a row away. suspects [R, N]: mask of suspected false negatives, None for a
    treatment that does not detect them. attract: whether suspects are pulled in, as the partner is.
    """

    push: Tensor
    suspects: Tensor | None = None
    attract: bool = False


Treatment = Callable[[Pairs], Treated]
"""A function, or an `nn.Module` with a memory: it also has `notice(pairs)` [..., B], the values of a step to remember for each
image, and `keep(places, noticed)`, which stores them after the step.
"""


@dataclass(frozen=True)
class Negatives:
    """begin: a new treatment for a training split of this many images, embedded in this many dimensions. support: number of
    further views it uses. needs_labels: whether it uses labels.
    """

    begin: Callable[[int, int], Treatment]
    support: int = 0
    needs_labels: bool = False


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
    """NT-Xent with this treatment, [B]: the mean over the two views of each image."""
    pulled = pairs.partner
    if treated.attract and treated.suspects is not None:
        pulled = (pulled + pairs.logits.masked_fill(~treated.suspects, 0).sum(1)) / (1 + treated.suspects.sum(1))
    return (torch.logaddexp(pairs.partner, treated.push) - pulled).view(2, -1).mean(0)


def pushed(logits: Tensor, among: Tensor) -> Tensor:
    """[R], the logarithm of the sum of exp(logits) over the pairs in `among`; `NOTHING` where there are none."""
    return logits.masked_fill(~among, NOTHING).logsumexp(1).clamp_min(NOTHING)


def without(pairs: Pairs, suspects: Tensor, mode: Mode = "eliminate", refill: bool = False) -> Treated:
    """Suspects are no longer pushed from, or (attract) are pulled in as the partner is.

    refill: the push of the remaining negatives is scaled up to the original number.
    """
    if mode == "attract":
        return Treated(pushed(pairs.logits, pairs.other), suspects, True)
    left = pairs.other & ~suspects
    push = pushed(pairs.logits, left)
    if refill:
        push = push + pairs.other.sum(1).to(push).log() - left.sum(1).clamp_min(1).to(push).log()
    return Treated(push, suspects)


def tally(pairs: Pairs, treated: Treated) -> Tensor | None:
    """Counts of pairs: negatives, false negatives; for a detector also suspects, and false negatives among them.

    None without labels.
    """
    if pairs.same is None:
        return None
    sums = [pairs.other.sum(), pairs.same.sum()]
    if treated.suspects is not None:
        sums += [treated.suspects.sum(), (treated.suspects & pairs.same).sum()]
    return torch.stack(sums)


def shares(counts: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The rates that a `tally` gives, each as a part and its whole; a rate with denominator 0 counts nowhere.

    false_negative_rate: share of the negatives, before any treatment. A detector's precision and recall;
    false_negatives_left: their share of the negatives that it keeps.
    """
    negatives, false, *detected = counts.unbind()
    parts = {"false_negative_rate": (false, negatives)}
    if detected:
        suspects, found = detected
        parts["detector_precision"] = (found, suspects)
        parts["detector_recall"] = (found, false)
        parts["false_negatives_left"] = (false - found, negatives - suspects)
    return parts
