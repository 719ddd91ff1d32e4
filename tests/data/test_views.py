"""Views compared with torchvision: pixel by pixel for given parameters, and in distribution for random parameters.

A distribution test draws `EACH` views of each of `IMAGES` synthetic scenes with both libraries and compares the means of 45
statistics of a view (moments, histograms, sharpness, share of grey) in units of their standard error within images. By
chance about one in 350 such tests exceeds `LIMIT` standard errors; each is repeated with a wrong parameter, which must fail.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2 as tv
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.data.views import View
from hardsight.data.views import colour as colours
from hardsight.data.views.geometry import Crop, any_crop, cut, pixel_crop
from hardsight.specs.catalog import build, entries

IMAGES, EACH, LIMIT = 48, 48, 4.0
PLANS = sorted(name for name, entry in entries().items() if entry.kind == "Views" and name != "pair")
MORE = [
    "pair(views(1, blur=1.0), views(1, hue=0.1, solarise=0.5, prob=0.5))",
    "views(3, size=12, exact=True, hue=0.5)",
    "views(1, size=40, blur=0.5)",
    "fading(pair(weak, random_crops(2, exact=False)), constant(0.5))",
]
ALL = [*PLANS, *MORE]


@functools.cache
def scenes(count: int = IMAGES, size: int = 32) -> Tensor:
    return pixels(load(open_data(f"made(size={size}, train={count})").split("train"), range(count)).images, "cpu")


def at(seed: int = 0, **place: int) -> When:
    return When(torch.Generator().manual_seed(seed), **place)


# Pixel by pixel

STEPS = {
    "brightness": (lambda x: colours.brightened(x.flatten(2), number(1.2)), lambda x: TF.adjust_brightness(x, 1.2)),
    "contrast": (lambda x: colours.contrasted(x.flatten(2), number(0.7)), lambda x: TF.adjust_contrast(x, 0.7)),
    "saturation": (lambda x: colours.saturated(x.flatten(2), number(0.5)), lambda x: TF.adjust_saturation(x, 0.5)),
    "hue": (lambda x: colours.turned(x.flatten(2), number(0.2)), lambda x: TF.adjust_hue(x, 0.2)),
    "hue back": (lambda x: colours.turned(x.flatten(2), number(-0.37)), lambda x: TF.adjust_hue(x, -0.37)),
    "grey": (lambda x: colours.drained(x.flatten(2), number(1) > 0), lambda x: TF.rgb_to_grayscale(x, 3)),
    "solarise": (lambda x: colours.solarised(x, number(1) > 0, 0.5), lambda x: TF.solarize(x, 0.5)),
    "blur 3": (
        lambda x: colours.blurred(x, number(1) > 0, number(1.0), 3),
        lambda x: TF.gaussian_blur(x, [3, 3], [1.0, 1.0]),
    ),
    "blur 23": (
        lambda x: colours.blurred(x, number(1) > 0, number(1.7), 23),
        lambda x: TF.gaussian_blur(x, [23, 23], [1.7, 1.7]),
    ),
    "flip": (lambda x: cut(x, Crop(number(0), number(0), -number(1), number(1)), (32, 32), True), TF.horizontal_flip),
}


def number(value: float) -> Tensor:
    return torch.full((IMAGES,), float(value))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_with_its_number_given_is_torchvisions(step: str) -> None:
    ours, theirs = STEPS[step]
    x = scenes()
    found, wanted = ours(x).view(x.shape), torch.stack([theirs(one) for one in x])
    assert torch.allclose(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(x, wanted, atol=1e-2)


@pytest.mark.parametrize("size", [(32, 40), (48, 48), (16, 16), (20, 56)])
@pytest.mark.parametrize("mirror", [1, -1])
def test_a_crop_with_its_place_given_is_torchvisions(size: tuple[int, int], mirror: int) -> None:
    height, width = 32, 40
    x = torch.rand(5, 3, height, width, generator=torch.Generator().manual_seed(0))
    boxes = [(0, 0, 32, 40), (3, 5, 7, 9), (1, 2, 31, 35), (31, 39, 1, 1), (2, 0, 16, 20)]
    top, left, high, wide = torch.tensor(boxes, dtype=torch.float32).T
    crop = Crop((2 * left + wide) / width - 1, (2 * top + high) / height - 1, mirror * wide / width, high / height)
    wanted = torch.stack([TF.resized_crop(one, *box, list(size), antialias=True) for one, box in zip(x, boxes, strict=True)])
    assert torch.allclose(cut(x, crop, size, fenced=True), wanted.flip(3) if mirror < 0 else wanted, atol=1e-5, rtol=0)


def test_the_colours_made_at_once_are_the_steps_one_by_one() -> None:
    """If nothing is clamped; torchvision's grey weights sum to 0.9999, hence the tolerance."""
    x = 0.35 + 0.3 * scenes()
    one, two, three = factors = [at(seed).uniform(IMAGES, 0.8, 1.2) for seed in range(3)]
    drained = at(3).uniform(IMAGES) < 0.3
    still = colours.Colours(one, two, three, torch.zeros(IMAGES), drained, torch.zeros(IMAGES, 4))
    found = colours.at_once(x.flatten(2), still).view(x.shape)
    wanted = []
    for one, bright, contrast, saturation, without in zip(x, *factors, drained, strict=True):
        one = TF.adjust_contrast(TF.adjust_brightness(one, float(bright)), float(contrast))
        wanted.append(TF.rgb_to_grayscale(one, 3) if without else TF.adjust_saturation(one, float(saturation)))
    assert torch.allclose(found, torch.stack(wanted), atol=2e-4, rtol=0)


def test_a_turn_in_yiq_keeps_luma_and_can_be_undone() -> None:
    x = 0.4 + 0.2 * scenes()
    ones, none = number(1), number(0) > 0
    there, back = (colours.Colours(ones, ones, ones, number(share), none, number(0)) for share in (0.3, -0.3))
    turned = colours.at_once(x.flatten(2), there)
    luma = torch.tensor(colours.GREY) @ x.flatten(2)
    assert torch.allclose(torch.tensor(colours.GREY) @ turned, luma, atol=1e-3)
    assert not torch.allclose(turned, x.flatten(2), atol=0.02)
    assert torch.allclose(colours.at_once(turned, back), x.flatten(2), atol=1e-5)


def plainly(x: Tensor, view: View, when: When) -> Tensor:
    """The original implementation of `View`, one step at a time; the recipes' results were produced with it."""
    count, (low, high) = len(x), view.scale
    area = when.uniform(count, low, high)
    ratio = when.uniform(count, math.log(3 / 4), math.log(4 / 3)).exp()
    wide, tall = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 2], theta[:, 1, 2] = when.uniform(count, -1, 1) * (1 - wide), when.uniform(count, -1, 1) * (1 - tall)
    theta[:, 0, 0], theta[:, 1, 1] = wide * torch.where(when.uniform(count) < 0.5, -1.0, 1.0), tall
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    bright, contrast, saturation = (when.uniform(count, 0.6, 1.4).view(-1, 1, 1, 1) for _ in range(3))
    weights = torch.tensor(colours.GREY).view(1, 3, 1, 1)
    x = x * bright
    mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = mean + (x - mean) * contrast
    if view.hue:
        x = torch.einsum("bij,bjhw->bihw", colours._turn(when.uniform(count, -view.hue, view.hue)), x)
    grey = (x * weights).sum(1, keepdim=True)
    drained = (when.uniform(count) < view.grey).view(-1, 1, 1, 1)
    return torch.where(drained, grey.expand_as(x), grey + (x - grey) * saturation).clamp(0, 1)


@pytest.mark.parametrize("view", [View(), View(hue=0.1), View(scale=(0.3, 1.0), hue=0.5, grey=0.3)])
def test_the_recipes_views_stay_as_they_were(view: View) -> None:
    found, first = view(scenes(), at(5)), plainly(scenes(), view, at(5))
    assert (found - first).abs().max() < 1e-6
    assert (view(scenes(), at(6)) - first).abs().max() > 0.1


# In distribution


def figures(views: Tensor, x: Tensor) -> Tensor:
    """45 statistics of each view: [IMAGES, EACH, 3, H, W] -> [IMAGES, EACH, 45]."""
    flat, light = views.flatten(3), views.mean(2)
    span = (views.amax(2) - views.amin(2)).flatten(2)
    whole = [flat.flatten(2).mean(2), flat.flatten(2).var(2), span.mean(2), (span.amax(2) < 2e-3).float()]
    sharp = [light.diff(dim=place).abs().flatten(2).mean(2) for place in (2, 3)]
    moved = (views - x[:, None]).abs().flatten(3).mean(3)
    tint, first = (one - one.mean(-3, keepdim=True) for one in (views, x[:, None]))
    gain = tint.flatten(2).norm(dim=2) / first.flatten(2).norm(dim=2)
    tints = [gain, (gain - 1).square(), F.cosine_similarity(tint.flatten(2), first.flatten(2), dim=2)]
    edges = torch.linspace(0, 1, 8)
    bins = [((flat >= low) & (flat < high)).float().mean(3) for low, high in itertools.pairwise(edges.tolist())]
    ends = [(flat <= 1e-6).float().mean(3), (flat >= 1 - 1e-6).float().mean(3)]
    return torch.cat([flat.mean(3), flat.var(3), moved, *bins, *ends, torch.stack([*whole, *sharp, *tints], 2)], 2)


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of the mean statistics, in standard errors."""
    error = ((ours.var(1) + theirs.var(1)).mean(0) / (IMAGES * EACH)).sqrt()
    return float(((ours.mean((0, 1)) - theirs.mean((0, 1))).abs() / error.clamp_min(1e-6)).max())


@functools.cache
def theirs(what: str) -> Tensor:
    """Statistics of torchvision's transforms, applied image by image; CF-AMC-SSL's whole pipeline, or its colours only."""
    jitter = tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.2)], 0.8)
    crop = [tv.RandomResizedCrop(32, scale=(0.08, 1), antialias=True), tv.RandomHorizontalFlip()]
    blur = [tv.RandomApply([tv.GaussianBlur(23, (0.1, 2.0))], 0.1), tv.RandomSolarize(0.5, 0.1)]
    change = tv.Compose([*crop, jitter, tv.RandomGrayscale(0.2), *blur] if what == "whole" else [jitter])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return figures(torch.stack([torch.stack([change(one) for _ in range(EACH)]) for one in scenes()]), scenes())


def our_figures(what: str, seed: int, **changed: Any) -> Tensor:
    colours_alone: dict[str, Any] = {"scale": (1.0, 1.0), "flip": False, "grey": 0.0, "blur": 0.0, "solarise": 0.0}
    view = dict(scale=(0.08, 1.0), hue=0.2, prob=0.8, grey=0.2, blur=0.1, solarise=0.1, exact=True)
    plan = View(**{**view, **(colours_alone if what == "colours" else {}), **changed})
    found = plan(scenes().repeat_interleave(EACH, 0), at(seed))
    return figures(found.view(IMAGES, EACH, *found.shape[1:]), scenes())


@pytest.mark.parametrize("what", ["whole", "colours"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_views_are_distributed_as_torchvisions(what: str, seed: int) -> None:
    assert figures(scenes()[:, None], scenes()).shape[2] == 45
    assert apart(our_figures(what, seed), theirs(what)) < LIMIT


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("whole", {"exact": False}),
    ("whole", {"scale": (0.3, 1.0)}),
    ("whole", {"ratio": (0.4, 2.5)}),
    ("whole", {"jitter": 0.6}),
    ("whole", {"grey": 0.35}),
    ("whole", {"blur": 0.4}),
    ("whole", {"solarise": 0.25}),
    ("colours", {"jitter": (0.5, 0.4, 0.4)}),
    ("colours", {"jitter": (0.4, 0.6, 0.4)}),
    ("colours", {"jitter": (0.4, 0.4, 0.6)}),
    ("colours", {"hue": 0.1}),
    ("colours", {"prob": 0.6}),
    ("colours", {"flip": True}),
    ("colours", {"exact": False}),
]


@pytest.mark.parametrize(("what", "changed"), WRONG)
@pytest.mark.slow
def test_views_with_a_wrong_parameter_differ_from_torchvisions(what: str, changed: dict[str, Any]) -> None:
    assert apart(our_figures(what, 0, **changed), theirs(what)) > LIMIT


def test_crops_are_distributed_as_torchvisions() -> None:
    """Kolmogorov-Smirnov test at p = 0.001 of area, aspect ratio and position, on 4000 crops of a non-square image."""
    count, height, width = 4000, 24, 40
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = tv.RandomResizedCrop(32, scale=(0.2, 1.0))
        drawn = [chosen.make_params([torch.zeros(3, height, width)]) for _ in range(count)]
    top, left, high, wide = (torch.tensor([one[key] for one in drawn]) for key in ("top", "left", "height", "width"))
    wanted = [wide * high / (height * width), wide / high, (left + wide / 2) / width, (top + high / 2) / height]

    def gaps(crop: Crop) -> list[float]:
        found = [crop.wide * crop.high, crop.wide * width / (crop.high * height), (crop.across + 1) / 2, (crop.down + 1) / 2]
        return [distance(one.double(), other.double()) for one, other in zip(found, wanted, strict=True)]

    limit = 1.95 * (2 / count) ** 0.5
    assert max(gaps(pixel_crop(count, (0.2, 1.0), (3 / 4, 4 / 3), height, width, at()))) < limit
    assert gaps(pixel_crop(count, (0.25, 1.0), (3 / 4, 4 / 3), height, width, at()))[0] > limit
    assert gaps(pixel_crop(count, (0.2, 1.0), (2 / 3, 3 / 2), height, width, at()))[1] > limit
    assert max(gaps(any_crop(count, (0.2, 1.0), (3 / 4, 4 / 3), width / height, at()))) > limit


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference between the empirical distribution functions of two samples."""
    values = torch.cat([one, other]).add(1e-6)
    low, high = (torch.searchsorted(sample.sort()[0], values, right=True) / len(sample) for sample in (one, other))
    return float((low - high).abs().max())


def test_a_crop_that_never_fits_is_the_middle() -> None:
    for height, width in ((24, 24), (16, 40), (40, 16)):
        params = tv.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.1, 1.2)).make_params([torch.zeros(3, height, width)])
        crop = pixel_crop(3, (1.0, 1.0), (1.1, 1.2), height, width, at())
        assert crop.wide.mul(width).tolist() == pytest.approx([params["width"]] * 3)
        assert crop.high.mul(height).tolist() == pytest.approx([params["height"]] * 3)
        assert crop.across.tolist() == pytest.approx([(2 * params["left"] + params["width"]) / width - 1] * 3, abs=1e-6)


SHARES = {
    "flip": (View(scale=(1.0, 1.0), jitter=0.0, grey=0.0, exact=True), 0.5),
    "grey": (View(scale=(1.0, 1.0), jitter=0.0, grey=0.2, flip=False, exact=True), 0.2),
    "blur": (View(scale=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False, blur=0.3, sigma=(1, 2), exact=True), 0.3),
    "solarise": (View(scale=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False, solarise=0.4, exact=True), 0.4),
    "prob": (View(scale=(1.0, 1.0), prob=0.7, grey=0.0, flip=False, exact=True), 0.7),
}


@pytest.mark.parametrize("name", SHARES)
def test_shares_are_kept_and_the_other_views_are_the_image(name: str) -> None:
    """Within four standard errors over 2000 views, at most 0.045; a probability one third larger is not."""
    view, share = SHARES[name]
    x = scenes()[:1].expand(2000, -1, -1, -1)
    changed = float(((view(x, at()) - x).abs().amax((1, 2, 3)) > 1e-3).float().mean())
    error = (share * (1 - share) / 2000) ** 0.5
    assert abs(changed - share) < 4 * error < abs(changed - 4 / 3 * share)


# Rules for every plan


@pytest.mark.parametrize("spec", ALL)
def test_plans_keep_to_their_count_and_to_the_pixel_box(spec: str) -> None:
    plan = build(spec, "Views")
    x = scenes()[:6]
    found, again = plan(x, at(1)), plan(x, at(1))
    assert len(found) == plan.count
    for one, other in zip(found, again, strict=True):
        assert one.shape[:2] == (6, 3) and one.dtype == torch.float32
        assert one.min() >= -1e-6 and one.max() <= 1 + 1e-6
        assert torch.equal(one, other)
    assert spec == "untouched" or not torch.equal(found[0], plan(x, at(2))[0])


@pytest.mark.parametrize("spec", ALL)
def test_two_processes_draw_what_one_would(spec: str) -> None:
    plan, x = build(spec, "Views"), scenes()[:6]
    whole = plan(x, at(1))
    shares = [plan(half, at(1, rank=rank, world=2)) for rank, half in enumerate(x.chunk(2))]
    for one, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.allclose(one, torch.cat(parts), atol=1e-6)


@pytest.mark.parametrize("spec", ALL)
def test_a_clip_moves_as_one_image_does(spec: str) -> None:
    plan, x = build(spec, "Views"), scenes()[:4]
    for clip, image in zip(plan(x[:, :, None].expand(-1, -1, 3, -1, -1), at(1)), plan(x, at(1)), strict=True):
        assert clip.shape[:3] == (4, 3, 3)
        assert all(torch.allclose(clip[:, :, frame], image, atol=1e-5) for frame in range(3))


@pytest.mark.parametrize("view", [View(jitter=0.1, hue=0.05), View(jitter=0.1, hue=0.05, blur=0.5, exact=True, size=5)])
def test_views_pass_gradients_to_the_image(view: View) -> None:
    x = (0.3 + 0.4 * torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: view(x, at(3)), (x,), eps=1e-7, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("exact", [False, True])
def test_autocast_does_not_round_pixels(exact: bool) -> None:
    view = View(hue=0.1, blur=0.5, exact=exact, size=20)
    with torch.autocast("cpu", torch.bfloat16):
        found = view(scenes(), at())
    assert torch.equal(found, view(scenes(), at()))


def test_what_is_off_draws_no_numbers() -> None:
    """So that a new option does not change runs that do not use it."""
    when = at()
    View()(scenes(), when)
    used = 9 * IMAGES
    assert torch.equal(when.uniform(4), at().uniform(used + 4)[used:])


# Plans


def test_patches_are_of_one_size_and_square() -> None:
    kind = build("patches(3, area=0.25)", "Views").kinds[0]
    crop = kind.draw(50, 32, 32, at()).crop
    assert set((crop.wide.abs() * 32).tolist()) == set((crop.high * 32).tolist()) == {16.0}
    assert kind == build("patches", "Views").kinds[0]
    assert (kind.jitters, kind.hue, kind.prob, kind.grey, kind.blur, kind.solarise) == ((0.4,) * 3, 0.2, 0.8, 0.2, 0.1, 0.1)


def test_a_pair_has_two_kinds_in_order() -> None:
    plan = build(
        "pair(untouched, views(2, solarise=1.0, scale=[1.0, 1.0], ratio=[1.0, 1.0], jitter=0.0, grey=0.0, flip=False))"
    )
    first, second, third = plan(scenes(), at())
    assert torch.equal(first, scenes())
    assert torch.allclose(second, TF.solarize(scenes(), 0.5), atol=1e-5)
    assert torch.equal(second, third)


def test_multicrop_has_its_large_views_first() -> None:
    plan = build("multicrop(2, 3, sizes=[24, 12])", "Views")
    assert [view.shape[-1] for view in plan(scenes(), at())] == [24, 24, 12, 12, 12]
    large, other, small = plan.kinds[:3]
    assert (large.scale, small.scale) == ((0.4, 1.0), (0.05, 0.4))
    assert [(kind.blur, kind.solarise) for kind in (large, other, small)] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    assert build("multicrop(1, 0)", "Views").count == 1


def test_fading_views_are_dynacls() -> None:
    """Jitter 0.4 s with probability 0.8 s, grey 0.2 s, crops from 1 - 0.9 s; s decreases in 20 steps over the run."""
    plan = build("fading", "Views")
    half = plan.views.at(0.5).kinds[0]
    assert half.scale == pytest.approx((0.55, 1.0))
    assert (*half.jitters, half.hue, half.prob, half.grey) == pytest.approx((0.2, 0.2, 0.2, 0.05, 0.4, 0.1))
    early, late = at(0, epoch=49, epochs=1000), at(0, epoch=500, epochs=1000)
    assert torch.equal(plan(scenes(), early)[0], plan.views(scenes(), at())[0])
    assert torch.equal(plan(scenes(), late)[0], plan.views.at(0.5)(scenes(), at())[0])


@pytest.mark.parametrize("inner", ["views", "random_crops", "patches(1)", "weak", "multicrop(1, 0)", "pair(weak, views(1))"])
def test_views_faded_to_nothing_are_the_image(inner: str) -> None:
    x = scenes()
    for view in build(f"fading({inner}, constant(0.0))", "Views")(x, at()):
        gap = torch.minimum((view - x).abs().amax((1, 2, 3)), (view - x.flip(3)).abs().amax((1, 2, 3)))
        assert gap.max() < 1e-5


def test_weak_views_are_torchvisions() -> None:
    x = torch.arange(1, 2 * 3 * 8 * 8 + 1, dtype=torch.float32).view(2, 3, 8, 8).repeat(300, 1, 1, 1)
    (found,) = build("weak(padding=2)", "Views")(x, at())
    padded = F.pad(x, (2, 2, 2, 2))
    places = [(top, left, mirror) for top in range(5) for left in range(5) for mirror in (False, True)]
    moved = [TF.crop(padded, top, left, 8, 8) for top, left, _ in places]
    options = torch.stack([one.flip(3) if place[2] else one for one, place in zip(moved, places, strict=True)], 1)
    same = (options == found[:, None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    expected = 600 / 50
    assert float(((same.sum(0) - expected) ** 2 / expected).sum()) < 85, "chi square of 49 degrees, p = 0.001"


def test_untouched_views_are_the_image() -> None:
    assert all(view is scenes() for view in build("untouched(2)", "Views")(scenes(), at()))


BAD = {
    "views(0)": "views: count is 0",
    "views(scale=[0.0, 1.0])": "scale is",
    "views(scale=[0.5, 0.2])": "scale is",
    "views(ratio=[2.0, 1.0])": "ratio is",
    "views(jitter=-0.1)": "jitter is",
    "views(hue=0.6)": "hue is 0.6",
    "views(grey=1.2)": "grey is 1.2",
    "views(blur=-1.0)": "blur is -1.0",
    "views(sigma=[0.0, 1.0])": "sigma is",
    "views(size=-1)": "size is -1",
    "patches(area=2.0)": "scale is",
    "multicrop(0)": "0 global and 6 local",
    "weak(padding=-1)": "padding is -1",
    "views(jitter=[0.4, 0.4])": "'jitter' should be",
}


@pytest.mark.parametrize("spec", BAD)
def test_views_that_cannot_be_meant(spec: str) -> None:
    with pytest.raises(SpecError, match=BAD[spec].replace("(", r"\(")):
        build(spec, "Views")


def test_fading_refuses_what_it_cannot_weaken() -> None:
    with pytest.raises(SpecError, match=r"strength of views is 1\.5 at step 0"):
        build("fading(strength=constant(1.5))", "Views")(scenes(), at())
    with pytest.raises(SpecError, match="Fading has no strength"):
        build("fading(fading)", "Views")(scenes(), at())
