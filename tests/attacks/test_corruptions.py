"""Common corruptions and random noise: alone, against reference implementations, and as attacks in a benchmark."""

from __future__ import annotations

import colorsys
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from hardsight.attacks.corruptions import filters, jpeg, names
from hardsight.attacks.corruptions.base import Corruption, Dice
from hardsight.attacks.corruptions.blurs import _shuffle, disk
from hardsight.attacks.corruptions.weather import plasma
from hardsight.core.errors import DataError, SpecError
from hardsight.data import open_data
from hardsight.data.feed import load
from hardsight.measure.bench import Bench
from hardsight.measure.evaluate import evaluate
from hardsight.measure.plan import plan
from hardsight.metrics import of
from hardsight.metrics.mean import means
from hardsight.report.page import html
from hardsight.report.results import grid
from hardsight.report.table import csv, markdown
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from tests.conftest import toy_images, toy_system, toy_target

ALL = names()
STILL = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
"""Those without random numbers."""
UNORDERED = {"glass_blur", "elastic_transform", "snow", "frost"}
"""Those whose published parameters are not ordered by mean squared change: 4 rounds of copying after 3 of more blur, etc."""
SIZES = [(32, 32), (64, 64), (48, 80), (224, 224), (9, 5)]


def corruption(name: str, severity: int = 3) -> Corruption:
    return build(f"{name}({severity})", "Corruption")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(size: int, count: int) -> Tensor:
    split = open_data(f"made(size={size}, train=4, test={count})").split("test")
    return load(split, list(range(count))).images.float() / 255


def bytes_of(image: Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def test_15_corruptions_are_registered() -> None:
    assert len(ALL) == 15


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_stay_images(name: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=seeded())
    kept = x.clone()
    for severity in (1, 5):
        found = corruption(name, severity)(x, seeded())
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        assert not torch.equal(found, x) or min(size) < 32
    assert torch.equal(x, kept)
    assert corruption(name)(x.double(), seeded()).dtype == torch.float64
    assert corruption(name)(x[:0], seeded()).shape == x[:0].shape


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides(name: str) -> None:
    x = toy_images(2, 32)
    one, two, other = (corruption(name)(x, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert torch.equal(one, other) == (name in STILL)


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_corrupted_alike_in_any_batch(name: str) -> None:
    x = toy_images(5, 32)
    whole = corruption(name)(x, seeded())
    part = corruption(name)(x[[3, 1]], seeded())
    assert torch.allclose(part, whole[[3, 1]], atol=2e-6)
    if name not in STILL:  # other images have other random numbers
        grey = torch.full((2, 3, 32, 32), 0.5) + torch.tensor([0.0, 0.01]).view(2, 1, 1, 1) * x[:2]
        change = corruption(name)(grey, seeded()) - grey
        assert (change[0] - change[1]).abs().max() > 0.02 or name in ("glass_blur", "motion_blur", "elastic_transform")


@pytest.mark.parametrize("name", ALL)
def test_clips_are_corrupted_frame_by_frame(name: str) -> None:
    frames = toy_images(6, 32)
    clips = frames.unflatten(0, (2, 3)).transpose(1, 2)
    found = corruption(name)(clips, seeded())
    assert found.shape == clips.shape
    assert torch.allclose(found.transpose(1, 2).flatten(0, 1), corruption(name)(frames, seeded()), atol=2e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [32, 48, 64, 224])
def test_severity_changes_the_images(name: str, size: int) -> None:
    x = scenes(size, 3 if size == 224 else 8)
    moved = [float((corruption(name, severity)(x, seeded()) - x).square().mean()) for severity in (1, 2, 3, 4, 5)]
    if name in UNORDERED:
        assert min(moved) > 1e-3, moved
        assert name != "snow" or moved[0] < moved[2] < moved[4]
    else:
        assert moved == sorted(moved), moved
        assert moved[4] > 1.5 * moved[0]


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_other_severities_are_refused(severity: int) -> None:
    for spec in (f"corrupt(fog, {severity})", f"corrupt(glass_blur, {severity})"):
        with pytest.raises(SpecError, match="severity"):
            build(spec, "Attack")


def test_what_is_no_corruption_is_refused() -> None:
    with pytest.raises(SpecError, match="did you mean 'fog'"):
        build("corrupt(fogg)", "Attack")
    with pytest.raises(SpecError, match="a corruption is wanted"):
        build("corrupt(pgd)", "Attack")
    with pytest.raises(DataError, match="pixels lie"):
        corruption("fog")(255 * toy_images(1, 32))


def test_noise_has_the_published_size() -> None:
    grey = torch.full((4, 3, 224, 224), 0.5) + 1e-3 * torch.arange(4).view(4, 1, 1, 1)
    assert float((corruption("gaussian_noise", 1)(grey, seeded()) - grey).std()) == pytest.approx(0.08, rel=0.02)
    assert float(corruption("shot_noise", 1)(grey, seeded()).var()) == pytest.approx(0.5 / 60, rel=0.03)
    struck = corruption("impulse_noise", 5)(grey, seeded())
    assert float((struck == 1).float().mean()) == pytest.approx(0.135, rel=0.03)
    assert float((struck == 0).float().mean()) == pytest.approx(0.135, rel=0.03)
    small = grey[..., :32, :32]
    assert float((corruption("gaussian_noise", 5)(small, seeded()) - small).std()) == pytest.approx(0.10, rel=0.03)


def test_brightness_is_value_in_hsv() -> None:
    x = toy_images(1, 8)
    x[0, :, 0, 0] = 0
    found = corruption("brightness")(x)
    for row, column in np.ndindex(8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.15))
        assert torch.allclose(found[0, :, row, column], torch.tensor(wanted), atol=1e-6)


def test_contrast_keeps_the_mean() -> None:
    x = toy_images(3, 64)
    found = corruption("contrast", 2)(x)
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    assert torch.allclose(found.std((2, 3)), 0.3 * x.std((2, 3)), rtol=1e-4)


@pytest.mark.parametrize(("size", "severity", "share"), [(224, 5, 0.25), (224, 4, 0.3), (32, 1, 0.95), (64, 4, 0.6)])
def test_pixelate_is_pillows(size: int, severity: int, share: float) -> None:
    x = scenes(size, 2)
    found = corruption("pixelate", severity)(x)
    for image, ours in zip(x, found, strict=True):
        small = Image.fromarray(bytes_of(image)).resize((int(size * share), int(size * share)), Image.Resampling.BOX)
        theirs = np.asarray(small.resize((size, size), Image.Resampling.BOX), float)
        assert np.abs(255 * ours.permute(1, 2, 0).numpy() - theirs).max() <= 1.01  # theirs is rounded


@pytest.mark.parametrize("quality", [7, 15, 25, 58, 80])
@pytest.mark.parametrize("sizes", [(64, 64), (45, 61)])
def test_jpeg_is_pillows(quality: int, sizes: tuple[int, int]) -> None:
    x = scenes(64, 4)[..., : sizes[0], : sizes[1]]
    found, off = jpeg.compressed(x, quality), []
    for image, ours in zip(x, found, strict=True):
        file = io.BytesIO()
        Image.fromarray(bytes_of(image)).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file), float)
        off.append(np.abs(255 * ours.permute(1, 2, 0).numpy() - theirs))
    change = float((255 * (found - x)).abs().mean())
    print(
        f"quality {quality}, {sizes}: off by {np.mean(off):.3f} of 255, at most {np.max(off):.0f}; JPEG changes {change:.2f}"
    )
    assert np.mean(off) < min(0.6, 0.12 * change)


@pytest.mark.parametrize(("border", "truncate"), [("nearest", 4), ("reflect", 3), ("mirror", 4)])
@pytest.mark.parametrize("sigma", [0.4, 1.5, 30])
def test_gaussian_is_scipys(border: filters.Border, truncate: float, sigma: float) -> None:
    x = toy_images(1, 20)[..., :15].double()
    theirs = ndimage.gaussian_filter(x[0, 0].numpy(), sigma, mode=border, truncate=truncate)
    assert np.allclose(filters.gaussian(x, sigma, border, truncate)[0, 0].numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 4.5])
@pytest.mark.parametrize("size", [32, 64, 51])
def test_zoom_is_scipys(factor: float, size: int) -> None:
    x = toy_images(1, size)
    crop = int(np.ceil(size / factor))
    top = (size - crop) // 2
    large = np.asarray(ndimage.zoom(x[0, 0, top : top + crop, top : top + crop].numpy(), factor, order=1))
    trim = (len(large) - size) // 2
    theirs = large[trim : trim + size, trim : trim + size]
    assert np.allclose(filters.zoomed(x, factor)[0, 0].numpy(), theirs, atol=1e-4)


@pytest.mark.parametrize("border", ["reflect", "mirror"])
def test_samples_between_pixels_are_scipys(border: str) -> None:
    x = toy_images(1, 24)[..., :17]
    rows, columns = (size * (2 * torch.rand(1, 24, 17, generator=seeded(size)) - 0.5) for size in (24, 17))
    theirs = ndimage.map_coordinates(x[0, 0].numpy(), [rows[0].numpy(), columns[0].numpy()], order=1, mode=border)
    assert np.allclose(filters.sampled(x, rows, columns, border)[0, 0].numpy(), theirs, atol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("radius", [3, 8, 10])
def test_defocus_is_a_disk(radius: int) -> None:
    x = toy_images(1, 48)
    reach = max(8, radius)
    far = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    flat = (far <= radius).astype(float)
    soft = 0.5 if radius > 3 else 0.1
    smooth = ndimage.gaussian_filter(flat / flat.sum(), soft, mode="mirror", radius=1 if radius <= 8 else 2)
    theirs = ndimage.correlate(x[0, 0].numpy(), smooth.astype(np.float32), mode="mirror")
    assert np.allclose(filters.convolved(x, disk(radius, soft))[0, 0].numpy(), theirs, atol=1e-5)


def test_a_disk_at_another_size_is_no_point() -> None:
    assert disk(0.75, 0.075, 7).max() < 0.8
    assert disk(0.75, 0.075).max() == pytest.approx(1)
    assert float(disk(5.7, 0.3, 7).sum()) == pytest.approx(1, abs=1e-5)


def test_motion_blurs_along_the_angle() -> None:
    x, angles = toy_images(3, 24), torch.tensor([0.0, -45.0, 30.0])
    found = filters.motion(x, 4, 3.0, angles)
    weights = np.exp(-0.5 * (np.arange(9) / 3) ** 2)
    for image, ours, angle in zip(x.numpy(), found.numpy(), np.deg2rad(angles.numpy()), strict=True):
        total = np.zeros_like(image)
        for step, weight in enumerate(weights / weights.sum()):
            rows = np.clip(np.arange(24) + int(np.ceil(step * np.sin(angle) - 0.5)), 0, 23)
            columns = np.clip(np.arange(24) + int(np.ceil(step * np.cos(angle) - 0.5)), 0, 23)
            total += weight * image[:, rows][:, :, columns]
        assert np.allclose(ours, total, atol=1e-5)


def test_glass_copies_from_the_last_pixel_to_the_first() -> None:
    """The released code's loop on an image of pixel indices: NumPy's views turn its swap into a copy."""
    x, reach = toy_images(2, 12)[..., :10], 2
    ours = _shuffle(x, reach, Dice(x, seeded()))
    down, right = Dice(x, seeded()).integers(-reach, reach, 2, 12, 10).unbind(1)
    for one in range(2):
        theirs = np.arange(120).reshape(12, 10, 1)
        for row in range(12 - reach, reach, -1):
            for column in range(10 - reach, reach, -1):
                there = row + int(down[one, row, column]), column + int(right[one, row, column])
                theirs[row, column], theirs[there] = theirs[there], theirs[row, column]
        assert np.array_equal(ours[one].numpy(), theirs.ravel())


def test_a_relief_is_rough_at_a_slow_decay() -> None:
    x = toy_images(4, 64)
    rough, smooth = (plasma((64, 40), decay, Dice(x, seeded())) for decay in (1.2, 3.0))
    for relief in (rough, smooth):
        assert relief.shape == (4, 64, 40)
        assert relief.min() >= 0
        assert relief.max() <= 1
    assert rough.diff(dim=2).abs().mean() > 3 * smooth.diff(dim=2).abs().mean()


@pytest.mark.parametrize("text", ["classify", "segment", "depth", "detect"])
def test_corruptions_and_noise_are_attacks_on_every_task(text: str) -> None:
    task = build(text, "Task")
    system, x, target = toy_system(task), toy_images(5), toy_target(task, 5)
    natural = build("corrupt(gaussian_noise, 3)", "Attack")
    assert natural.fits(task)
    assert natural.passes == 1
    one, _ = evaluate(system, natural, build(natural.threat, "Threat"), x, target, ["i"] * 5, seeded(1))
    two, _ = evaluate(system, natural, build(natural.threat, "Threat"), x, target, ["i"] * 5, seeded(2), "bf16")
    assert np.array_equal(one["size"], two["size"])  # the same images for any generator of the cell
    assert one["size"].min() > 0.05
    assert (one["queries"] == 1).all()
    threat = build("linf(8/255)", "Threat")
    rows, _ = evaluate(system, build("noise(draws=3)", "Attack"), threat, x, target, ["i"] * 5, seeded())
    assert np.allclose(rows["size"], 8 / 255, rtol=2e-3)  # the pixel range clips a little
    assert (rows["queries"] == 3).all()


@pytest.mark.parametrize("name", ALL)
def test_precision_changes_no_image(name: str) -> None:
    x = toy_images(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = corruption(name)(x, seeded())
    assert torch.equal(found, corruption(name)(x, seeded()))


def test_a_corruption_within_a_ball_is_refused() -> None:
    task = build("classify", "Task")
    with pytest.raises(SpecError, match="fog 3 changes images by more than Linf"):
        build("corrupt(fog)", "Attack")(toy_system(task), toy_images(2), toy_target(task, 2), build("linf(8/255)", "Threat"))


def test_more_draws_of_noise_do_no_less_and_an_attack_does_more() -> None:
    task = build("classify", "Task")
    system, x = toy_system(task), toy_images(32)
    target, threat = system.output(x).argmax(1), build("linf(24/255)", "Threat")
    specs = ("noise", "noise(draws=8)", "classpgd")
    errors = [float(build(spec, "Attack")(system, x, target, threat, seeded()).error.mean()) for spec in specs]
    assert errors[0] <= errors[1] < errors[2], errors


def test_bench_shows_natural_next_to_adversarial(tmp_path: Path) -> None:
    recipe = Recipe(
        encoders=("tiny",),
        tasks=("segment",),
        data=("made(size=32, train=32, test=16)",),
        attacks=("clean", "corrupt(gaussian_noise, 3)", "corrupt(fog, 5)", "noise", "task"),
        eps=("4/255", "8/255"),
        probe="probe(epochs=1, images=32, batch=16)",
        count=8,
        chunk=4,
        audit=2,
    )
    planned = plan(recipe)
    seen = [(cell.column, cell.threat, cell.eps_text) for cell in planned.cells]
    assert seen[:4] == [
        ("clean", "linf(0)", ""),
        ("gaussian_noise 3", "rms", ""),
        ("fog 5", "rms", ""),
        ("noise", "linf(4/255)", "4/255"),
    ]
    assert len(seen) == 7
    assert [one.cell.column for one in planned.audited()] == ["task"]
    assert plan(replace(recipe, attacks=("clean", "corrupt(fog)", "noise"))).audited() == []
    stored = Bench(planned, Store(tmp_path / "store"), "cpu").run()
    assert all(cell.done for cell in stored)
    other = Bench(plan(replace(recipe, chunk=8)), Store(tmp_path / "other"), "cpu").run()
    assert np.array_equal(stored[1].rows()["size"], other[1].rows()["size"])  # for any chunk size
    table = grid(stored)
    print([(column.title, column.norm, column.eps_text) for column in table.shown])
    assert [column.title for column in table.shown][:3] == ["clean", "fog 5", "gaussian_noise 3"]
    assert [column.norm for column in table.shown][-1] == "Linf"


def test_all_corruptions_are_planned_one_by_one_and_their_mean_is_shown(tmp_path: Path) -> None:
    recipe = Recipe(
        encoders=("tiny",),
        tasks=("classify", "segment"),
        data=("made(size=32, train=32, test=16)",),
        attacks=("clean", "corruptions([2])", "noise", "task"),
        eps=("4/255",),
        probe="probe(epochs=4, images=32, batch=16)",
        count=12,
        chunk=12,
        audit=0,
    )
    planned = plan(recipe)
    for task in recipe.tasks:
        assert [cell.attack for cell in planned.cells if cell.task == task][1:-2] == [
            f"corrupt('{n}', severity=2)" for n in ALL
        ]
    table = grid(Bench(planned, Store(tmp_path), "cpu").run())
    assert [column.title for column in table.shown] == ["clean", "mean corruption", "task attack", "noise", "worst case"]
    mean = table.shown[1]
    for row in table.rows:
        singles = [row.numbers[c] for c in table.columns if c.norm == "natural" and c != mean]
        assert len(singles) == 15 and row.numbers[mean].over == tuple(row.names[c] for c in table.columns[1:16])
        assert row.numbers[mean].value == pytest.approx(np.mean([one.value for one in singles]))
        assert row.numbers[mean].low <= row.numbers[mean].value <= row.numbers[mean].high
        assert row.relative[mean] == pytest.approx(row.numbers[mean].value / row.numbers[table.shown[0]].value)
        assert set(row.numbers[table.shown[-1]].over) == {"noise", row.names[table.shown[2]]}, (
            "no corruption among the adversaries"
        )
    text = markdown(table)
    assert "mean over 15 corruptions" in text and "natural" not in text and "Any size" not in text
    assert "Linf 4/255 · n = 12 images" in text
    page = html(table)
    assert "In addition to the attacks: 15 common corruptions (not adversarial)." in page
    lines = [line for line in csv(table).splitlines() if ",classify,made,fog 2," in line]
    assert len(lines) == 3  # accuracy, top-5 accuracy, and the share of the clean one


def test_a_few_corruptions_are_shown_with_their_mean() -> None:
    """No mean is shown for a single one; of four, each is shown."""
    cells = [Stored(name, place) for place, name in enumerate(("fog", "snow", "frost", "contrast"))]
    assert [c.title for c in grid(cells[:1]).shown] == ["fog 3"]
    assert [c.title for c in grid(cells).shown] == ["contrast 3", "fog 3", "frost 3", "snow 3", "mean corruption"]


class Stored:
    """A finished cell of eight images, of which the first `hits` are classified correctly."""

    done: ClassVar = {}

    def __init__(self, name: str, hits: int) -> None:
        self.id, self.hits = f"{name:016}", hits
        self.what = {
            "encoder": "tiny", "task": "classify", "task_name": "classify", "data": "made", "attack": f"corrupt('{name}')",
            "attack_name": f"{name} 3", "column": f"{name} 3", "norm": "Any size", "eps": 1.0, "eps_text": "",
        }  # fmt: skip

    def rows(self) -> dict[str, np.ndarray]:
        hits = (np.arange(8) < self.hits).astype(int)
        ids = np.array([f"i{place}" for place in range(8)])
        return {"id": ids, "error": 1.0 - hits, "counts.hits": hits, "counts.images": np.ones(8, int)}

    def gallery(self) -> None:
        return None


def test_the_interval_of_a_mean_is_over_images_not_over_cells() -> None:
    """The same images fail in all cells, or different ones in each: only then do more cells add information."""
    metric = of("classify")
    rng = np.random.default_rng(0)

    def cell(hits: np.ndarray) -> dict[str, np.ndarray]:
        return {"hits": hits.astype(int), "images": np.ones(len(hits), int)}

    same = [cell(np.arange(200) < 100)] * 30
    other = [cell(rng.permutation(np.arange(200) < 100)) for _ in range(30)]
    widths = []
    for cells in (same, other):
        value, low, high = means(metric, cells)["accuracy"]
        assert value == 0.5
        widths.append(high - low)
    low, high = metric.interval(same[0])
    assert widths[0] == pytest.approx(high - low, rel=0.1)
    assert widths[1] < widths[0] / 4


def test_the_worst_corruption_of_each_image_is_one_call() -> None:
    task = build("classify", "Task")
    system, x = toy_system(task), toy_images(6, 16)
    y = system.output(x).argmax(1)
    every = build("corruptions([5])", "Attack")
    found = every(system, x, y, build(every.threat, "Threat"))
    single = [build(spec, "Attack")(system, x, y, build("rms", "Threat")).error for spec in every.each]
    assert torch.equal(found.error, torch.stack(single).amax(0))
    assert every.passes == 15 and (found.queries == 15).all()
    with pytest.raises(SpecError, match="at least one severity"):
        build("corruptions([])", "Attack")


def test_speed_is_printed() -> None:
    x = scenes(64, 100)
    for name in ALL:
        started = time.perf_counter()
        corruption(name)(x, seeded())
        print(f"{name} {time.perf_counter() - started:.3f} s")
