"""Linear classification to the optimum: L-BFGS on all features, along a path of weight decays, chosen on a held-out part.

The loss is the mean cross-entropy plus decay / 2 times the squared norm of the weights, not of the biases, on standardised
features: scikit-learn's logistic regression with C = 1 / (decay N). It is convex, so nothing depends on a learning rate, an order
of batches or an initialization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

DECAYS = tuple(10.0 ** (-place / 2) for place in range(9))
"""The path, from 1 to 1e-4; each solution starts at the one before."""
PATIENCE, GAIN = 2, 0.01
"""The path ends after so many decays, one after the other, that don't reduce the smallest held-out loss by this share."""
ROUGH, EXACT, DRAWN, ITERATIONS = 1e-3, 2e-5, 3e-3, 300
"""Largest component of the gradient at the end, along the path, of the last fit, and of both on drawn samples, whose own
randomness is larger; and the maximal number of iterations."""
DOUBLE = 2**27
"""Up to this many values, the last fit takes features as float64; above it, float32 saves memory. The path is in float32."""


@dataclass(frozen=True)
class Solution:
    """weight [K, D] and bias [K]; gradient: the largest absolute component of the objective's gradient there."""

    weight: Tensor
    bias: Tensor
    iterations: int
    gradient: float
    converged: bool


@dataclass(frozen=True)
class Samples:
    """Features in their principal axes, where the curvature of the loss is nearly diagonal: z [N, D] = x @ axes, y [N]."""

    z: Tensor
    y: Tensor
    axes: Tensor
    spread: Tensor

    @staticmethod
    def of(x: Tensor, y: Tensor, axes: Tensor | None = None) -> Samples:
        """axes: those of nearly the same features, where they are at hand."""
        axes = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors if axes is None else axes
        z = x @ axes
        return Samples(z, y, axes, z.square().mean(0))

    def solve(self, decay: float, start: Solution, most: float) -> Solution:
        """The minimum, searched from `start` until no component of the gradient is above `most`."""
        # in these coordinates the Hessian is close to the identity: that of softmax is at most 1/2 of the spread
        scale = (self.spread / 4 + decay).rsqrt()
        at = torch.cat([start.weight @ self.axes / scale, start.bias[:, None]], 1).requires_grad_(True)
        gradient, limit = float("inf"), most * min(1.0, float(scale.min()))
        search = torch.optim.LBFGS(
            [at], max_iter=ITERATIONS, max_eval=2 * ITERATIONS, tolerance_grad=limit, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def read() -> Tensor:
            weight, bias = at.detach()[:, :-1] * scale, at.detach()[:, -1]
            logits = torch.addmm(bias[:, None], weight, self.z.T)  # [K, N]: sums over classes are then over rows
            logits -= logits.amax(0)
            right = logits.gather(0, self.y[None])
            off = logits.exp_()
            total = off.sum(0, keepdim=True)
            loss = (total.log() - right).mean() + decay / 2 * weight.square().sum()
            off /= total * len(self.y)
            off.scatter_add_(0, self.y[None], torch.full_like(right, -1 / len(self.y)))
            slope, level = torch.addmm(weight, off, self.z, beta=decay), off.sum(1)
            at.grad = torch.cat([slope * scale, level[:, None]], 1)
            nonlocal gradient
            gradient = float(torch.maximum(slope.abs().max(), level.abs().max()))
            return loss

        search.step(read)
        read()
        weight = (at.detach()[:, :-1] * scale) @ self.axes.T
        return Solution(weight, at.detach()[:, -1].clone(), search.state[at]["n_iter"], gradient, gradient <= most)


class Path(NamedTuple):
    """last: the solution on all samples; part: that without the held-out ones, whose loss on these is the smallest; all points."""

    last: Solution
    part: Solution
    decay: float
    points: list[dict[str, Any]]


def fit_logistic(x: Tensor, y: Tensor, classes: int, held: Tensor, drawn: bool = False) -> Path:
    """The decay of the smallest cross-entropy on the samples `held` [n], and the solution on all of x with it.

    x [N, D]: standardised features; y [N]: labels. drawn: these are a sample of many more, and a rougher solution will do. A point
    of the path: its decay, the accuracies on the fitted and on the held-out part, the held-out loss, iterations, the gradient at the
    end, and whether it has converged.
    """
    device = "cpu" if x.device.type == "mps" else x.device
    x, y = x.to(device, torch.float32), y.to(device)
    fitted = torch.ones(len(x), dtype=torch.bool, device=device)
    fitted[held.to(device)] = False
    samples, rest = Samples.of(x[fitted], y[fitted]), (x[~fitted], y[~fitted])
    found = Solution(x.new_zeros(classes, x.shape[1]), x.new_zeros(classes), 0, float("inf"), False)
    path, best, since = [], (float("inf"), DECAYS[0], found), 0
    for decay in DECAYS:
        found = samples.solve(decay, found, DRAWN if drawn else ROUGH)
        loss, score = _measured(found, *rest)
        _, train = _measured(found, x[fitted], y[fitted])
        path.append(
            {
                "weight_decay": decay, "train": train, "held_out": score, "loss": loss, "steps": found.iterations,
                "gradient": found.gradient, "converged": found.converged,
            }
        )  # fmt: skip
        since = 0 if loss < (1 - GAIN) * best[0] else since + 1
        best = (loss, decay, found) if loss < best[0] else best
        if since == PATIENCE:
            break
    exact = torch.float64 if x.numel() <= DOUBLE and not drawn else torch.float32
    start = Solution(best[2].weight.to(exact), best[2].bias.to(exact), 0, best[2].gradient, best[2].converged)
    last = Samples.of(x.to(exact), y, samples.axes.to(exact)).solve(best[1], start, DRAWN if drawn else EXACT)
    return Path(last, best[2], best[1], path)


def _measured(at: Solution, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(mean cross-entropy, accuracy)."""
    logits = x @ at.weight.T + at.bias
    return float(torch.nn.functional.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())
