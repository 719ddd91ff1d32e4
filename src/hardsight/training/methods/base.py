"""What a training method is: the networks it trains, the loss of one batch, and what moves after the step.

A `Method` is a composition that a spec names; `begin` gives it an encoder and makes a `Learner` of it, the module that the
engine trains. A learner draws views of a batch and reads a loss of them, apart from one another: so an adversary can stand
between the two, and every robust method is a wrapper (`methods/robust`) around any learner.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder

Drawn = tuple[Tensor, ...]
"""Views of a batch, each [B, 3, H, W] (or clips), in [0, 1]; their sizes may differ."""


class Samples(NamedTuple):
    """A batch: images x [B, 3, H, W], or clips, in [0, 1]; targets by name; places [B] of the images in the training split."""

    x: Tensor
    target: dict[str, Any]
    places: Tensor


class Step(NamedTuple):
    """loss: [B] of a learner's `read`, a scalar of its `forward`, with a graph. logs: numbers worth a curve.

    keep: detached, what `after_step` stores (a queue's keys, a centre's mean); None for nothing.
    """

    loss: Tensor
    logs: dict[str, float]
    keep: Any = None


class Learner(nn.Module):
    """Everything that trains in one run. Called with a batch, it answers one optimizer step's loss.

    encoder: what is exported. replays: optimizer steps on each batch. sees: how many views `read` takes, None for any number.
    """

    replays: int = 1
    sees: int | None = None

    def __init__(self, encoder: Encoder, views: Views) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = views

    def prepare(self, images: Images) -> None:
        """Looks at the training images once, before the first step and before a checkpoint is loaded: for pseudo-labels."""

    def draw(self, samples: Samples, when: When) -> Drawn:
        """Views of the batch; everything random is drawn here, from `when.rng`."""
        return self.views(samples.x, when)

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        """The loss [B] of these views; it changes nothing but batch norm's statistics, so an adversary may call it often."""
        raise NotImplementedError

    def forward(self, samples: Samples, when: When) -> Step:
        step = self.read(self.draw(samples, when), samples, when)
        return step._replace(loss=step.loss.mean())

    def after_backward(self, when: When) -> None:
        """Gradients are fresh and weights old: here a free adversary climbs."""

    def after_step(self, keep: Any, when: When) -> None:
        """Weights are new: here slow networks, queues and centres move."""


class Method(Protocol):
    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        """A learner around the encoder; images: how many the training split has. New weights are for the caller to seed."""
        ...


def mlp(widths: tuple[int, ...], last_norm: bool = False, bias: bool = True, norm: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them; last_norm: batch norm without an affine part at the end.

    norm: False leaves out the batch norm between the layers.
    """
    layers: list[nn.Module] = []
    for place, (wide, next_wide) in enumerate(itertools.pairwise(widths)):
        if place:
            layers += [nn.BatchNorm1d(wide)] * norm + [nn.ReLU(inplace=True)]
        layers.append(nn.Linear(wide, next_wide, bias=bias))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
