"""Partial training around any method: only the encoder's last blocks are trained, and everything before them is frozen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.base import WrappedLearner


class PartialLearner(WrappedLearner):
    """block: the first one that is trained. Everything before it keeps its weights and its batch norm statistics."""

    def __init__(self, inner: Learner, block: nn.Module) -> None:
        super().__init__(inner)
        self.replays = inner.replays
        body = inner.encoder.body
        self.__dict__["frozen"] = before(body, block)
        for part in self.__dict__["frozen"]:
            part.requires_grad_(False)
        for part in body.modules():
            if block in list(part.modules())[1:]:  # contains the block: its own parameters, such as tokens and positions
                for weight in part.parameters(recurse=False):
                    weight.requires_grad_(False)

    def train(self, mode: bool = True) -> PartialLearner:
        super().train(mode)
        for part in self.__dict__["frozen"]:
            part.eval()
        return self

    def forward(self, samples: Samples, when: When) -> Step:
        return self.inner(samples, when)


@dataclass(frozen=True)
class Partial:
    method: Method
    last: int

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        found = blocks(encoder.body)
        if self.last >= len(found):
            raise SpecError(
                f"partial: last is {self.last}, and {encoder.card.name} has {len(found)} blocks; give fewer than all, or omit partial"
            )
        return PartialLearner(self.method.begin(encoder, data, images), found[-self.last])


def blocks(body: nn.Module) -> list[nn.Module]:
    """The repeated modules of a network, in order: the members of the outermost lists of modules of one class.

    A residual network's blocks, in any stage; a transformer's blocks; a Swin transformer's stages.
    """
    found: list[nn.Module] = []
    for part in body.children():
        members = list(part.children())
        alike = isinstance(part, nn.ModuleList | nn.Sequential) and len({type(one) for one in members}) == 1
        found += members if alike and list(members[0].children()) else blocks(part)
    return found


def before(body: nn.Module, block: nn.Module) -> list[nn.Module]:
    """The modules of a network that are declared before the block: the largest ones that do not contain it."""
    found: list[nn.Module] = []
    for part in body.children():
        if part is block:
            break
        if block in part.modules():
            found += before(part, block)
            break
        found.append(part)
    return found


@register
def partial(method: Method, last: int = 1) -> Method:
    """A method that trains only the encoder's last blocks and what comes after them, such as a transformer's last norm.

    last: how many blocks: those of a residual network, those of a transformer, the stages of a hierarchical one. Everything
    before them is in eval mode throughout.
    """
    if last < 1:
        raise SpecError(f"partial: last is {last}; it must be at least 1")
    return Partial(method, last)
