"""Self-distillation without labels: the online branch matches the momentum branch's centred and sharpened output (DINO)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hardsight.core.when import When
from hardsight.specs.schedules import Schedule
from hardsight.training.criteria.gather import gather
from hardsight.training.criteria.pairs import across, mean


class Centred(nn.Module):
    """The cross-entropy of each view's distribution with every other target view's, mean over pairs of views.

    temperature: of the online branch; sharp: of the target branch, over the run. The centre is subtracted from the target
    before its softmax, and follows the mean over batch and views: share * centre + (1 - share) * mean.
    Source: Caron et al., ICCV 2021 (DINO), algorithm 1 and equations 3 and 4.
    """

    sees = None
    centre: Tensor

    def __init__(self, dim: int, temperature: float, sharp: Schedule, share: float = 0.9) -> None:
        super().__init__()
        self.temperature, self.sharp, self.share = temperature, sharp, share
        self.register_buffer("centre", torch.zeros(dim))

    def at(self, when: When) -> Callable[..., Tensor]:
        """The criterion with that step's temperature."""
        return partial(self.forward, sharp=self.sharp(when))

    def forward(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor, *, sharp: float
    ) -> Tensor:  # fmt: skip
        chances = tuple((z / self.temperature).log_softmax(1) for z in online)
        wanted = tuple(((z - self.centre) / sharp).softmax(1).detach() for z in target or ())
        return mean([-(want * chance).sum(1) for chance, want in across(chances, wanted)])

    def remember(self, online: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> Tensor:
        """The mean [1, K] of the target over batch and views."""
        return torch.cat(target).detach().mean(0, keepdim=True)

    def keep(self, kept: Tensor) -> None:
        self.centre.lerp_(gather(kept).mean(0).to(self.centre.dtype), 1 - self.share)
