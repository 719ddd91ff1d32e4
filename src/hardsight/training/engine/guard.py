"""Guards on a run's numbers: a non-finite step is skipped, three in a row go back to a checkpoint, and collapse is reported.

Going back means the last checkpoint with the learning rate halved. If that does not help either, the run stops and names the
step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.training.engine.window import wide

IN_A_ROW = 3
"""Consecutive skipped steps before the run goes back."""
BACK_OFFS = 3
"""How often a run goes back before it stops."""
COLLAPSED = 0.01
"""The spread below which embeddings carry no information about the image; random directions have 1."""


class NotFinite(Exception):
    """Too many consecutive steps were not finite: the run goes back to its last checkpoint."""


@dataclass
class Guard:
    """skipped: all steps without an update. row: how many of them are consecutive and the latest. halved: back-offs so
    far.
    """

    skipped: int = 0
    row: int = 0
    halved: int = 0

    @property
    def factor(self) -> float:
        """Factor on the learning rate."""
        return 0.5**self.halved

    def passes(self, loss: float, norm: float, learner: nn.Module) -> bool:
        """Whether a step with this loss and gradient norm may be taken.

        Raises `NotFinite` at the third consecutive step that may not, and at the first one that made the learner's buffers
        (batch norm statistics) non-finite: skipping does not repair those.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.row = 0
            return True
        self.skipped += 1
        self.row += 1
        if self.row >= IN_A_ROW or any(b.is_floating_point() and not b.isfinite().all() for b in learner.buffers()):
            raise NotFinite
        return False


def spread_of(embeddings: Tensor) -> float:
    """The spread of unit embeddings [N, D]: the mean over dimensions of their standard deviation, times sqrt(D).

    About 1 for random directions, 0 where all are equal: the measure of SimSiam's figure 2 (Chen & He, CVPR 2021).
    """
    unit = F.normalize(embeddings.float(), dim=1)
    return float(unit.std(0, unbiased=False).mean() * math.sqrt(embeddings.shape[1]))


def norm_of(weights: list[nn.Parameter], clip: float) -> Tensor:
    """The norm of all gradients together, in float64; gradients are scaled down to norm `clip` where it is larger (0: never)."""
    gradients = [one.grad for one in weights if one.grad is not None]
    shared = [one for one in gradients if hasattr(one, "full_tensor")]
    own = [one for one in gradients if not hasattr(one, "full_tensor")]
    square = wide(torch.zeros((), device=weights[0].device))  # not a sharded one
    for part in filter(None, (own, shared)):
        norm: Any = nn.utils.get_total_norm(part)
        square = square + wide(norm.full_tensor() if part is shared else norm).square()
    size = square.sqrt()
    if clip:
        factor = torch.where(size > clip, clip / size, 1.0)
        for one in (*own, *(part.to_local() for part in shared)):  # type: ignore[attr-defined]
            one.mul_(factor.to(one.device, one.dtype))
    return size


def device_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the device, or of this process where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
