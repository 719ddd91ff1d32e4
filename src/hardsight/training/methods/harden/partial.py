"""Partial training around any method: the encoder's last blocks are trained, and all that comes before them stands still."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.robust.base import Wrapped


class Ended(Wrapped):
    """block: the first one that is trained. What comes before it keeps its weights and its batch norms' statistics."""

    def __init__(self, inner: Learner, block: nn.Module) -> None:
        super().__init__(inner)
        self.replays = inner.replays
        body = inner.encoder.body
        self.__dict__["frozen"] = before(body, block)
        for part in self.__dict__["frozen"]:
            part.requires_grad_(False)
        for part in body.modules():
            if block in list(part.modules())[1:]:  # around the block: tokens and positions are such a part's own
                for weight in part.parameters(recurse=False):
                    weight.requires_grad_(False)

    def train(self, mode: bool = True) -> Ended:
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
                f"partial: last is {self.last}, and {encoder.card.name} has {len(found)} blocks; fewer than all, or leave partial out"
            )
        return Ended(self.method.begin(encoder, data, images), found[-self.last])


def blocks(body: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network, in order: of the outermost lists of modules of one class, the members.

    A residual network's blocks, whatever stage they are in; a transformer's blocks; a Swin transformer's stages.
    """
    found: list[nn.Module] = []
    for part in body.children():
        members = list(part.children())
        alike = isinstance(part, nn.ModuleList | nn.Sequential) and len({type(one) for one in members}) == 1
        found += members if alike and list(members[0].children()) else blocks(part)
    return found


def before(body: nn.Module, block: nn.Module) -> list[nn.Module]:
    """The parts of a network that are declared before the block: the largest ones that do not have it within."""
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
    """A method that trains the encoder's last blocks alone, and what comes after them, such as a transformer's last norm.

    last: how many blocks: of a residual network its blocks, of a transformer its own, of a hierarchical one its stages. What
    comes before is in eval mode throughout.
    """
    if last < 1:
        raise SpecError(f"partial: last is {last}; at least 1 block is trained")
    return Partial(method, last)
