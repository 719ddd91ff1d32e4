"""What the wrappers share: a learner that draws and reads, and an adversary between the two.

A wrapper decides what the adversary moves and which readings are trained on; views, criterion, networks and everything that
moves after a step stay the wrapped learner's.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.encoders.base import Encoder
from hardsight.training.methods.base import Drawn, Learner, Method, Samples


class Wrapped(Learner):
    """A learner around another one, whose encoder it exports and whose hooks it calls."""

    def __init__(self, inner: Learner) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.views = inner.views
        self.__dict__["encoder"] = inner.encoder  # named, not owned: it is saved once, as the inner learner's

    def draw(self, samples: Samples, when: When) -> Drawn:
        return self.inner.draw(samples, when)

    def prepare(self, images: Images) -> None:
        self.inner.prepare(images)

    def after_backward(self, when: When) -> None:
        self.inner.after_backward(when)

    def after_step(self, keep: Any, when: When) -> None:
        self.inner.after_step(keep, when)


def name_of(part: Any) -> str:
    """What messages call a method: its spec's name."""
    return getattr(getattr(part, "spec", None), "name", None) or type(part).__name__.lower()


def begin(wrapper: str, method: Method, encoder: Encoder, data: DataCard, images: int) -> Learner:
    """The method's learner; `SpecError` where it reads no views of its own, so that nothing can stand in between."""
    inner = method.begin(encoder, data, images)
    if isinstance(inner, Wrapped) or type(inner).read is Learner.read or inner.replays != 1:
        raise SpecError(
            f"{wrapper} cannot stand around {name_of(method)}, which has its own way of training: it needs a method that "
            "reads views, such as simclr"
        )
    return inner


def refuse(wrapper: str, method: Method, given: int, inner: Learner, instead: str = "") -> None:
    """`SpecError` where the wrapper would give the method's learner another number of views than it sees."""
    if inner.sees is not None and inner.sees != given:
        raise SpecError(f"{wrapper} gives {name_of(method)} {given} views, and it takes {inner.sees}{instead}")
