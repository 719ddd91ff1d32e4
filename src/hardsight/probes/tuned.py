"""Training protocols that run the encoder in every step: adversarial linear probes, and clean or adversarial fine-tuning.

Each is a `Probe`, used like `probe(...)`: `--set probe=alf`. Together with the linear probe they are the benchmark's
protocols: SLF is `probe`, ALF is `alf`, AFF is `aff`, and SFF is `finetune`. Source: GodXuxilie/RobustSSL_Benchmark,
Finetuning_Methods/Vanilla: SGD with momentum 0.9, PGD-10 with steps of 2/255 at 8/255, 25 epochs.
differs: the learning rate follows a cosine; images are not augmented, as masks would have to be transformed too; the attack
returns its iterate of greatest loss, not the last (pgd(10, keep=last) does that).

The given encoder is never changed: fine-tuning changes a copy, which the returned system holds. The inner attack sees the
network as it is evaluated later, in eval mode with frozen weights, so its passes don't change batch norm's statistics.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core import seeds, tree
from hardsight.core.errors import DataError, SpecError
from hardsight.data import Data
from hardsight.data.feed import choose, load, pixels
from hardsight.encoders.base import Encoder
from hardsight.losses.classify import kl
from hardsight.losses.depth import silog
from hardsight.losses.objective import against, still
from hardsight.probes.bank import Tick
from hardsight.probes.linear import Probe, tuned_card
from hardsight.specs.catalog import register
from hardsight.tasks.base import System, Task, seeded

MOMENTUM = 0.9


@dataclass(frozen=True)
class Tuned(Probe):
    """whole: the encoder is tuned too. search: None for clean images. beta: of TRADES, 0 for the loss on attacked images."""

    whole: bool
    search: Search | None
    threat: Threat | None
    beta: float

    def fit(
        self,
        encoder: Encoder,
        task: Task,
        data: Data,
        seed: int,
        device: torch.device | str,
        on_error: Literal["stop", "skip"] = "stop",
        tick: Tick | None = None,
    ) -> System:
        """A new system, deterministic given the seed; `encoder` is not changed. Raises `SpecError` and `DataError`."""
        name = self.spec.name  # type: ignore[attr-defined]
        body = copy.deepcopy(encoder) if self.whole else encoder
        head = task.head(body, data.card)
        if hasattr(head, "fill"):
            raise SpecError(f"{name} trains by gradients, and nearest neighbours have no parameters; use probe=probe")
        if not self.whole and not any(True for _ in head.parameters()):
            raise SpecError(f"{name} trains only the head, and head=own is part of the encoder; use finetune or aff")
        if self.beta and task.target not in DIVERGENCES:
            raise SpecError(
                f"{name}: TRADES compares two outputs, which is not defined for {task.name}; use aff(loss=attacked)"
            )
        images, skipped = data.split("train"), []
        places = choose(images, self.images)
        head = seeded(head, seeds.generator("head", seed)).to(device)
        system = System(body, head, task)
        frozen = contextlib.nullcontext() if self.whole else still(encoder)
        with torch.random.fork_rng(), frozen:
            torch.manual_seed(seeds.seed_of("tune", seed))  # for dropout, which takes no generator
            self._train(system, lambda some: load(images, some, on_error, skipped), places, seed, tick)
        for message in dict.fromkeys(skipped):
            warnings.warn(f"left out: {message}", stacklevel=2)
        if self.whole:
            body.eval().requires_grad_(False)
            tuned_card(body, self.spec)  # type: ignore[attr-defined]
        return System(body, head.eval().requires_grad_(False), task)

    def _train(
        self, system: System, read: Callable[[list[int]], Any], places: list[int], seed: int, tick: Tick | None
    ) -> None:
        encoder, head = system.encoder, system.head
        device = next(iter(encoder.parameters())).device
        epochs, size = self.epochs or 1, min(self.batch or 128, len(places))
        if size < 2:
            raise DataError(f"there are {len(places)} training images; batch norm needs at least 2 at once")
        steps = len(places) // size
        tuned = [*(encoder.requires_grad_(True).parameters() if self.whole else ()), *head.parameters()]
        optimizer = torch.optim.SGD(tuned, lr=self.lr or 0.01, momentum=MOMENTUM, weight_decay=self.weight_decay or 0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * steps)
        rng = seeds.generator("batches", seed)
        for epoch in range(epochs):
            order, seen = torch.randperm(len(places), generator=rng).tolist(), 0
            for step in range(steps):
                batch = read([places[one] for one in order[step * size : (step + 1) * size]])
                if len(batch.ids) < 2:
                    continue
                seen += 1
                x, y = pixels(batch.images, device), tree.move(batch.target[system.task.target], device)
                if not epoch and seen == 1:
                    _init_batch_norm(system, x)
                loss = self._loss(system, x, y, rng)
                if not torch.isfinite(loss):
                    raise DataError(
                        f"the loss became {float(loss.detach())} in epoch {epoch + 1}, step {step + 1}; try a smaller lr"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if tick:
                    tick(epoch * len(places) + (step + 1) * size, epochs * len(places))
            if not seen:
                raise DataError("no batch has at least 2 readable training images, which batch norm needs")

    def _loss(self, system: System, x: Tensor, y: Any, rng: torch.Generator) -> Tensor:
        """The training loss, a scalar with a graph; if there is a search, images are attacked first."""
        task, x_adv = system.task, x
        if self.search is not None and self.threat is not None:
            x_adv = self._attacked(system, x, y, rng)
        system.encoder.train(self.whole)
        system.head.train()
        if not self.beta:
            return task.loss(system.output(x_adv), y).mean()
        both = system.output(torch.cat([x, x_adv]))
        clean, attacked = both[: len(x)], both[len(x) :]
        return (task.loss(clean, y) + self.beta * DIVERGENCES[task.target](attacked, clean)).mean()

    def _attacked(self, system: System, x: Tensor, y: Any, rng: torch.Generator) -> Tensor:
        assert self.search is not None
        assert self.threat is not None
        with still(system.encoder, system.head):
            system.encoder.eval()
            system.head.eval()
            if self.beta:
                with torch.no_grad():
                    clean = system.output(x)
                divergence = DIVERGENCES[system.task.target]
                objective = against(system.output, lambda output, target, progress: divergence(output, target), target=clean)
            else:
                objective = against(
                    system.output, lambda output, target, progress: system.task.loss(output, target), target=y
                )
            return self.search(objective, x, self.threat, rng).x_adv


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"label": kl(), "mask": kl(), "depth": silog}
"""[B]: the divergence of an attacked output from the clean one, by the task's target."""


@register
def finetune(
    epochs: int = 25,
    lr: float = 0.01,
    weight_decay: float = 2e-4,
    batch: int = 128,
    images: int | None = None,
) -> Probe:
    """Full fine-tuning of a copy of the encoder and the head, on clean images, by SGD with a cosine schedule (SFF)."""
    return _tuned("finetune", epochs, lr, weight_decay, batch, images, whole=True)


@register
def alf(
    search: Search = pgd(steps=10),
    threat: Threat = linf(8 / 255),
    epochs: int = 25,
    lr: float = 0.01,
    weight_decay: float = 2e-4,
    batch: int = 512,
    images: int | None = None,
) -> Probe:
    """ALF: a head trained on attacked images, which are attacked again in every epoch; the encoder stays frozen.

    Source: RobustSSL_Benchmark; the loss is the task's own, on attacked images only (Madry et al., ICLR 2018).
    """
    return _tuned("alf", epochs, lr, weight_decay, batch, images, False, search, threat)


@register
def aff(
    search: Search = pgd(steps=10),
    threat: Threat = linf(8 / 255),
    loss: Literal["trades", "attacked"] = "trades",
    beta: float = 6.0,
    epochs: int = 25,
    lr: float = 0.1,
    weight_decay: float = 2e-4,
    batch: int = 128,
    images: int | None = None,
) -> Probe:
    """AFF: adversarial fine-tuning of a copy of the encoder and the head.

    loss: trades (Zhang et al., ICML 2019, equation 5), the task's loss on clean images plus beta times the divergence of the
    attacked output from the clean one, which the attack maximizes too: KL for classes, the scale-invariant log error for
    depth; or attacked, the task's loss on attacked images.
    """
    if beta <= 0:
        raise SpecError(f"aff: beta is {beta:g}; it must be above 0; loss=attacked has no beta")
    return _tuned("aff", epochs, lr, weight_decay, batch, images, True, search, threat, beta if loss == "trades" else 0.0)


def _tuned(
    name: str, epochs: int, lr: float, weight_decay: float, batch: int, images: int | None, whole: bool,
    search: Search | None = None, threat: Threat | None = None, beta: float = 0.0,
) -> Probe:  # fmt: skip
    for what, value in (("epochs", epochs), ("lr", lr)):
        if value <= 0:
            raise SpecError(f"{name}: {what} is {value:g}; it must be above 0")
    if batch < 2 or (images is not None and images < 2):
        raise SpecError(f"{name}: batch and images must be at least 2, as batch norm needs 2 images at once")
    if weight_decay < 0:
        raise SpecError(f"{name}: weight_decay is {weight_decay:g}; it must be at least 0")
    return Tuned(epochs, lr, weight_decay, batch, images, None, None, 1, False, whole, search, threat, beta)


def _init_batch_norm(system: System, x: Tensor) -> None:
    """Sets the head's batch norm statistics from a batch, so that the first attack doesn't see their initial values."""
    norms = [part for part in system.head.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    usual = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    system.encoder.eval()
    system.head.train()
    with torch.no_grad():
        system.output(x)
    for part, momentum in zip(norms, usual, strict=True):
        part.momentum = momentum
