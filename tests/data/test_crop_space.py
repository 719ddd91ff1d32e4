"""Paper 003's crop space compared with an attack on the image: same crops and clean outputs, but no valid image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardsight.attacks.attack import Attack
from hardsight.core.errors import DataError, SpecError
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.encoders.crops import Cutter
from hardsight.losses.objective import against
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.probes.linear import fit_probe
from hardsight.report.results import grid
from hardsight.report.table import markdown
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.tasks.base import System

DATA = "made(size=32, train=96, test=48)"
CROPS = "n=4, seed=3"
APART = f"crop_space({DATA}, {CROPS})"
PGD = "attack(pgd(20, start=clean))"


def systems() -> tuple[System, System]:
    """One head on the mean embedding of the same four crops: computed from an image, and from its crops as frames."""
    whole = fit_probe(load_encoder(f"crops('zoo:made_supervised', {CROPS})"), "classify", DATA, "probe(epochs=20)")
    return whole, System(load_encoder("clips('zoo:made_supervised')"), whole.head, whole.task)


def batches(count: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their crops [B, 3, n, H, W] and labels."""
    image, crops = (load(open_data(spec).split("test"), range(count)) for spec in (DATA, APART))
    assert image.ids == crops.ids and torch.equal(image.target["label"], crops.target["label"])
    return pixels(image.images, "cpu"), pixels(crops.images, "cpu"), image.target["label"]


def attacked(system: System, x: Tensor, y: Tensor, eps: str) -> Tensor:
    attack: Attack = build(PGD, "Attack")
    return attack(system, x, y, build(f"linf({eps})", "Threat"), torch.Generator().manual_seed(0)).x_adv


def loss_of(system: System, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return system.task.loss(system.output(x), y)


def test_the_crops_are_those_of_the_encoder() -> None:
    whole, apart = systems()
    x, crops, y = batches()
    cutter = Cutter(4, None, (0.08, 1.0), 4 / 3, "fixed", 3)
    for place, box in enumerate(cutter.boxes(32, 32)):
        assert (crops[:, :, place] - cutter.cut(x, box)).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.allclose(whole.output(x), apart.output(crops), atol=0.2)
    assert torch.equal(whole.output(x).argmax(1), apart.output(crops).argmax(1))
    assert torch.allclose(loss_of(whole, x, y), loss_of(apart, crops, y), atol=0.1)


def test_what_an_image_can_crops_apart_can_and_more() -> None:
    """Crops of an attacked image are within eps of the clean ones: that attack is valid here too; this one is stronger."""
    whole, apart = systems()
    x, crops, y = batches()
    eps = "2/255"
    cutter = Cutter(4, None, (0.08, 1.0), 4 / 3, "fixed", 3)
    boxes = cutter.boxes(32, 32)
    x_adv = attacked(whole, x, y, eps)
    seen = torch.stack([cutter.cut(x_adv, box) - cutter.cut(x, box) for box in boxes], 2)
    assert seen.abs().max() <= 2 / 255 + 1e-6
    adv = attacked(apart, crops, y, eps)
    assert (adv - crops).abs().max() <= 2 / 255 + 1e-6
    on_image, on_crops = loss_of(whole, x_adv, y), loss_of(apart, adv, y)
    assert on_crops.mean() > 1.2 * on_image.mean()
    assert (on_crops > on_image).float().mean() > 0.9
    right = [float((system.output(z).argmax(1) == y).float().mean()) for system, z in ((whole, x_adv), (apart, adv))]
    assert right[1] < right[0], "robustness is underestimated"


def test_overlapping_crops_show_one_pixel_with_two_values() -> None:
    """Crops of 16x16 pixels, not resized, so that each of their pixels is one of the image's."""
    spec = f"crop_space({DATA}, n=6, size=16, scale=[0.25, 0.25], ratio=1)"
    crops = pixels(load(open_data(spec).split("test"), range(8)).images, "cpu")
    system = fit_probe(load_encoder("clips('zoo:made_supervised')"), "classify", spec, "probe(epochs=5)")
    y = load(open_data(spec).split("test"), range(8)).target["label"]
    delta = attacked(system, crops, y, "4/255") - crops
    boxes = Cutter(6, 16, (0.25, 0.25), 1, "fixed", 0).boxes(32, 32)
    assert {box[2:] for box in boxes} == {(16, 16)}
    low, high = torch.full((8, 3, 32, 32), torch.inf), torch.full((8, 3, 32, 32), -torch.inf)
    times = torch.zeros(32, 32)
    for place, (top, left, tall, wide) in enumerate(boxes):
        part = (..., slice(top, top + tall), slice(left, left + wide))
        low[part], high[part] = low[part].minimum(delta[:, :, place]), high[part].maximum(delta[:, :, place])
        times[part] += 1
    apart = (high - low)[..., times > 1]
    assert (times > 1).sum() > 50
    assert (apart > 4 / 255).float().mean() > 0.3, "more than eps apart, so no single image is within eps of both"


def test_the_attack_is_that_of_the_released_code() -> None:
    """A reimplementation of pgd_linf_n_patch: mean embedding of the perturbed crops, one step of alpha for each crop."""
    _, apart = systems()
    _, crops, y = batches(6)
    eps, alpha, steps = 8 / 255, 0.01, 5
    image, delta = apart.encoder.image, torch.zeros_like(crops)  # type: ignore[union-attr]
    for _ in range(steps):
        delta.requires_grad_(True)
        frames = (crops + delta).unbind(2)
        mean = torch.stack([image(frame).pooled for frame in frames]).mean(0)  # type: ignore[operator]
        features = apart.encoder(crops)._replace(pooled=mean)
        loss = torch.nn.functional.cross_entropy(apart.head(features), y)
        (grad,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + alpha * grad.sign()).clamp(-eps, eps)
        delta = (crops + delta).clamp(0, 1) - crops
    search = build(f"pgd({steps}, step={alpha / eps}, start=clean, keep=last)", "Search")
    objective = against(apart.output, lambda output, target, progress: apart.task.loss(output, target), target=y)
    ours = search(objective, crops, build("linf(8/255)", "Threat")).x_adv
    differs = (ours - (crops + delta)).abs() > 1e-6
    assert differs.float().mean() < 1e-3, "except for signs of gradients that are zero up to rounding"


def test_tables_say_that_it_is_no_threat_on_images(tmp_path: Path) -> None:
    recipe = Recipe(
        encoders=("clips(tiny)",), tasks=("classify",), data=(APART,), attacks=("clean", "pgd(1)"),
        count=4, chunk=4, audit=0, probe="probe(epochs=1, images=16)",
    )  # fmt: skip
    table = markdown(grid(Bench(plan(recipe), Store(tmp_path)).run()))
    assert "4 crops apart (no threat on images)" in table
    assert open_data(APART).card.frames == 4


@pytest.mark.parametrize("wrong", ["n=0", "scale=[0.5, 0.1]", "ratio=0.5"])
def test_crops_that_cannot_be(wrong: str) -> None:
    with pytest.raises(SpecError, match="crops:"):
        build(f"crop_space({DATA}, {wrong})", "Data")


def test_clips_are_not_cut() -> None:
    with pytest.raises(DataError, match="needs images with a label, and moving has clips with label"):
        build("crop_space(moving(size=16, frames=4))", "Data")
