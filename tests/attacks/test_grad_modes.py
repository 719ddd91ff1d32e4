"""An attack finds the same where its caller has switched gradients off, by whatever means, as where they are on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.encoders import load_encoder
from hardsight.losses.objective import AttackResult, Objective, Reading, against
from hardsight.measure.evaluate import evaluate
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import TrainingRecipe
from hardsight.training.methods.robust.adversary import Adversary
from tests.conftest import toy_encoder, toy_images, toy_system, toy_target
from tests.fixtures.training import images_in
from tests.laws.test_searches import EXTRA, SEARCHES, THREATS, refused

COUNT, TINY = 6, "tiny"
MODES = [torch.inference_mode, torch.no_grad, lambda: torch.set_grad_enabled(False)]
Mode = Callable[[], AbstractContextManager]
ATTACKS = {
    "attack({})": [name.replace("shrinking", "shrinking([apgd(3), apgd(3), apgd(3)])") for name in (*SEARCHES, *EXTRA)],
    "{}": [
        "classpgd(5)",
        "embed(5)",
        "autoattack(steps=5, queries=10)",
        "autoattack('rand', steps=3, queries=10)",
        "warm(embed(3), attack(apgd(5), loss=dlr))",
        "attack(pgd(5), loss=ce_to, aim=towards(2))",
        "attack(pgd(5), loss=kl, aim=itself)",
        "cascade([embed(3), attack(pgd(5, keep=last), loss=dlr)], keep=True)",
        "noise(3)",
        "corrupt(fog)",
    ],
}
THREAT = {"corrupt(fog)": "rms(1)"}


def attacked(spec: str, threat: str) -> AttackResult:
    """What the attack finds on a system, images and labels that are all made here."""
    system = toy_system(build("classify", "Task"))
    x, y = toy_images(COUNT), toy_target(system.task, COUNT)
    return build(spec, "Attack")(system, x, y, build(threat, "Threat"), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", [form.format(name) for form, names in ATTACKS.items() for name in names])
def test_every_attack_finds_the_same_with_gradients_off(spec: str) -> None:
    threat = THREAT.get(spec, "linf(8/255)")
    if spec[len("attack(") : -1] in SEARCHES:
        search = build(spec[len("attack(") : -1], "Search")
        threat = next(one for one in THREATS if not refused(search, one))
        if getattr(search, "signed", False) or getattr(search, "parted", False):
            spec = spec[:-1] + ", loss=margin)"
    right = attacked(spec, threat)
    for mode in MODES:
        with mode():
            found = attacked(spec, threat)
            assert torch.equal(found.x_adv, right.x_adv), mode
            assert torch.equal(found.flat, right.flat)


@pytest.mark.parametrize(
    ("task", "spec"),
    [("segment", "sea(steps=9)"), ("depth", "dense_autoattack(steps=9, queries=5)"), ("detect", "tog(steps=3)")],
)
def test_every_task_finds_the_same_with_gradients_off(task: str, spec: str) -> None:
    def found() -> Tensor:
        system = toy_system(build(task, "Task"))
        x, y = toy_images(3), toy_target(system.task, 3)
        return build(spec, "Attack")(system, x, y, linf(8 / 255), torch.Generator().manual_seed(0)).x_adv

    right = found()
    for mode in MODES:
        with mode():
            assert torch.equal(found(), right), mode


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_rows_are_the_same_with_gradients_off(precision: str) -> None:
    def rows() -> dict:
        system = toy_system(build("classify", "Task"))
        x, y = toy_images(COUNT), toy_target(system.task, COUNT)
        rng = torch.Generator().manual_seed(0)
        return evaluate(system, build("classpgd(5)", "Attack"), linf(8 / 255), x, y, ["i"] * COUNT, rng, precision)[0]  # type: ignore[arg-type]

    right = rows()
    for mode in MODES:
        with mode():
            assert all((value == right[key]).all() for key, value in rows().items()), mode


@pytest.mark.parametrize("mode", MODES)
def test_an_adversary_of_training_finds_the_same_with_gradients_off(mode: Mode) -> None:
    def found() -> Tensor:
        encoder, x = toy_encoder(), toy_images(4)
        clean = encoder(x).pooled.detach()
        away = Objective(lambda x, t, p: Reading((encoder(x).pooled - t).square().sum(1)), clean)
        adversary = Adversary(pgd(3, keep="last"), linf(8 / 255))
        return adversary.on(encoder, x, away, When(torch.Generator().manual_seed(0)))

    right = found()
    with mode():
        assert torch.equal(found(), right)


def test_heads_and_adversarially_trained_encoders_are_the_same_with_gradients_off(tmp_path: Path) -> None:
    """Training ended in torch's "element 0 of tensors does not require grad" there."""
    data, cpu = images_in(tmp_path / "images"), torch.device("cpu")
    recipe = TrainingRecipe("small", TINY, "replace(supervised, adversary(pgd(2)))", data, epochs=1, batch=18, watch="")
    heads, runs = [], []
    for place, mode in enumerate([torch.enable_grad, torch.inference_mode, torch.no_grad]):
        with mode():
            heads.append(fit_probe(load_encoder(TINY), "classify", data, "probe(images=16, epochs=1, batch=8)").head)
            path = train(recipe, tmp_path / str(place), cpu, Watch(quiet=True))
            assert path is not None
            runs.append(load_file(path))
    for head, run in zip(heads[1:], runs[1:], strict=True):
        assert torch.equal(head.linear.weight, heads[0].linear.weight)
        assert all(torch.equal(value, runs[0][key]) for key, value in run.items())


def test_weights_and_modes_made_under_inference_mode_are_as_before_afterwards() -> None:
    with torch.inference_mode():
        system = toy_system(build("classify", "Task"))
        x, y = toy_images(COUNT), toy_target(system.task, COUNT)
    parts = (system.encoder, system.head)
    before = [(value, value.requires_grad) for part in parts for value in (*part.parameters(), *part.buffers())]
    found = build("classpgd(5)", "Attack")(system, x, y, linf(8 / 255), torch.Generator().manual_seed(0))
    assert torch.equal(found.x_adv, attacked("classpgd(5)", "linf(8/255)").x_adv)
    after = [value for part in parts for value in (*part.parameters(), *part.buffers())]
    assert all(one is other and one.requires_grad == flag for (one, flag), other in zip(before, after, strict=True))


def test_a_tensor_that_a_model_keeps_from_inference_mode_is_refused_by_name() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = [torch.ones(1)]  # neither a weight nor a buffer

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale[0]).flatten(1)[:, :5]

    with torch.inference_mode():
        net = Keeps()
    objective = against(net, build("ce", "Loss"), None, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(SpecError, match=r"^ce: the model reads a tensor that it made under torch.inference_mode"):
        pgd(2)(objective, toy_images(2), linf(8 / 255))
