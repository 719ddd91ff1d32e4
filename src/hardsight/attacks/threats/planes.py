"""The least step from an image to a plane within the pixel box, in each norm: what walks along decision boundaries need.

To reach the plane {z: w.z = b} from x, every value goes the way that helps, by m of at most its room in the box [0, 1], so
that sum(|w| m) = |b - w.x|. What is least of m tells the norms apart: its maximum (Linf: all values go equally far), its
length (L2: in proportion to |w|), its sum (L1: the values of greatest |w| go all the way, one after the other).

Where the box ends before the plane, the step goes to the box's corner that lies nearest to it.
Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020, section
2.2. differs: theirs sorts all values and looks the break point up; here Linf and L2 need no sort, and L1 only the top.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def step_linf(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] to a step like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_evenly(need, rate, room) * way).view_as(x)


def step_l2(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] to a step like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_evenly(need, rate, room, rate) * way).view_as(x)


def step_l1(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] to a step like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_in_turn(need, rate, room) * way).view_as(x)


def _parts(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """need [B]: what is to be gained; [B, N] each: a value's gain per unit, how far it can go, and which way (0: it can't help)."""
    here, w = x.flatten(1), w.flatten(1)
    need = b - (w * here).sum(1)
    way = w.sign() * need.sign()[:, None]
    return need.abs(), w.abs(), (_indeed(torch.gt, way, 0) - here).abs(), way


def _indeed(compare: Callable[..., Tensor], one: Tensor, other: Tensor | float, out: Tensor | None = None) -> Tensor:
    """1 where it holds, else 0, in the images' own type: on a CPU five times faster than a mask, and so is what follows."""
    return compare(one, other, out=torch.empty_like(one) if out is None else out)


def _evenly(need: Tensor, rate: Tensor, room: Tensor, pace: Tensor | None = None) -> Tensor:
    """[B, N]: min(s * pace, room) with the least s at which rate . (it) is `need`; room where that is more than there is.

    The gain is concave in s, so Newton's steps from 0 never overshoot: each finds more values that have used up their room,
    and the first that finds no more is exact.
    """
    whole, gain = rate * room, rate if pace is None else rate * pace
    corner = whole.sum(1) <= need
    most, least = torch.finfo(rate.dtype).max, torch.finfo(rate.dtype).tiny
    spent, count = torch.zeros_like(rate), torch.zeros_like(need)
    s, free = need / gain.sum(1).clamp_min(least), torch.empty_like(rate)
    while True:
        s = torch.where(corner, most, s.clamp_max(most))
        moved = s[:, None] if pace is None else s[:, None] * pace
        more = torch.maximum(spent, _indeed(torch.le, room, moved, out=free), out=free)
        told = more.sum(1)
        if torch.equal(told, count):
            return torch.minimum(moved, room)
        spent, free, count = more, spent, told
        left = need - torch.mul(whole, spent, out=free).sum(1)
        s = left / torch.addcmul(gain, gain, spent, value=-1, out=free).sum(1).clamp_min(least)


def _in_turn(need: Tensor, rate: Tensor, room: Tensor, first: int = 128) -> Tensor:
    """[B, N]: values go all their way in order of falling rate until rate . (it) is `need`; the last goes what is left.

    first: how many values are looked at before more are: few are enough where the plane is near, and a full sort is slow.
    """
    corner, count = (rate * room).sum(1) <= need, rate.shape[1]
    while True:
        rates, order = rate.topk(min(first, count), dim=1)
        rooms = room.gather(1, order)
        gains = (rates * rooms).cumsum(1)
        if first >= count or bool(((gains[:, -1] >= need) | corner).all()):
            break
        first *= 8
    left = need[:, None] - torch.nn.functional.pad(gains, (1, -1))
    moved = torch.minimum((left / rates.clamp_min(torch.finfo(rate.dtype).tiny)).clamp_min(0), rooms)
    return torch.where(corner[:, None], room, torch.zeros_like(rate).scatter(1, order, moved))
