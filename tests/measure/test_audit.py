"""The audit passes an unmasked model, and fails models that mask their gradients, each by the check designed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import hardsight as hs
from hardsight.encoders.base import Features
from hardsight.measure.audit import audit, audit_passes
from hardsight.measure.checks.base import Case, differ
from hardsight.specs.catalog import build, entries
from hardsight.tasks.base import System

COUNT = 8
CHECKS = [name for name, entry in entries().items() if entry.kind == "Check"]


@dataclass(frozen=True)
class Masked(System):
    """A system with something before its encoder, between encoder and head, or after its head."""

    front: Callable[[Tensor], Tensor] = lambda x: x
    middle: Callable[[Features], Features] = lambda features: features
    back: Callable[[Any], Any] = lambda output: output

    def output(self, x: Tensor) -> Any:
        return self.back(self.head(self.middle(self.encoder(self.front(x)))))


class ZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(grads[0])


def blurred(x: Tensor) -> Tensor:
    """A filter outside of autograd, like a JPEG library."""
    kernel = torch.full((3, 1, 3, 3), 1 / 9)
    return torch.nn.functional.conv2d(x.detach(), kernel, padding=1, groups=3)


def random_front(x: Tensor) -> Tensor:
    return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


CONTROLS = {
    "saturated logits": ("classify", {"back": lambda logits: logits * 1e4}, "other_loss", "saturated"),
    "non-differentiable front": ("classify", {"front": blurred}, "gradients", "blocks the gradient"),
    "random front": ("classify", {"front": random_front}, "repeats", "eot"),
    "quantised input": ("classify", {"front": lambda x: (x * 8).round() / 8}, "plateaus", "quantised"),
    "zero-gradient activation": ("classify", {"back": ZeroGradient.apply}, "gradients", "blocks the gradient"),
    "detached dense branch": (
        "depth",
        {"middle": lambda found: found._replace(dense=found.dense.detach())},
        "differences",
        "gives no gradient",
    ),
    "softmax passed as logits": ("classify", {"back": lambda logits: logits.softmax(1)}, "logits", "probabilities"),
}


@pytest.fixture(scope="module")
def systems() -> dict[str, tuple[System, Tensor, Tensor]]:
    """A small unmasked system per task, with images on which it was not trained."""
    encoder, found = hs.load_encoder("zoo:made_supervised"), {}
    for task, target in (("classify", "label"), ("depth", "depth")):
        system = hs.fit_probe(encoder, task=task, data="made", probe="probe(images=128, epochs=15)")
        x, y = hs.load_images("made", target, count=COUNT)
        found[task] = (system, x, y)
    return found


def case_of(system: System, x: Tensor, y: Tensor, **more: Any) -> Case:
    return Case(system, build(f"{system.task.attack}(steps=10)", "Attack"), build("linf(4/255)", "Threat"), x, y, **more)


@pytest.mark.parametrize("task", ["classify", "depth"])
@pytest.mark.slow
def test_an_honest_model_fails_nothing(systems: dict[str, Any], task: str) -> None:
    case, passes = case_of(*systems[task]), 0

    def count(module: Any, given: tuple[Tensor, ...], output: Any) -> None:
        nonlocal passes
        passes += len(given[0])

    counting = case.system.encoder.register_forward_hook(count)
    found = audit(case)
    counting.remove()
    bound = audit_passes(case.attack)
    assert 0.6 * bound < passes / len(case.x) <= bound, "the estimate of a dry run"
    assert [one["name"] for one in found["checks"] if one["verdict"] == "fail"] == []
    assert {one["name"] for one in found["checks"]} == set(CHECKS)
    assert sum(one["verdict"] == "pass" for one in found["checks"]) >= len(CHECKS) - 4
    assert all(one["reason"] for one in found["checks"])


@pytest.mark.parametrize("name", CONTROLS)
def test_masked_models_are_caught_by_name(systems: dict[str, Any], name: str) -> None:
    task, parts, check, message = CONTROLS[name]
    honest, x, y = systems[task]
    case = case_of(Masked(honest.encoder, honest.head, honest.task, **parts), x, y)
    verdict, reason = build(check, "Check")(case)
    assert verdict == "fail", reason
    assert message in reason
    assert build(check, "Check")(case_of(honest, x, y)).verdict != "fail"


@pytest.mark.parametrize("attack", ["attack(eot(pgd(2), draws=5))", "autoattack(version=rand, steps=10)"])
def test_a_random_model_under_its_mean_is_no_failure(systems: dict[str, Any], attack: str) -> None:
    honest, x, y = systems["classify"]
    random = Masked(honest.encoder, honest.head, honest.task, front=random_front)
    found = build("repeats", "Check")(Case(random, build(attack, "Attack"), build("linf(4/255)", "Threat"), x, y))
    assert found.verdict == "warn"
    assert f"the mean of {5 if 'eot' in attack else 20} draws" in found.reason


@dataclass(frozen=True)
class Unreliable:
    """An attack that has an effect only at the eps for which `works` is true."""

    works: Callable[[float], bool]
    passes = 1

    def fits(self, task: Any) -> bool:
        return True

    def __call__(self, system: System, x: Tensor, y: Any, threat: Any, rng: Any = None) -> Any:
        strong = build("classpgd(steps=10)", "Attack")
        found = strong(system, x, y, threat, rng)
        return found if self.works(threat.eps) else found._replace(x_adv=x)


def test_an_attack_that_is_weaker_at_larger_radius_is_reported(systems: dict[str, Any]) -> None:
    honest, x, y = systems["classify"]
    threat, check = build("linf(16/255)", "Threat"), build("rises", "Check")
    assert (
        "a smaller radius gave a larger error"
        in check(Case(honest, Unreliable(lambda eps: eps < 0.05), threat, x, y)).reason
    )  # type: ignore[arg-type]
    unbounded = check(Case(honest, Unreliable(lambda eps: eps < 0.5), threat, x, y))  # type: ignore[arg-type]
    assert unbounded.verdict == "fail"
    assert "every one must be misclassified" in unbounded.reason
    assert check(Case(honest, Unreliable(lambda eps: True), threat, x, y)).verdict == "pass"  # type: ignore[arg-type]


def test_an_attack_weaker_than_a_black_box_is_reported(systems: dict[str, Any]) -> None:
    honest, x, y = systems["classify"]
    threat, check = build("linf(64/255)", "Threat"), build("black_box", "Check")
    found = check(Case(honest, Unreliable(lambda eps: False), threat, x, y))  # type: ignore[arg-type]
    assert found.verdict == "fail"
    assert "gradients it follows are masked" in found.reason
    assert check(Case(honest, Unreliable(lambda eps: True), threat, x, y)).verdict == "pass"  # type: ignore[arg-type]


def test_more_steps_that_reduce_the_error_are_reported(systems: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    honest, x, y = systems["classify"]
    run = Case.run
    monkeypatch.setattr(  # any other attack than the case's own does nothing
        Case, "run", lambda case, attack=None, radius=1.0: run(case, attack and build("clean", "Attack"), radius)
    )
    found = build("more_steps", "Check")(
        Case(honest, build("classpgd(steps=10)", "Attack"), build("linf(16/255)", "Threat"), x, y)
    )
    assert found.verdict == "fail"
    assert "more steps reduced the error" in found.reason


def test_a_batch_that_matters_is_reported(systems: dict[str, Any]) -> None:
    honest, x, y = systems["classify"]
    coupled = Masked(honest.encoder, honest.head, honest.task, back=lambda logits: logits - logits.mean(0))
    assert build("alone", "Check")(case_of(coupled, x, y)).verdict == "fail"
    assert build("alone", "Check")(case_of(honest, x, y)).verdict == "pass"


def test_an_attack_weaker_than_transfer_or_with_more_steps_is_reported(systems: dict[str, Any]) -> None:
    honest, x, y = systems["classify"]
    weak = build("attack(pgd(steps=1, step=0.01), loss=ce)", "Attack")
    strong = build("classpgd", "Attack")
    threat = build("linf(8/255)", "Threat")
    found = Case(honest, strong, threat, x, y).found
    case = Case(honest, weak, threat, x, y, others={"itself": found.x_adv})
    assert build("transferred", "Check")(case).verdict == "fail"
    assert build("more_steps(times=100)", "Check")(case).verdict == "warn"
    assert build("transferred", "Check")(Case(honest, strong, threat, x, y, others={"noise": x})).verdict == "pass"
    assert build("transferred", "Check")(Case(honest, strong, threat, x, y)).verdict == "none"


def test_an_attack_that_moves_at_eps_zero_is_reported(systems: dict[str, Any]) -> None:
    honest, x, y = systems["classify"]

    class Cheat:
        passes = 1

        def fits(self, task: Any) -> bool:
            return True

        def __call__(self, system: System, x: Tensor, y: Any, threat: Any, rng: Any = None) -> Any:
            return build("fgsm", "Attack")(system, x, y, build("linf(8/255)", "Threat"), rng)

    @dataclass(frozen=True)
    class Loose:
        eps: float = 8 / 255
        norm = "Linf"

        def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
            return x_adv

        def size(self, delta: Tensor) -> Tensor:
            return delta.flatten(1).abs().amax(1)

    assert build("at_zero", "Check")(Case(honest, Cheat(), Loose(), x, y)).verdict == "fail"  # type: ignore[arg-type]


def test_outputs_are_compared_by_their_greatest_value() -> None:
    one = torch.tensor([[1.0, 100.0]])
    assert differ(one, one) == 0
    assert differ(one, one + 1) == pytest.approx(0.01)
    assert differ(one, torch.full((1, 2), torch.nan)) == float("inf")
    assert differ(one, torch.zeros(2, 2)) == float("inf")


@pytest.mark.parametrize("loss", ["loss=cw", "loss=kl, aim=itself", "loss=margin"])
def test_losses_that_are_flat_by_design_are_not_held_against_a_model(systems: dict[str, Any], loss: str) -> None:
    """cw has zero gradient at images that are wrong by a margin; kl has zero gradient at the clean image itself."""
    system, x, y = systems["classify"]
    y = torch.where(torch.arange(len(y)) < 3, (y + 1) % 12, y)  # three images that are misclassified when clean
    case = replace(case_of(system, x, y), attack=build(f"attack(pgd(10), {loss})", "Attack"))
    found = build("gradients", "Check")(case)
    assert found.verdict == "pass", found.reason
    blocked = replace(case, system=Masked(system.encoder, system.head, system.task, back=ZeroGradient.apply))
    assert build("gradients", "Check")(blocked).verdict == "fail"
    wrong = replace(case, y=(case.output(x).argmax(1) + 1) % 12)
    if loss == "loss=cw":
        assert build("gradients", "Check")(wrong).verdict == "none"
