"""On a GPU the host never waits within the steps of a fixed-step attack or of training; counted on a simulated device.

What runs there must also give the numbers of the CPU, bit for bit: the way that is taken on a GPU is another one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hardsight.attacks.quick import exact
from hardsight.attacks.search.compose import in_each
from hardsight.attacks.search.pgd import ASKS, pgd
from hardsight.attacks.threats import l1
from hardsight.core import seeds, tree
from hardsight.core.progress import Watch
from hardsight.core.waits import Simulated, Waits
from hardsight.losses.base import fits
from hardsight.losses.objective import AttackResult, against
from hardsight.specs.catalog import build, entries
from hardsight.tasks.base import System
from hardsight.training.engine import loop
from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe
from hardsight.training.engine.window import EVERY
from tests.conftest import toy_images, toy_system, toy_target
from tests.fixtures.training import images_in
from tests.laws.test_threats import CASES, SHAPES
from tests.training.test_training import METHODS, encoder_for

TASKS = {"label": "classify", "mask": "segment", "depth": "depth", "embedding": "classify"}
"""Without detection: its error, the average precision of boxes, is computed on the host in every step."""
LOSSES = [
    (name, target)
    for name, entry in entries().items()
    if entry.kind == "Loss"
    for target in TASKS
    if fits(build(name, "Loss"), target)
]
PRESETS = [("fgsm", "classify"), ("segpgd({})", "segment"), ("cospgd({})", "segment"), ("depthpgd({})", "depth")]
PRESETS += [(f"embed({{}}, distance={distance})", task) for distance in ("l2", "cosine") for task in ("classify", "segment")]


def spec_of(name: str, target: str) -> str:
    """PGD with that loss, and the aim that the loss needs."""
    loss: Any = build(name, "Loss")
    pair, clean = getattr(loss, "pair", False), getattr(loss, "clean", False)
    if target == "embedding":
        return f"attack(pgd({{}}), loss={name}, where=embedding, aim={'partner' if pair else 'itself'})"
    return f"attack(pgd({{}}), loss={name}, aim={'itself' if clean else 'rival(1)' if pair else 'label'})"


def there(waits: Waits, thing: Any) -> Any:
    """A copy on the simulated device."""
    return copy.deepcopy(thing).to(waits.device) if isinstance(thing, torch.nn.Module) else tree.move(thing, waits.device)


def attacked(spec: str, task: str, steps: int, align: str = "") -> tuple[Waits, AttackResult]:
    system = toy_system(build(task, "Task"))
    x, y = toy_images(5), toy_target(system.task, 5)
    with Waits() as waits:
        moved = System(there(waits, system.encoder), there(waits, system.head), system.task)
        attack = build(spec.format(steps), "Attack")
        x, y = there(waits, (x, y))
        waits.places.clear()
        found = attack(moved, x, y, build("linf(0.03)", "Threat"), seeds.generator("waits"))
    return waits, found


def on_cpu(spec: str, task: str, steps: int) -> AttackResult:
    system = toy_system(build(task, "Task"))
    x, y = toy_images(5), toy_target(system.task, 5)
    with exact(system):  # a GPU has no other forms of the passes
        return build(spec.format(steps), "Attack")(system, x, y, build("linf(0.03)", "Threat"), seeds.generator("waits"))


def here(thing: Any) -> Tensor:
    """The values on the CPU of a tensor on the simulated device."""
    return thing.values


def same(found: AttackResult, wanted: AttackResult) -> bool:
    pairs = zip(found[:7], wanted[:7], strict=True)
    return all((one is None) == (two is None) and (two is None or torch.equal(here(one), two)) for one, two in pairs)


@pytest.mark.parametrize(("name", "target"), LOSSES)
def test_no_loss_waits_in_the_steps_of_pgd(name: str, target: str) -> None:
    spec, task = spec_of(name, target), TASKS[target]
    (few, _), (many, found) = attacked(spec, task, 2), attacked(spec, task, 5)
    assert many.places == few.places
    assert same(found, on_cpu(spec, task, 5))


@pytest.mark.parametrize(("spec", "task"), [*PRESETS, ("depthpgd({})", "depth(align=median)")])
def test_no_named_attack_waits_in_its_steps(spec: str, task: str) -> None:
    (few, _), (many, found) = attacked(spec, task, 2), attacked(spec, task, 5)
    assert many.places == few.places
    assert same(found, on_cpu(spec, task, 5))


@pytest.mark.parametrize(("spec", "kind"), CASES)
def test_no_threat_waits_in_the_steps_of_pgd(spec: str, kind: str) -> None:
    """L1's projection iterates and asks now and then whether it has converged, which costs less than all its iterations."""
    threat, x = build(spec, "Threat"), torch.rand(SHAPES[kind], generator=torch.Generator().manual_seed(0))

    def run(steps: int) -> tuple[Waits, AttackResult]:
        with Waits() as waits:
            slope = there(waits, torch.linspace(-1, 1, x[0].numel()).view(x[0].shape))
            objective = against(lambda x: x, lambda x, target, progress: (x * slope).flatten(1).sum(1).sin())
            found = in_each(pgd(steps), threat)(objective, there(waits, x), threat, seeds.generator("waits"))
        return waits, found

    (few, _), (many, found) = run(2), run(5)
    asked = -(-l1.TURNS // l1.ASKS)
    extra = many.places - few.places
    assert set(extra) <= {place for place in extra if "attacks/threats/l1.py" in place}
    assert extra.total() <= 3 * asked * SHAPES["clips"][2] * ("l1" in spec)
    slope = torch.linspace(-1, 1, x[0].numel()).view(x[0].shape)
    objective = against(lambda x: x, lambda x, target, progress: (x * slope).flatten(1).sum(1).sin())
    assert same(found, in_each(pgd(5), threat)(objective, x, threat, seeds.generator("waits")))


@pytest.mark.parametrize("spec", ["attack(pgd({}, early_exit=True), loss=ce)", "classpgd({}, patience=2)"])
def test_early_exit_waits_once_in_several_steps(spec: str) -> None:
    (few, _), (many, found) = attacked(spec, "classify", ASKS), attacked(spec, "classify", 3 * ASKS)
    assert 0 < (many.places - few.places).total() <= 2
    wanted = on_cpu(spec, "classify", 3 * ASKS)
    assert wanted.queries.min() < wanted.queries.max()  # some images have left
    assert torch.equal(here(found.queries), wanted.queries)
    assert wanted.error is not None
    assert torch.equal(here(found.error), wanted.error)
    assert torch.allclose(here(found.x_adv), wanted.x_adv, atol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return images_in(tmp_path_factory.mktemp("images"), count=36 * 5)


def begun(method: str, encoder: str, data: str, folder: Path, device: torch.device, **more: Any) -> loop.Run:
    made = {"batch": 8, "epochs": 1, "save": 0.0, "every": 1, "watch": "", "log": (), **more}
    run = loop.begin(TrainingRecipe("waits", encoder, method, data, **made), folder, Group(device), Watch(quiet=True))
    run.training.learner.train()
    return run


@pytest.mark.parametrize("name", METHODS)
def test_no_training_step_waits(name: str, data: str, tmp_path: Path) -> None:
    with Waits() as waits:
        run = begun(METHODS[name], encoder_for(name), data, tmp_path, waits.device, clip=1.0)
        batches: Any = run.batches(0, 0)
        run.batch(next(batches), 0)
        waits.places.clear()
        waits.copies.clear()
        for _ in range(2):
            run.batch(next(batches), 0)
        assert not waits.places
        run.settle()
        assert waits.total == 1
        batches.close()
        run.close()


def trained(
    data: str, folder: Path, device: torch.device, spoil: Callable[[int], bool], batches: int, method: str
) -> tuple[dict[str, Tensor], str, int]:
    """Weights, log and skipped steps after that many batches; the loss of a step that `spoil` names is not finite."""
    run = begun(method, "tiny(widths=(8, 8, 8, 8))", data, folder, device, optimizer="sgd(lr=0.05)", ema=0.9)
    whole = run.forward

    def forward(samples: Any, when: Any) -> Any:
        step = whole(samples, when)
        return step._replace(loss=step.loss * torch.nan) if spoil(when.step) else step

    run.forward = forward
    given: Any = run.batches(0, 0)
    for _ in range(batches):
        run.batch(next(given), 0)
    run.settle()
    given.close()
    run.close()
    weights = {**run.training.learner.state_dict(), **{f"average {k}": v for k, v in run.encoder.state_dict().items()}}
    found = {name: value.values if isinstance(value, Simulated) else value for name, value in weights.items()}
    return found, (folder / "log.jsonl").read_text(), run.training.guard.skipped


@pytest.mark.parametrize("method", ["moco_v2(queue=16, widths=(16, 8))", "free(simclr(width=16), replays=2)", "supervised"])
@pytest.mark.parametrize("spoiled", [(), (EVERY - 3, EVERY + 1)])
def test_training_there_equals_training_here(method: str, spoiled: tuple[int, ...], data: str, tmp_path: Path) -> None:
    here = trained(data, tmp_path / "here", torch.device("cpu"), spoiled.__contains__, EVERY + 3, method)
    with Waits() as waits:
        found = trained(data, tmp_path / "there", waits.device, spoiled.__contains__, EVERY + 3, method)
    assert found[1:] == here[1:]
    assert here[2] == len(spoiled)
    assert all(torch.equal(value, here[0][name]) for name, value in found[0].items())


def test_what_is_counted() -> None:
    with Waits() as waits:
        x, mask = torch.arange(4.0).to(waits.device), torch.tensor([True, False, True, True], device=waits.device)
        assert waits.copies.total() == 2
        asking: list[Callable[[], Any]] = [
            lambda: float(x.sum()), lambda: bool(mask.any()), lambda: x[0].item(), lambda: x.cpu(), lambda: x.tolist(),
            lambda: mask.nonzero(), lambda: x[mask], lambda: torch.masked_select(x, mask), lambda: torch.equal(x, x),
            lambda: x.unique(), lambda: x.cpu().numpy(), lambda: x.repeat_interleave(mask.long()),
        ]  # fmt: skip
        for place, ask in enumerate(asking, 1):
            ask()
            assert waits.total == place
        silent: list[Callable[[], Any]] = [
            lambda: x[torch.arange(2, device=waits.device)], lambda: torch.where(mask, x, 0.0), lambda: x.masked_fill(mask, 1.0),
            lambda: x.sort().values, lambda: float(torch.ones(2).sum()), lambda: torch.ones(3)[torch.ones(3) > 0],
            lambda: x.clone().index_fill_(0, mask.long(), 2.0), lambda: x.new_zeros(3), lambda: torch.rand(2, device=waits.device),
        ]  # fmt: skip
        for ask in silent:
            ask()
        assert waits.total == len(asking)
        assert math.isclose(x.cpu().sum(), 6.0)
        assert x.device == waits.device
