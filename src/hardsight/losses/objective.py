"""The interface between the parts of an attack: an `Objective` evaluates a batch of images to one loss and one error each.

It is a read function and the target of the images; it can be indexed by a mask, which a closure cannot. Without that,
restarts, early exit and "only the images that are still robust" could not be written once for every search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardsight.core import tree
from hardsight.core.errors import ShapeError, SpecError


class Reading(NamedTuple):
    """One evaluation of a batch: loss [B], which a search maximizes; error [B] in [0, 1], 1 = wrong, None without labels.

    slope [B], if a gradient was taken: its largest absolute value; 0 means a zero gradient, NaN or Inf one that cannot be
    used. parts: what the loss is made of, if it says so: [B, P], each value above 0 where that part is wrong, -inf where it
    does not count. Of a signed loss one part above 0 is enough (the other classes), of another one all count (the pixels).
    """

    loss: Tensor
    error: Tensor | None = None
    slope: Tensor | None = None
    parts: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Objective:
    """What a search maximizes.

    read: (x [B, 3, H, W], target, progress in [0, 1]) -> Reading. target: a tree that is indexed with the images. coupled:
    images of a batch depend on one another (NT-Xent, coding rate), so it may not be indexed. signed: the loss is zero on the
    decision boundary. name: of the loss, for messages. draws: number of forward passes whose mean is one evaluation, for a
    model with random outputs.
    """

    read: Callable[[Tensor, Any, float], Reading]
    target: Any = None
    coupled: bool = False
    signed: bool = False
    name: str = "this objective"
    draws: int = 1

    def __call__(self, x: Tensor, progress: float = 1.0) -> Reading:
        """Raises `ShapeError` if it does not return one value per image. Without gradients, a CPU takes a large batch in parts."""
        count = 1 if self.coupled or torch.is_grad_enabled() else pieces(x, READ)
        if count > 1:
            parts = torch.arange(len(x)).chunk(count)
            return _joined([self[part](x[part[0] : part[-1] + 1], progress) for part in parts])
        return _mean([self.once(x, progress) for _ in range(self.draws)])

    def once(self, x: Tensor, progress: float) -> Reading:
        """One forward pass, even if an evaluation is the mean of several."""
        reading = self.read(x, self.target, progress)
        for what, part in (("loss", reading.loss), ("error", reading.error)):
            if part is not None and part.shape != (len(x),):
                raise ShapeError(
                    f"{self.name}: the {what} has shape {list(part.shape)} for images {list(x.shape)}; "
                    f"it should be one value per image, [{len(x)}]"
                )
        return reading

    def __getitem__(self, index: Tensor) -> Objective:
        """The objective of the images that `index` (a mask [B] or positions) selects; raises `SpecError` if coupled."""
        if self.coupled:
            raise SpecError(f"{self.name} couples the images of a batch, so it cannot be evaluated on a part of the batch")
        return replace(self, target=tree.take(self.target, index))


class AttackResult(NamedTuple):
    """What a search found, per image.

    x_adv [B, 3, H, W]; loss [B] and error [B] (or None) of it; x_best_loss: the point of highest loss, if that is another
    one (for a search for minimal perturbations: the closest adversarial point, at any distance); queries [B]: number of
    forward passes of each image; flat [B]: at how many of them the gradient was zero; halted [B]: whether a loss or gradient
    was not finite, which stops the search of that image. members: what each attack of a suite found, by name, if the worst
    case over a data set is computed from them. Of one attack with a target class: reached [B] in [0, 1], the share of the
    output that is the target; left_out [B]: images unchanged because their label already is the target, which no figure
    should count. error is the task's for every attack.
    """

    x_adv: Tensor
    loss: Tensor
    error: Tensor | None
    x_best_loss: Tensor
    queries: Tensor
    flat: Tensor
    halted: Tensor
    members: tuple[tuple[str, Tensor], ...] = ()
    reached: Tensor | None = None
    left_out: Tensor | None = None


def against(
    model: Callable[[Tensor], Any],
    loss: Callable[[Any, Any, float], Tensor],
    error: Callable[[Any, Any], Tensor] | None = None,
    target: Any = None,
    truth: Any = None,
) -> Objective:
    """The objective "maximize `loss(model(x), target, progress)`", with the error `error(model(x), truth)`, both [B].

    truth: the target itself if None.
    """

    def read(x: Tensor, pair: tuple[Any, Any], progress: float) -> Reading:
        output = model(x)
        target, truth = pair
        measured = None
        if error is not None:
            with torch.no_grad():
                measured = error(output, target if truth is None else truth)
        parts = None if split is None else partial(split, output, target)
        return Reading(loss(output, target, progress), measured, parts=parts)

    split = getattr(loss, "parts", None)
    name = getattr(getattr(loss, "spec", None), "name", None) or getattr(loss, "name", "the loss")
    return Objective(read, (target, truth), getattr(loss, "coupled", False), getattr(loss, "signed", False), name)


PIECE = 200_000
"""Pixels per thread of a CPU above which a batch's gradient is computed in pieces: four images of side 224, or 195 of 32."""
READ = 100_000
"""The same without a gradient: each layer's map is allocated anew, and larger ones are mapped by the system every time."""


def loss_and_grad(objective: Objective, x: Tensor, progress: float = 1.0) -> tuple[Reading, Tensor]:
    """The reading at x and the gradient of the summed loss with respect to x alone; no parameter's `.grad` changes.

    A loss that does not depend on x has gradient zero: the audit reports that, and no exception stops a run. Where loss or
    gradient are not finite, the gradient is zero too, and the reading's slope is NaN or Inf. A CPU takes a large batch in
    pieces, which needs less memory at once and is as fast or faster; a coupled objective stays whole.
    """
    count = 1 if objective.coupled else pieces(x)
    if count == 1:
        return _loss_and_grad(objective, x, progress)
    readings, grads = [], None
    for part in torch.arange(len(x)).chunk(count):
        reading, grad = _loss_and_grad(objective[part], x[part[0] : part[-1] + 1], progress)
        grads = grad.new_empty(x.shape) if grads is None else grads
        grads[part[0] : part[-1] + 1] = grad
        readings.append(reading)
        del grad
    assert grads is not None
    return _joined(readings), grads


def _joined(readings: list[Reading]) -> Reading:
    """The readings of parts of a batch as one."""
    columns = zip(*(one[:3] for one in readings), strict=True)
    loss, error, slope = (None if column[0] is None else torch.cat(column) for column in columns)
    parts = [one.parts for one in readings if one.parts is not None]
    assert loss is not None
    return Reading(loss, error, slope, (lambda: torch.cat([part() for part in parts])) if parts else None)


def parts_and_grads(
    objective: Objective, x: Tensor, weigh: Callable[[Tensor], Iterable[Tensor]], progress: float = 1.0,
    whole: bool = False,
) -> tuple[Reading, list[Tensor]]:  # fmt: skip
    """The reading at x, and one gradient for each weights [B, P] that `weigh` makes of the parts: of their weighted sum.

    A loss that names no parts is its own only part, [B, 1]; with `whole` any loss is. weigh gets the parts without their
    graph. Parts that are not finite have gradient zero. One forward pass; of several draws, the mean of all of them, whose
    graphs are kept at once.
    """
    with _recording(objective, x) as (objective, x):
        readings = [objective.once(x, progress) for _ in range(objective.draws)]
        found = [one.loss[:, None] if whole or one.parts is None else one.parts() for one in readings]
        values = (found[0] if len(found) == 1 else torch.stack(found).mean(0)).flatten(1)
        finite = torch.isfinite(values)
        counted = torch.where(finite, values, 0.0)
        grads = []
        for weights in weigh(values.detach()):
            total = torch.where(finite, weights, 0.0).to(counted.dtype).mul(counted).sum()
            grad = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)[0] if total.requires_grad else None
            grads.append(torch.zeros_like(x) if grad is None else grad.detach())
    reading = _mean([Reading(one.loss.detach(), None if one.error is None else one.error.detach()) for one in readings])
    if grads:
        slope = grads[0].flatten(1).abs().amax(1) if len(x) else reading.loss
        slope = torch.where(torch.isfinite(reading.loss), slope, torch.nan)
        reading = reading._replace(slope=slope)
        grads = [tree.where(torch.isfinite(slope), grad, torch.zeros_like(grad)) for grad in grads]
    return reading, grads


def pieces(x: Tensor, most: int | None = None) -> int:
    """Into how many pieces a pass of images or clips x [B, 3, ...] is split; the pieces are twice as large in bf16."""
    if x.device.type != "cpu" or not len(x):
        return 1
    size = (PIECE if most is None else most) * torch.get_num_threads() * (2 if torch.is_autocast_enabled("cpu") else 1)
    return min(len(x), max(1, x[:, 0].numel() // size))


def _loss_and_grad(objective: Objective, x: Tensor, progress: float) -> tuple[Reading, Tensor]:
    reading, grad = _once(objective, x, progress)
    if objective.draws > 1:  # one after another, so that only one graph is in memory at a time
        readings = [reading]
        for _ in range(objective.draws - 1):
            other, slope = _once(objective, x, progress)
            readings.append(other)
            grad = grad + slope
        reading, grad = _mean(readings), grad / objective.draws
    slope = grad.flatten(1).abs().amax(1) if len(x) else torch.zeros_like(reading.loss)
    slope = torch.where(torch.isfinite(reading.loss), slope, torch.nan)
    good = torch.isfinite(slope)
    if tree.some(~good):
        grad = tree.where(good, grad, torch.zeros_like(grad))
    return Reading(reading.loss, reading.error, slope), grad


def _once(objective: Objective, x: Tensor, progress: float) -> tuple[Reading, Tensor]:
    with _recording(objective, x) as (objective, x):
        reading = objective.once(x, progress)
        total = reading.loss.sum()
        grad = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    error = None if reading.error is None else reading.error.detach()
    return Reading(reading.loss.detach(), error), torch.zeros_like(x) if grad is None else grad.detach()


@contextmanager
def _recording(objective: Objective, x: Tensor) -> Iterator[tuple[Objective, Tensor]]:
    """The objective and x as a leaf whose gradient is recorded, also under `torch.inference_mode()`."""
    with torch.inference_mode(False), torch.enable_grad():
        x = recordable(x).detach().requires_grad_(True)
        try:
            yield replace(objective, target=tree.each(objective.target, recordable)), x
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise SpecError(
                f"{objective.name}: the model reads a tensor that it made under torch.inference_mode(), through which no "
                "gradient passes; build the model, and run it for the first time, outside of torch.inference_mode()"
            ) from error


def recordable(tensor: Tensor) -> Tensor:
    """The tensor itself or, of one made under `torch.inference_mode()`, a copy through which gradients pass."""
    return tensor.clone() if tensor.is_inference() else tensor


def averaged(objective: Objective, draws: int) -> Objective:
    """Expectation over a model's own randomness (EOT): loss, error and gradient are means over `draws` forward passes."""
    return replace(objective, draws=objective.draws * draws)


def _mean(readings: list[Reading]) -> Reading:
    if len(readings) == 1:
        return readings[0]
    errors = [one.error for one in readings if one.error is not None]
    loss = torch.stack([one.loss for one in readings]).mean(0)
    return Reading(loss, torch.stack(errors).mean(0) if errors else None)


@contextmanager
def still(*modules: nn.Module) -> Iterator[None]:
    """Eval mode and frozen weights inside the context; afterwards all modes and `requires_grad` flags are restored.

    Inside, `torch.inference_mode()` is off, and weights made under it are replaced by copies, since no gradient would pass
    through them. Whether gradients are recorded stays as it is.
    """
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad), _recordable_weights(*modules):
        modes = {part: part.training for module in modules for part in module.modules()}
        flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
        try:
            for module in modules:
                module.eval()
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


@contextmanager
def _recordable_weights(*modules: nn.Module) -> Iterator[None]:
    parts = [part for module in modules for part in module.modules()]
    stores: list[dict[str, Any]] = [store for part in parts for store in (part._parameters, part._buffers)]
    made = [(store, name, value) for store in stores for name, value in store.items() if value is not None]
    made = [(store, name, value) for store, name, value in made if value.is_inference()]
    try:
        for store, name, value in made:
            copy = value.detach().clone()
            store[name] = nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy
        yield
    finally:
        for store, name, value in made:
            store[name] = value
