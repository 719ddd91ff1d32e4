"""A task as paper 002's released code evaluates it: the task itself, with the quirks that `official` names (specs/quirks).

Only what belongs to a task is here: its training loss, how its output is assembled, its counts. `attacks/official` changes the
attack, and gives the task its `role`, since the released code treats clean, attacked and evaluated images differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.data.base import IGNORE, DataCard
from hardsight.encoders.base import Encoder
from hardsight.losses import released
from hardsight.losses.depth import gradient_gap, silog
from hardsight.specs.catalog import complete, minimal
from hardsight.specs.quirks import switched
from hardsight.specs.syntax import Call, show
from hardsight.tasks.base import Task, Training

TRAINS = {"B5", "C", "F2"}
"""The quirks of the loss that heads are trained with."""


@dataclass(frozen=True)
class Official:
    """role: "clean" images, "attacked" ones within the search, or those that it found, to be "judged".

    bare: (mean, std) of an encoder that is to see its pixels without normalization (quirks A5, B1). unmasked: whether
    pixels that were not measured count (quirk B3).
    """

    task: Task
    bugs: frozenset[str]
    role: Literal["clean", "attacked", "judged"] = "clean"
    bare: tuple[Tensor, Tensor] | None = None
    unmasked: bool = False

    def __getattr__(self, name: str) -> Any:
        """Name, target, default attack and whatever else the task has."""
        if name.startswith("__") or name == "task":
            raise AttributeError(name)
        return getattr(self.task, name)

    @property
    def training(self) -> Training:
        return self.task.training

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        return self.task.head(encoder, data)

    def answer(self, output: Any) -> Any:
        return self.task.answer(output)

    def around(self, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The output for images x: windows averaged after the softmax, reduced images, pixels without normalization."""
        size = x.shape[-2:]
        if "D6" in self.bugs:
            x = x[..., ::2, ::2]
        if self.bare is not None:
            x = x * self.bare[1] + self.bare[0]
        softmax = ("A4" if self.role == "attacked" else "D3") in self.bugs
        one = (lambda part: run(part).softmax(1)) if softmax else run
        inner = getattr(self.task, "around", None)
        output = inner(x, one) if inner else one(x)
        return _enlarged(output, size) if "D6" in self.bugs else output

    def loss(self, output: Any, target: Any) -> Tensor:
        """[B]: the training loss of heads."""
        if "F2" in self.bugs:
            return F.cross_entropy(output, torch.where(target == IGNORE, 0, target), reduction="none").flatten(1).mean(1)
        if self.bugs & {"B5", "C"}:
            target = self.task.measured(target)  # type: ignore[attr-defined]
            scale = released.sigloss(output, target) if "B5" in self.bugs else silog(output, target)
            slope = released.gradients(output, target) if "C" in self.bugs else gradient_gap(output, target)
            return scale + 0.5 * slope
        return self.task.loss(output, target)

    def measured(self, target: Any) -> Any:
        inner = getattr(self.task, "measured", None)
        return target if inner is None or self.unmasked else inner(target)

    def error(self, output: Any, target: Any) -> Tensor:
        return self.task.error(*self._compared(output, target))

    def counts(self, output: Any, target: Any) -> dict[str, Tensor]:
        """The task's counts with the released figures' numerators and denominators."""
        output, target = self._compared(output, target)
        found = self.task.counts(output, torch.where(target == 0, IGNORE, target) if "D5" in self.bugs else target)
        if "D5" in self.bugs:
            found = {key: torch.cat([torch.zeros_like(value[:, :1]), value[:, 1:]], 1) for key, value in found.items()}
        if "D4" in self.bugs:
            found["accuracy_over"] = found["predicted"]
        if "B4" in self.bugs:
            found["by_image"] = found["images"]
        return found

    def _compared(self, output: Any, target: Any) -> tuple[Any, Any]:
        if "D6" in self.bugs:
            return output[..., ::2, ::2], target[..., ::2, ::2]
        return (output, everywhere(target)) if self.unmasked else (output, target)


def everywhere(depth: Tensor) -> Tensor:
    """A depth map in which pixels that were not measured count, as (nearly) 0 metres."""
    return torch.where(depth > 0, depth, 1e-6)


def official(task: Task, quirks: str | tuple[str, ...]) -> Task:
    """The task with these quirks; the task itself if there are none."""
    return Official(task, frozenset(switched(quirks, task.name))) if quirks else task  # type: ignore[return-value]


def trained_as(task: str) -> str:
    """The spec as far as a head's training depends on it: without windows, and of the quirks those of the training loss.

    Of a head on cached features; a probe that fine-tunes sees the whole task.
    """
    call = complete(task, "Task")
    quirks = dict(call.arguments).get("official") or ()
    bugs = tuple(sorted(TRAINS & set(switched(quirks, call.name)))) if quirks else ()
    kept = {name: value for name, value in call.arguments if name not in ("window", "stride")}
    return show(minimal(Call(call.name, tuple((kept | ({"official": bugs} if "official" in kept else {})).items()))))


def _enlarged(output: Tensor, size: torch.Size) -> Tensor:
    """Every second pixel, repeated to fill the image: what `_compared` takes out again."""
    return output.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]
