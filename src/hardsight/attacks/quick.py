"""A float32 search on a CPU with faster passes: the same network up to rounding, whose result is evaluated on the network itself.

Batch norms are folded into the convolutions before them, and convolutions are channels-last or products
(`attacks/convolutions`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hardsight.attacks.convolutions import alike, folded, outputs, reading_pixels
from hardsight.losses.objective import recordable, still
from hardsight.tasks.base import System

_inside: ContextVar[tuple[nn.Module, ...]] = ContextVar("inside", default=())
"""The encoders whose passes no further context changes."""
_known: WeakKeyDictionary[nn.Module, tuple[object, bool]] = WeakKeyDictionary()


@contextmanager
def quick(system: System, x: Tensor) -> Iterator[bool]:
    """`still`, with the faster passes if one image shows that the network's outputs stay the same; gives whether they changed.

    Inside another such context, on a GPU, under autocast, and for anything but float32 images it is `still` alone.
    """
    with still(system.encoder, system.head), ExitStack() as stack:
        plain = not any(system.encoder is one for one in _inside.get()) and not torch.is_autocast_enabled("cpu")
        changed = False
        if plain and x.device.type == "cpu" and x.dtype == torch.float32 and len(x):
            stack.enter_context(exact(system))
            with suppress(Exception):  # what a system cannot do, the attack itself reports
                changed = stack.enter_context(folded(system, x[:1]))
                if _supports(system, x[:1]):
                    stack.enter_context(_forms(system))
                    changed = True
        yield changed


@contextmanager
def exact(system: System) -> Iterator[None]:
    """Inside, the system's passes stay as they are."""
    token = _inside.set((*_inside.get(), system.encoder))
    try:
        yield
    finally:
        _inside.reset(token)


@contextmanager
def _forms(system: System) -> Iterator[None]:
    before: dict[nn.Parameter, Tensor] = {}
    try:
        with reading_pixels(system.encoder, system.head):
            for part in (part for module in (system.encoder, system.head) for part in module.modules()):
                if isinstance(part, nn.Conv2d) and part.kernel_size != part.stride and part.groups == 1:
                    weight = part.weight
                    if type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight not in before:
                        before[weight] = weight.data
                        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            yield
    finally:
        for weight, values in before.items():
            weight.data = values


def _supports(system: System, x: Tensor) -> bool:
    """Whether the outputs of one image stay the same and have a gradient; asked again if the modules are other ones."""
    parts = [part for module in (system.encoder, system.head) for part in module.modules()]
    convs = [part for part in parts if isinstance(part, nn.Conv2d)]
    key = (tuple(map(id, parts)), tuple(x.shape))
    known = _known.get(system.encoder)
    if known is None or known[0] != key:
        known = _known[system.encoder] = (key, bool(convs) and _tried(system, x))
    return known[1]


def _tried(system: System, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            expected = outputs(system, x)
        with _forms(system), torch.enable_grad():
            given = recordable(x).detach().requires_grad_()
            found = outputs(system, given)
            if found[0].requires_grad:
                torch.autograd.grad(found[0].float().sum(), given)
    except RuntimeError:
        return False
    return len(found) == len(expected) and all(
        alike(one.detach(), other) for one, other in zip(found, expected, strict=True)
    )
