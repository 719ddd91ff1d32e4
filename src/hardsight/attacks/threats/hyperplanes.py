"""The smallest step from an image to a hyperplane within the pixel range, in each norm, for searches on decision boundaries.

To reach the hyperplane {z: w.z = b} from x, every value moves in the direction that helps, by m of at most its room in [0,
1], so that sum(|w| m) = |b - w.x|. The norms differ in what they minimize of m: its maximum (Linf: all values move equally
far), its length (L2: in proportion to |w|), its sum (L1: the values of largest |w| move all the way, one after the other).

If the pixel range ends before the hyperplane, the step goes to the corner of the range that is closest to it. Source: Croce
and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020, section 2.2. differs:
theirs sorts all values and looks the break point up; here Linf and L2 need no sort, and L1 only the top values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def step_linf(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] -> a step shaped like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_evenly(need, rate, room) * way).view_as(x)


def step_l2(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] -> a step shaped like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_evenly(need, rate, room, rate) * way).view_as(x)


def step_l1(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x, w [B, ...] and b [B] -> a step shaped like x."""
    need, rate, room, way = _parts(x, w, b)
    return (_largest_first(need, rate, room) * way).view_as(x)


def _parts(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """need [B]: the gain needed; [B, N] each: a value's gain per unit, how far it can move, and its direction (0: none)."""
    here, w = x.flatten(1), w.flatten(1)
    need = b - (w * here).sum(1)
    way = w.sign() * need.sign()[:, None]
    return need.abs(), w.abs(), (_as_numbers(torch.gt, way, 0) - here).abs(), way


def _as_numbers(compare: Callable[..., Tensor], one: Tensor, other: Tensor | float, out: Tensor | None = None) -> Tensor:
    """1 where it holds, else 0, in the images' dtype: on a CPU 5 times faster than a mask, also in later operations."""
    return compare(one, other, out=torch.empty_like(one) if out is None else out)


def _evenly(need: Tensor, rate: Tensor, room: Tensor, pace: Tensor | None = None) -> Tensor:
    """[B, N]: min(s * pace, room) with the smallest s at which rate . (it) is `need`; room if `need` is out of reach.

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
        more = torch.maximum(spent, _as_numbers(torch.le, room, moved, out=free), out=free)
        used = more.sum(1)
        if torch.equal(used, count):
            return torch.minimum(moved, room)
        spent, free, count = more, spent, used
        left = need - torch.mul(whole, spent, out=free).sum(1)
        s = left / torch.addcmul(gain, gain, spent, value=-1, out=free).sum(1).clamp_min(least)


def _largest_first(need: Tensor, rate: Tensor, room: Tensor, first: int = 128) -> Tensor:
    """[B, N]: values move all the way in order of decreasing rate until rate . (it) is `need`; the last moves by the rest.

    first: number of values tried at first: few are enough if the hyperplane is close, and a full sort is slow.
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
