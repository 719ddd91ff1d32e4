"""Tests on real images and published weights, if HARDSIGHT_DATA is set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchattacks

import hardsight as hs
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.specs.recipe import load
from hardsight.store.cells import Store

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_published_classifier_is_as_robust_as_under_torchattacks(real_data: Path) -> None:
    data = hs.open_data(f"cifar10:{real_data}/cifar10")
    encoder = hs.load_encoder(f"file:{real_data}/weights/resnet20-12fca82f.th(arch='resnet20')")
    system = hs.fit_probe(encoder, "classify(head='own')", data)
    x, y = hs.load_images(data, "label", 700)
    with torch.no_grad():
        clean = torch.cat([system.output(part).argmax(1) for part in x.split(100)]) == y
    assert float(clean.float().mean()) == pytest.approx(0.917, abs=0.001)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return system.output(x)

    x, y = x[:100], y[:100]
    pgd = torchattacks.PGD(Model().eval(), eps=1 / 255, alpha=0.25 / 255, steps=10, random_start=False)
    ours = hs.build("attack(pgd(10, start='clean', keep='last'), loss=ce)", "Attack")
    left = [system.output(found).argmax(1) == y for found in (pgd(x, y), ours(system, x, y, hs.linf(1 / 255)).x_adv)]
    assert abs(float(left[0].float().mean() - left[1].float().mean())) <= 0.005
    assert float(left[1].float().mean()) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric", "least", "most"), [("camvid", "miou", 0.2, 1.0), ("rgbd", "rmse", 0.0, 0.7)])
def test_dense_recipes_run_on_real_data(
    real_data: Path, tmp_path: Path, name: str, metric: str, least: float, most: float
) -> None:
    from dataclasses import replace

    recipe = load(str(ROOT / "benchmarks" / "results" / f"{name}.toml"))
    small = replace(
        recipe, encoders=recipe.encoders[:1], count=4, chunk=4, eps=("8/255",), attacks=("clean", "task"), gallery=1
    )
    small = small.with_set("probe=probe(epochs=5)").with_set("attacks=clean,pgd(3)")
    cells = Bench(plan(small), Store(tmp_path), gallery=1).run()
    clean, attacked = (cell.done["summary"][metric] for cell in cells)
    assert least < clean < most
    assert (attacked < clean) if metric == "miou" else (attacked > clean)
