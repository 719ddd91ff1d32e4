"""Training on pictures of unlike sizes: crops come from the stored picture, the same in any process, resumed or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from hardsight.core.errors import DataError
from hardsight.core.seeds import generator
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.images import open_image
from hardsight.data.views.pictures import Cropping, Pictures, box_of, resized_box
from hardsight.data.views.plans import fading, multicrop, pair, untouched, views, weak
from hardsight.encoders.base import Card
from hardsight.specs.catalog import build
from hardsight.training.engine.decoding import Decoder, is_unlike, open_training, pictures
from hardsight.training.engine.feed import Part
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import TrainingRecipe
from tests.conftest import toy_target
from tests.fixtures.training import Killed, Noted, images_in, unlike_in
from tests.training.test_training import METHODS, begun

CPU = torch.device("cpu")
TINY = "tiny(widths=(8, 8, 8, 8))"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unlike_in(tmp_path / "imagenet")


def recipe(root: Path, **given: Any) -> TrainingRecipe:
    default = {"method": "simclr(width=16)", "epochs": 2, "batch": 4, "watch": "", "log": (), "workers": 0}
    data = f"imagenet({str(root)!r})"
    return TrainingRecipe(**{"name": "unlike", "encoder": TINY, "data": data, **default, **given})


def sized(side: int, preprocess: str = "") -> Card:
    return Card("x", "x", "x", 8, 8, 16, side, preprocess=preprocess)


def run(recipe: TrainingRecipe, folder: Path, watch: Any = None) -> bytes:
    path = train(recipe, folder, CPU, watch or Noted())
    assert path is not None
    return path.read_bytes()


def test_data_of_unlike_sizes_are_trained_on_and_a_killed_run_ends_with_the_same_bits(root: Path, tmp_path: Path) -> None:
    """Before: "all images must have one size; give size= to resize them"."""
    watch = Noted()
    whole = run(recipe(root), tmp_path / "whole", watch)
    assert any("its images differ in size; views are 64x64 pixels" in line for line in watch.lines)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(root, save=1e-9), tmp_path / "killed", CPU, Killed(4))
    assert run(recipe(root), tmp_path / "killed") == whole
    assert run(recipe(root, workers=2), tmp_path / "workers") == whole
    with pytest.raises(DataError, match="one size"):
        open_data(f"imagenet({str(root)!r})")  # only training takes the encoder's size


def test_without_a_size_pictures_are_measured_as_the_encoder_is_evaluated(root: Path) -> None:
    data, note = open_training(f"imagenet({str(root)!r})", sized(64, "evaluation(24, 32)"))
    own = open_data(f"imagenet({str(root)!r}, size=evaluation(24, 32))")
    assert data.card.size == (24, 24) and "views are 24x24 pixels" in note
    assert torch.equal(data.split("train").sample(3).image, own.split("train").sample(3).image)


def test_crops_reach_what_a_centre_cut_loses(tmp_path: Path) -> None:
    """Pictures of 200x20 and 160x20, red on the left 60 columns; a centre cut to 20x20 sees none of them."""
    for place, wide in enumerate((200, 160)):
        pixels = np.zeros((20, wide, 3), dtype=np.uint8)
        pixels[:, :60, 0] = 255
        (tmp_path / "train" / "ab"[place]).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / "ab"[place] / "x.png")
    part = Part(open_data(f"folder({str(tmp_path)!r}, size=20)").split("train"), range(2))
    assert is_unlike(part) and not part.sample(0).image.any()
    view = views(1, scale=(0.05, 0.1), jitter=0.0, grey=0.0, exact=True)
    red = []
    for batch in range(50):
        (sample,) = pictures(Decoder(part, (20, 20), 0), [(batch, [0, 1])], CPU, 0)
        (x,) = view(sample.x, When(generator(batch)))
        assert x.shape == (2, 3, 20, 20) and not x[:, 1:].any() and sample.target["label"].tolist() == [0, 1]
        red += x[:, 0].mean((1, 2)).tolist()
    assert np.mean(red) == pytest.approx((60 / 200 + 60 / 160) / 2, abs=0.1)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("shape", [(40, 30), (200, 16), (9, 90)])
def test_boxes_lie_in_the_picture_and_have_torchvisions_distribution(exact: bool, shape: tuple[int, int]) -> None:
    how = Cropping((8, 8), (0.2, 0.9), (3 / 4, 4 / 3), True, exact)
    boxes = [box_of(*shape, how, "test", n) for n in range(400)]
    assert all(0 <= b.top <= b.top + b.high <= shape[0] and 0 <= b.left <= b.left + b.wide <= shape[1] for b in boxes)
    assert 150 < sum(b.flips for b in boxes) < 250 and len(set(boxes)) > (1 if exact and shape[0] != 40 else 300)
    if exact:
        torch.manual_seed(0)
        like = torch.zeros(3, *shape)
        theirs = [RandomResizedCrop.get_params(like, list(how.scale), list(how.ratio)) for _ in range(400)]
        one, other = torch.tensor([b[:4] for b in boxes]).double(), torch.tensor(theirs).double()
        assert torch.allclose(one.mean(0), other.mean(0), atol=0.06 * max(shape))
        assert torch.allclose(one.std(0), other.std(0), atol=0.06 * max(shape))


def test_a_box_is_resized_as_torchvision_and_pillow_do_within_one_level(root: Path) -> None:
    path = next((root / "train").rglob("*.JPEG"))
    image = open_image(path)
    for n in range(20):
        box = box_of(*image.shape[:2], Cropping((16, 16), (0.1, 1.0), (0.75, 4 / 3), True, True), n)
        theirs = TF.resized_crop(Image.fromarray(image), box.top, box.left, box.high, box.wide, [16, 16])
        theirs = TF.hflip(theirs) if box.flips else theirs
        gap = resized_box(torch.from_numpy(image), box, (16, 16)).int() - TF.pil_to_tensor(theirs).int()
        assert int(gap.abs().max()) <= 1


PLANS = {
    "views": views(2, blur=0.5, solarise=0.5),
    "fading": fading(views(2, exact=True)),
    "multicrop": multicrop(2, 3, sizes=(16, 8)),
    "pair": pair(views(1, size=12), weak(1)),
    "untouched": untouched(2),
}


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_of_views_is_the_same_ahead_and_on_demand_in_any_number_of_processes(plan: str, root: Path) -> None:
    data, _ = open_training(f"imagenet({str(root)!r})", sized(24))
    part = Part(data.split("train"), range(12))
    found = {}
    for workers in (0, 2):
        ahead = []
        for n, sample in enumerate(pictures(Decoder(part, (24, 24), 3), [(n, [n, n + 4]) for n in range(5)], CPU, workers)):
            assert isinstance(sample.x, Pictures) and sample.places.tolist() == [n, n + 4]
            ahead.append(len(sample.x.found))
            found.setdefault(workers, []).append(PLANS[plan](sample.x, When(generator("views", n))))
            assert len(sample.x.found) == len(sample.x.asked)
        assert ahead[0] == 0 and all(ahead[1:])  # each decoder is a new one
    for one, other in zip(*found.values(), strict=True):
        assert len(one) == PLANS[plan].count and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(float(view.min()) >= 0 and float(view.max()) <= 1 for view in found[0][0])
    assert len({tuple(view.shape[1:]) for view in found[0][0]} & {(3, 24, 24), (3, 16, 16), (3, 12, 12)}) >= 1
    if plan == "untouched":
        assert torch.equal(found[0][0][0][1], part.sample(4).image / 255)


def test_two_processes_cut_what_one_cuts(root: Path) -> None:
    """Each has its share of a batch; a crop does not depend on which other pictures are cut with it."""
    data, _ = open_training(f"imagenet({str(root)!r})", sized(24))
    decoder = Decoder(Part(data.split("train"), range(12)), (24, 24), 0)
    how = Cropping((24, 24), (0.2, 1.0), (0.75, 4 / 3), True, True)
    shares = ([0, 5, 2, 7], [0, 5], [2, 7])
    whole, one, two = (next(pictures(decoder, [(9, share)], CPU, 0)).x.crops(how, 2) for share in shares)
    assert torch.equal(whole, torch.cat([half for pair in zip(one.chunk(2), two.chunk(2), strict=True) for half in pair]))
    other = next(pictures(decoder, [(8, shares[0])], CPU, 0)).x.crops(how, 2)
    assert not torch.equal(other, whole) and not torch.equal(*whole.chunk(2))


def test_a_picture_that_cannot_be_read_stops_the_run_when_it_is_due_and_is_named(root: Path) -> None:
    data, _ = open_training(f"imagenet({str(root)!r})", sized(24))
    part = Part(data.split("train"), range(12))
    broken = root / "train" / part.images.ids[9].removeprefix("train/")  # type: ignore[attr-defined]
    broken.write_bytes(broken.read_bytes()[:200])
    samples = pictures(Decoder(part, (24, 24), 0), [(n, [3 * n]) for n in range(4)], CPU, 1)
    for place in (0, 3, 6):
        sample = next(samples)
        views(1)(sample.x, When(generator(0)))
        assert sample.places.tolist() == [place]
    with pytest.raises(DataError, match=f"{broken.name} can.t be opened: Truncated") as error:
        next(samples)
    assert "\n" not in str(error.value)


def test_a_worker_that_is_killed_is_told_in_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = open_training(f"imagenet({str(root)!r})", sized(24))
    decoder, here = Decoder(Part(data.split("train"), range(12)), (24, 24), 0), os.getpid()
    real = decoder.cut
    monkeypatch.setattr(
        decoder, "cut", lambda job, threads=False: real(job, threads) if os.getpid() == here else os._exit(9)
    )
    samples = pictures(decoder, [(n, [n]) for n in range(4)], CPU, 1)
    views(1)(next(samples).x, When(generator(0)))
    with pytest.raises(DataError, match="has ended: it may lack memory.*give --set workers=0") as error:
        next(samples)
    assert "\n" not in str(error.value)


def test_images_of_one_size_are_cached_and_cropped_as_before(tmp_path: Path) -> None:
    data = images_in(tmp_path)
    for spec in (data, data.replace(")", ", size=16)"), data.replace(")", ", size=8)")):
        opened, note = open_training(spec, sized(64))
        assert not note and not is_unlike(Part(opened.split("train"), range(36)))
    given = f"imagenet({str(unlike_in(tmp_path / 'net'))!r}, size=24)"
    unlike = Part(open_training(given, sized(64))[0].split("train"), range(12))
    assert is_unlike(unlike) and unlike.sample(0).image.shape == (3, 24, 24)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_pictures(name: str, root: Path) -> None:
    data, _ = open_training(f"imagenet({str(root)!r})", sized(32))
    learner = begun(name)
    decoder = Decoder(Part(data.split("train"), range(12)), (32, 32), 0)
    (one,), (two,) = (list(pictures(decoder, [(5, list(range(8)))], CPU, 0)) for _ in range(2))
    target = {"label": toy_target(build("classify", "Task"), 8)}
    step = learner(one._replace(target=target), When(generator("step"), 0, 10))
    assert bool(torch.isfinite(step.loss)) and len(one.x) == 8 and not two.x.asked
