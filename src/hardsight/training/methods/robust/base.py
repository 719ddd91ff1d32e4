"""Shared by the wrappers: a learner that draws views and computes their loss, and an adversary between the two.

A wrapper decides what the adversary perturbs and which losses are trained on; views, criterion, networks and all updates
after a step remain those of the wrapped learner.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.encoders.base import Encoder
from hardsight.training.methods.base import Drawn, Learner, Method, Samples


class WrappedLearner(Learner):
    """A learner around another one; it exports that learner's encoder and calls its hooks."""

    def __init__(self, inner: Learner) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.views = inner.views
        self.__dict__["encoder"] = inner.encoder  # not registered as a submodule: it is saved once, as the inner learner's

    def draw(self, samples: Samples, when: When) -> Drawn:
        return self.inner.draw(samples, when)

    def prepare(self, images: Images) -> None:
        self.inner.prepare(images)

    def after_backward(self, when: When) -> None:
        self.inner.after_backward(when)

    def after_step(self, keep: Any, when: When) -> None:
        self.inner.after_step(keep, when)


def name_of(part: Any) -> str:
    """A method's name in messages: its spec's name."""
    return getattr(getattr(part, "spec", None), "name", None) or type(part).__name__.lower()


def begin(wrapper: str, method: Method, encoder: Encoder, data: DataCard, images: int) -> Learner:
    """The method's learner; `SpecError` where it has its own training step, into which no adversary can be inserted."""
    inner = method.begin(encoder, data, images)
    if isinstance(inner, WrappedLearner) or type(inner).read is Learner.read or inner.replays != 1:
        raise SpecError(
            f"{wrapper} cannot wrap {name_of(method)}, which has its own training step: it needs a method that computes a "
            "loss of views, such as simclr"
        )
    return inner


def refuse(wrapper: str, method: Method, given: int, inner: Learner, instead: str = "") -> None:
    """`SpecError` where the wrapper would give the method's learner a number of views that it does not take."""
    if inner.sees is not None and inner.sees != given:
        raise SpecError(f"{wrapper} gives {name_of(method)} {given} views, and it takes {inner.sees}{instead}")
