"""A training method: the networks it trains, the loss of one batch, and what is updated after the step.

A `Method` is a composition that a spec names; `begin` gives it an encoder and returns a `Learner`, the module that the
engine trains. A learner draws the views of a batch and computes their loss in two separate calls, so that an adversary can
be placed between the two; each robust method is a wrapper (`methods/robust`) around any learner.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.views import Batched, Views
from hardsight.encoders.base import Encoder

Drawn = tuple[Tensor, ...]
"""Views of a batch, each [B, 3, H, W] (or clips), in [0, 1]; their sizes may differ."""


class Samples(NamedTuple):
    """A batch: images x [B, 3, H, W], or clips, in [0, 1]; targets by name; places [B]: indices in the training split.

    x is `Pictures` where the images differ in size: views are then all that can be read of them.
    """

    x: Batched
    target: dict[str, Any]
    places: Tensor


Logs = Mapping[str, float | Tensor | tuple[Tensor, Tensor]]
"""Numbers to plot by their name, as scalars that the engine reads when the device has them; a pair is a part and its whole."""


class Step(NamedTuple):
    """loss: [B] from a learner's `read`, a scalar from its `forward`, with a graph. logs: numbers to plot.

    keep: what `after_step` stores (a queue's keys, a centre's mean), detached; None for nothing.
    """

    loss: Tensor
    logs: Logs
    keep: Any = None


class Learner(nn.Module):
    """All modules that are trained in one run. Called with a batch, it returns the loss of one optimizer step.

    encoder: what is exported. replays: optimizer steps on each batch. sees: how many views `read` takes, None for any
    number.
    """

    replays: int = 1
    sees: int | None = None

    def __init__(self, encoder: Encoder, views: Views) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = views

    def prepare(self, images: Images) -> None:
        """Reads the training images once, before the first step and before a checkpoint is loaded: for pseudo-labels."""

    def draw(self, samples: Samples, when: When) -> Drawn:
        """Views of the batch; all randomness is drawn here, from `when.rng`."""
        return self.views(samples.x, when)

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        """The loss [B] of these views; it changes only batch norm statistics, so an adversary may call it many times."""
        raise NotImplementedError

    def forward(self, samples: Samples, when: When) -> Step:
        step = self.read(self.draw(samples, when), samples, when)
        return step._replace(loss=step.loss.mean())

    def after_backward(self, when: When) -> None:
        """Gradients are computed, weights not yet updated: free adversarial training updates its perturbation here."""

    def after_step(self, keep: Any, when: When) -> None:
        """Weights are updated: momentum networks, queues and centres are updated here."""


def need(part: nn.Module, ready: Callable[[], Tensor], message: str) -> None:
    """`SpecError` unless `ready()` is True; once it was, it is not asked again, since the host waits for a GPU's answer."""
    if not part.__dict__.get("is_ready"):
        if not bool(ready()):
            raise SpecError(message)
        part.__dict__["is_ready"] = True


class Method(Protocol):
    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        """A learner around the encoder; images: size of the training split. The caller seeds the init of new weights."""
        ...


def mlp(widths: tuple[int, ...], last_norm: bool = False, bias: bool = True, norm: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them; last_norm: batch norm without affine parameters at the end.

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
