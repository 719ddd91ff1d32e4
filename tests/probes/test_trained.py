"""Tuned heads: the optimum along the path, the choice on a held-out part, what is stored; and the check that judges it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardsight.core.errors import DataError, SpecError
from hardsight.data import open_data
from hardsight.data.feed import choose
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench
from hardsight.measure.checks.base import Case, Finding
from hardsight.measure.plan import plan
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.probes.logistic import DECAYS, fit_logistic
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.store.files import read_json
from hardsight.tasks.base import System

DATA = "made(size=32, train=400, test=12)"


def drawn(count: int = 300, dim: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(0, classes, (count,), generator=rng)
    x = torch.randn(classes, dim, generator=rng)[y] + 1.5 * torch.randn(count, dim, generator=rng)
    return (x - x.mean(0)) / x.std(0), y


def judged(system: System) -> Finding:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(2) if system.task.target == "label" else torch.ones(2, 32, 32)
    case = Case(system, build("classpgd", "Attack"), build("linf(8/255)", "Threat"), x, y.long())
    return build("trained", "Check")(case)


def test_the_solution_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = drawn()
    found = fit_logistic(x, y, 4, torch.arange(60))
    theirs = LogisticRegression(C=1 / (found.decay * len(x)), tol=1e-8, max_iter=1000).fit(x.double().numpy(), y.numpy())
    assert found.last.converged
    assert np.abs(theirs.coef_ - found.last.weight.numpy()).max() < 0.01 * np.abs(theirs.coef_).max()


def test_the_decay_has_the_smallest_held_out_loss_and_the_path_ends_early() -> None:
    x, y = drawn()
    found = fit_logistic(x, y, 4, torch.arange(60))
    assert found.decay == min(found.points, key=lambda point: point["loss"])["weight_decay"]
    assert [point["weight_decay"] for point in found.points] == list(DECAYS[: len(found.points)])
    noisy = torch.randn(300, 60, generator=torch.Generator().manual_seed(3))
    assert len(fit_logistic(noisy, y, 4, torch.arange(60)).points) < len(DECAYS)
    shuffled = y.clone()
    shuffled[:60] = (y[:60] + 1) % 4  # the choice, and nothing else of the path, depends on the held-out labels
    other = fit_logistic(x, shuffled, 4, torch.arange(60))
    assert torch.equal(other.part.weight, fit_logistic(x, shuffled, 4, torch.arange(60)).part.weight)
    assert other.decay > found.decay


@pytest.mark.parametrize("task", ["classify", "segment", "depth"])
def test_a_head_of_two_steps_is_caught_and_the_tuned_one_is_not(task: str) -> None:
    encoder, data = load_encoder("zoo:made_supervised"), open_data(DATA)
    images = data.split("train")
    bank = Bank(encoder, images, choose(images, 400 if task == "classify" else 100), dense=task != "classify")
    weak = fit_probe(encoder, task, data, f"probe(epochs=1, batch={len(bank) // 2})", bank=bank)
    assert weak.fitted is not None
    assert weak.fitted["steps"] == 2
    found = judged(weak)
    assert found.verdict == "warn"
    assert "under-fitted" in found.reason
    assert "probe(epochs=4)" in found.reason
    if task == "classify":
        system = fit_probe(encoder, task, data, "probe", bank=bank)
        assert judged(system).verdict == "pass"
        assert system.fitted is not None
        assert system.fitted["converged"]


def test_verdicts_follow_the_diagnostics() -> None:
    good: dict[str, Any] = {
        "how": "tuned", "choice": {"weight_decay": 1.0}, "curve": [{"weight_decay": 1.0}], "steps": 9, "held_out": 50, "seen": False, "images": 250, "gradient": 1e-5,
        "converged": True, "train": [0.85, 0.9, 0.95], "score": [0.75, 0.8, 0.85],
    }  # fmt: skip
    system = fit_probe(load_encoder("tiny"), "classify", "made(size=32, train=12, test=4)", "probe(epochs=1)")
    said = {
        "pass": good,
        "not converged": {**good, "converged": False, "gradient": 0.3},
        "over-fitted": {**good, "train": [0.99, 1.0, 1.0], "score": [0.3, 0.5, 0.7]},
    }
    for word, fitted in said.items():
        found = judged(replace(system, fitted=fitted))
        assert word in (found.verdict if word == "pass" else found.reason)
        assert found.verdict == ("pass" if word == "pass" else "warn")
    bounded = {**said["over-fitted"], "choice": {"weight_decay": 0.1}}
    assert judged(replace(system, fitted=bounded)).verdict == "pass"
    assert judged(replace(system, fitted=None)).verdict == "none"
    few = fit_probe(load_encoder("tiny"), "classify", "made(size=32, train=8, test=4)")
    assert judged(few).verdict == "none"
    assert "too few" in judged(few).reason


def test_how_a_head_was_trained_is_stored_with_it_and_judged_from_there(tmp_path: Path) -> None:
    recipe = Recipe(
        name="heads", encoders=("zoo:made_supervised",), data=(DATA,), tasks=("classify",), attacks=("clean", "pgd(1)"),
        count=6, chunk=6, audit=2, gallery=0, probe="probe(images=400, epochs=1, batch=200)",
    )  # fmt: skip
    Bench(plan(recipe), Store(tmp_path)).run()
    stored = read_json(next(tmp_path.rglob("heads/*.json")))
    assert stored["fitted"]["steps"] == 2
    for path in tmp_path.glob("cells/*/audit.*"):
        path.unlink()
    cells = Bench(plan(recipe), Store(tmp_path)).run()  # the head comes from the store
    checks = {one["name"]: one for cell in cells for one in (cell.audit or {"checks": []})["checks"]}
    assert checks["trained"]["verdict"] == "warn"
    assert "under-fitted" in checks["trained"]["reason"]


def test_only_images_leaves_the_choice_open_and_a_fixed_run_differs_by_its_settings() -> None:
    assert build("probe(images=5)", "Probe").tunes
    assert not build("probe(schedule=poly)", "Probe").tunes
    encoder, data = load_encoder("tiny"), open_data("made(size=32, train=32, test=4)")
    kept = [
        fit_probe(encoder, "classify", data, f"probe(epochs=2, batch=8, {more})").head.state_dict()["linear.weight"]
        for more in ("lr=0.01", "optimizer=sgd", "optimizer=adam", "schedule=constant", "schedule=poly")
    ]
    assert all(not torch.equal(one, other) for place, one in enumerate(kept) for other in kept[:place])
    with pytest.raises(SpecError, match="cosine"):
        build("probe(schedule=cosin)", "Probe")


def test_a_bank_without_the_layers_of_the_head_is_refused() -> None:
    encoder, data = load_encoder("tiny_vit"), open_data("made(size=32, train=16, test=4)")
    bank = Bank(encoder, data.split("train"), list(range(16)), dense=True)
    with pytest.raises(DataError, match="the bank has the layers"):
        fit_probe(encoder, "segment(head=linear4)", data, bank=bank)


def test_heads_of_three_seeds_are_stored_and_judged_and_the_first_is_the_head_of_one_seed() -> None:
    encoder, data = load_encoder("zoo:made_supervised"), open_data(DATA)
    for task, how in (("classify", ""), ("segment", "epochs=2, images=40, ")):
        three, one = (fit_probe(encoder, task, data, f"probe({how}seeds={count})", seed=5) for count in (3, 1))
        assert all(torch.equal(one.head.state_dict()[name], value) for name, value in three.head.state_dict().items())
        assert three.fitted is not None
        assert one.fitted is not None
        assert three.fitted["seeds"][0] == one.fitted["score"]
        assert len({tuple(score) for score in three.fitted["seeds"]}) == 3
        assert "seeds" not in one.fitted
    other = fit_probe(encoder, "classify", data, "probe", seed=6)
    assert other.fitted is not None
    assert fit_probe(encoder, "classify", data, "probe(seeds=2)", seed=5).fitted["seeds"][1] == other.fitted["score"]  # type: ignore[index]
    fitted = {**one.fitted, "seeds": [one.fitted["score"], [0.01, 0.02, 0.03]], "more": None, "converged": True}
    found = judged(replace(one, fitted=fitted))
    assert found.verdict == "warn"
    assert "other seeds have 0.02" in found.reason
    with pytest.raises(SpecError, match="seeds is 0; it must be above 0"):
        build("probe(seeds=0)", "Probe")
