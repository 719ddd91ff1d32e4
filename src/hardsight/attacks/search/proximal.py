"""Proximal operators of norms within the pixel range, in a metric of one positive weight per value; all of them exact.

Each returns the delta' that minimizes weight |delta'| + 1/2 sum of metric (delta' - delta)^2 with x + delta' in [0, 1]:
delta, metric and x [B, ...], weight [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

from hardsight.attacks.threats.base import per_image

TURNS, NEAR = 60, 1e-7
"""Maximum number of iterations for the radius of a ball, and its absolute tolerance, in pixel ranges; about eight are usual."""


def prox_l1(delta: Tensor, weight: Tensor, metric: Tensor | float, x: Tensor) -> Tensor:
    """Each value shrinks by weight / metric, then is clipped: the values do not depend on one another."""
    shrunk = delta.abs() - per_image(weight, delta) / metric
    return shrunk.clamp_min_(0).copysign_(delta).clamp_(-x, 1 - x)


def prox_l2(delta: Tensor, weight: Tensor, metric: Tensor, x: Tensor) -> Tensor:
    """Each value times metric / (metric + weight / n), clipped, where n is the norm of the result.

    n / (norm at n) is 1 there, rises with n, and is linear in n for a uniform metric away from the edge of the pixel range:
    secant steps between two bounds find it.
    """
    strong, low = metric * delta, torch.zeros_like(weight)

    def at(norm: Tensor) -> Tensor:
        size = per_image(norm, delta)
        return (strong * size / (metric * size + per_image(weight, delta))).clamp_(-x, 1 - x)

    most = (strong / per_image(weight.clamp_min(1e-30), delta)).flatten(1).norm(dim=1)  # of the result over n, for n -> 0
    high = delta.flatten(1).norm(dim=1)
    below, above = 1 / most.clamp_min(1e-30), torch.full_like(weight, torch.inf)
    norm, none = high, most <= 1
    for _ in range(TURNS):
        size = at(norm).flatten(1).norm(dim=1)
        ratio = norm / size.clamp_min(1e-30)
        under = ratio < 1
        low, below = torch.where(under, norm, low), torch.where(under, ratio, below)
        high, above = torch.where(under, high, norm), torch.where(under, above, ratio)
        done = none | ((size - norm).abs() <= 1e-5 * high) | (high - low <= NEAR)
        if bool(done.all()):
            break
        secant = low + (high - low) * (1 - below) / (above - below)
        inside = (secant > low) & (secant < high)
        norm = torch.where(inside, secant, (low + high) / 2)
    return torch.where(per_image(none, delta), 0.0, at(norm))


def prox_linf(delta: Tensor, weight: Tensor, metric: Tensor, x: Tensor) -> Tensor:
    """Clipped to the pixel range, then to [-s, s], where what is cut off, weighted by the metric, adds up to `weight`.

    The sum falls in s and is piecewise linear but for jumps where the pixel range has already cut: Newton steps between two
    bounds. Source: Rony et al., CVPR 2023, section 4.2. differs: they search for s in thirds.
    """
    clipped = delta.clamp(-x, 1 - x)
    reach, far, dense = clipped.abs().flatten(1), delta.abs().flatten(1), metric.flatten(1)
    low, high = torch.zeros_like(weight), reach.amax(1)
    radius = low
    for _ in range(TURNS):
        cut = (reach > radius[:, None]).to(dense.dtype) * dense
        total = cut.sum(1)
        over = (cut * far).sum(1) - radius * total - weight
        low, high = torch.where(over > 0, radius, low), torch.where(over > 0, high, radius)
        if bool((high - low <= NEAR).all()):
            break
        newton = radius + over / total.clamp_min(1e-30)
        inside = (newton > low + NEAR / 2) & (newton < high)
        radius = torch.where(inside, newton, (low + high) / 2)
    most = per_image((low + high) / 2, delta)
    return clipped.clamp(-most, most)
